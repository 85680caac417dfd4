// The bytes of a file that is being sent in pieces while it is written: a queue, in memory as long
// as little waits in it, else in a nameless file. For one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "sqlite/spill.h"

namespace cluster::sqlite {

class Outgoing {
 public:
  static constexpr std::size_t kMemory = std::size_t{16} * 1024 * 1024;

  /// `piece`: bytes, at least 1. `folder`: where the file is made.
  Outgoing(std::string folder, std::size_t piece)
      : folder_(std::move(folder)), piece_(piece), rest_(folder_, 0) {}

  /// Throws Error{system}, for a full disk above all.
  void append(std::string_view bytes);
  /// Takes the oldest bytes: a piece, or all where there are fewer; never more than `most`, and
  /// after a smaller `most` the rest of a piece. Throws Error{system}.
  std::string take(std::size_t most);
  /// Bytes that were not taken yet.
  std::uint64_t size() const noexcept { return in_memory_ + rest_.size() - rest_taken_; }

 private:
  const std::string folder_;
  const std::size_t piece_;
  std::deque<std::string> pieces_;  // only the first and the last may be shorter than a piece
  std::size_t in_memory_ = 0;
  Spill rest_;  // behind pieces_, once there were many
  std::uint64_t rest_taken_ = 0;
};

}  // namespace cluster::sqlite
