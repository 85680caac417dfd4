#include "sqlite/outgoing.h"

#include <algorithm>

namespace cluster::sqlite {

void Outgoing::append(std::string_view bytes) {
  if (rest_.size() > 0 || in_memory_ + bytes.size() > kMemory) return rest_.append(bytes);
  in_memory_ += bytes.size();
  while (!bytes.empty()) {
    if (pieces_.empty() || pieces_.back().size() == piece_) {
      pieces_.emplace_back();
      // Where one was filled, the next will be.
      if (in_memory_ > piece_) pieces_.back().reserve(piece_);
    }
    auto& last = pieces_.back();
    const auto fits = bytes.substr(0, piece_ - last.size());
    last += fits;
    bytes.remove_prefix(fits.size());
  }
}

std::string Outgoing::take(std::size_t most) {
  most = std::min(most, piece_);
  if (!pieces_.empty() && pieces_.front().size() > most) {
    std::string bytes = pieces_.front().substr(0, most);
    pieces_.front().erase(0, most);
    in_memory_ -= most;
    return bytes;
  }
  // Reading may fail: then nothing has been taken.
  const std::size_t first = pieces_.empty() ? 0 : pieces_.front().size();
  std::string more;
  if (first < most && rest_.size() > 0 && pieces_.size() <= 1)
    more = rest_.read(rest_taken_, most - first);
  std::string bytes;
  if (!pieces_.empty()) {
    bytes = std::move(pieces_.front());
    pieces_.pop_front();
    in_memory_ -= bytes.size();
  }
  if (more.empty()) return bytes;
  rest_taken_ += more.size();
  if (rest_taken_ == rest_.size()) {
    // What comes now goes through memory again.
    rest_ = Spill(folder_, 0);
    rest_taken_ = 0;
  }
  return bytes + more;
}

}  // namespace cluster::sqlite
