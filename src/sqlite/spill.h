// Bytes of a file on its way, written once and read in pieces: in memory while they are few, then
// in a file without a name, which goes with the process. For one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/unique_fd.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

class Spill {
 public:
  static constexpr std::size_t kMemory = std::size_t{4} * 1024 * 1024;

  /// `folder`: where the file is made when there are more than `memory` bytes.
  explicit Spill(std::string folder, std::size_t memory = kMemory)
      : folder_(std::move(folder)), memory_limit_(memory) {}

  /// Throws Error{system}, for a full disk above all; what was appended before stays.
  void append(std::string_view bytes);
  std::uint64_t size() const noexcept { return size_; }
  /// Up to `most` bytes from `offset` on. Throws Error{system}.
  std::string read(std::uint64_t offset, std::size_t most) const;
  /// Reads all from the beginning; this object must outlive it.
  ByteSource source() const;

 private:
  std::string folder_;
  std::size_t memory_limit_;
  std::string memory_;
  UniqueFd file_;  // then `memory_` is what is not in it yet, or nothing
  std::uint64_t size_ = 0;
};

}  // namespace cluster::sqlite
