// A file system of a few megabytes, in memory, for tests of full disks. Needs root.
#pragma once

#include <cstdint>
#include <string>

namespace cluster::e2e {

/// Seen by this thread and by the processes that it starts, and gone when the last of them is.
class SmallDisk {
 public:
  /// Why this machine or user can't have one; empty: nothing is in the way.
  static std::string missing();

  /// Mounts it at the folder, which it makes.
  SmallDisk(const std::string& folder, std::uint64_t bytes);
  ~SmallDisk();
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  /// Leaves no byte free.
  void fill() const;
  void make_room() const;
  /// Nothing can be written while it is; only when no process has a file of it open to write.
  void set_read_only(bool read_only) const;

 private:
  std::string folder_;
};

}  // namespace cluster::e2e
