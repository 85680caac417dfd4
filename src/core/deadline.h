// Time limits as callers give them, and what is left of them.
#pragma once

#include <algorithm>
#include <chrono>

#include "cluster/clock.h"

namespace cluster {

/// Longer ones would overflow where they are added to a time.
inline constexpr std::chrono::milliseconds kLongestWait = std::chrono::hours(24 * 365);

inline Time deadline_after(std::chrono::milliseconds timeout) {
  return BootClock::now() + std::min(timeout, kLongestWait);
}

/// At least a millisecond: what is asked last may still be answered.
inline Duration left_until(Time deadline) {
  return std::max<Duration>(deadline - BootClock::now(), std::chrono::milliseconds(1));
}

}  // namespace cluster
