// The clock that all timeouts and orderings use.
#pragma once

#include <chrono>

namespace cluster {

/// CLOCK_BOOTTIME: monotonic, counts the time in suspend, never set. Meets the standard's Clock
/// requirements. Its time points compare only within one boot of one machine.
struct BootClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<BootClock>;
  static constexpr bool is_steady = true;

  static time_point now() noexcept;
};

using Duration = BootClock::duration;
using Time = BootClock::time_point;

}  // namespace cluster
