#include "data/circuit_breaker.h"

#include <algorithm>
#include <utility>

namespace cluster {

bool CircuitBreaker::allow(Time now) {
  if (!open_) return true;
  if (now < until_ || probing_) return false;
  probing_ = true;
  return true;
}

void CircuitBreaker::succeeded() {
  failures_ = openings_ = 0;
  open_ = probing_ = false;
}

void CircuitBreaker::failed(Time now) {
  constexpr int kMostDoublings = 4;
  ++failures_;
  const bool probe = std::exchange(probing_, false);
  // What was let through before it opened says nothing new.
  if (open_ && !probe) return;
  if (!probe && (options_.failures == 0 || failures_ < options_.failures)) return;
  open_ = true;
  until_ = now + options_.open * (1 << std::min(openings_, kMostDoublings));
  ++openings_;
}

void CircuitBreaker::unknown() { probing_ = false; }

CircuitBreaker::State CircuitBreaker::state(Time now) const {
  if (!open_) return State::closed;
  return now < until_ ? State::open : State::half_open;
}

}  // namespace cluster
