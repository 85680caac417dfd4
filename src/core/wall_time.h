// Wall time as numbers since 1970, as records and messages have it. For people and for ages of
// what is stored; never for time limits.
#pragma once

#include <chrono>
#include <cstdint>

namespace cluster {

inline std::int64_t wall_ns_from(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}
inline std::int64_t wall_ms_from(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

inline std::int64_t wall_ns() { return wall_ns_from(std::chrono::system_clock::now()); }
inline std::int64_t wall_ms() { return wall_ms_from(std::chrono::system_clock::now()); }

inline std::chrono::system_clock::time_point wall_time_from(std::chrono::nanoseconds since_1970) {
  return std::chrono::system_clock::time_point(
      std::chrono::duration_cast<std::chrono::system_clock::duration>(since_1970));
}

}  // namespace cluster
