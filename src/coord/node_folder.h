// The folder that a node keeps on disk: its lock, which process and guardian hold together, and its
// identity.
#pragma once

#include <chrono>
#include <string>

namespace cluster::coord {

class NodeFolder {
 public:
  /// Makes the folder where it is missing and locks it. While a guardian of a node that died still
  /// cleans up there, waits up to `patience`. Throws Error{node_already_present} when a living
  /// process uses it (with its pid and since when), Error{timeout}, Error{system}.
  NodeFolder(const std::string& path, std::chrono::milliseconds patience);
  ~NodeFolder();
  NodeFolder(const NodeFolder&) = delete;
  NodeFolder& operator=(const NodeFolder&) = delete;

  const std::string& path() const noexcept { return path_; }
  /// An id that a copy of the folder does not have: random, with the folder's device and inode.
  const std::string& id() const noexcept { return id_; }
  /// The locked descriptor: a child that inherits it holds the lock too.
  int lock_fd() const noexcept { return lock_fd_; }

 private:
  std::string path_;
  std::string id_;
  int lock_fd_ = -1;
};

/// $STATE_DIRECTORY, or the user's state folder, or /var/lib/cpp-cluster for root; with
/// `<platform>/<node>` below.
std::string default_node_folder(const std::string& platform, const std::string& node);

}  // namespace cluster::coord
