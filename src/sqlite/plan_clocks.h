// The clocks by which the files of a snapshot bucket are planned. Neither is this machine's wall
// clock: that may be hours off, and what is removed by it is gone. docs/replication.md, "Which
// clock counts". Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "cluster/clock.h"

namespace cluster::sqlite {

/// JetStream's time now, or earlier: the times that it has stamped, and what has passed since by
/// the clock that nobody sets.
class JetStreamTime {
 public:
  /// A message was stored at that time, before `now`. 0: not known.
  void learn(std::int64_t stored_ns, Time now) {
    if (stored_ns > 0) offset_ns_ = std::max(offset_ns_.value_or(INT64_MIN), stored_ns - ns(now));
  }
  /// 0: nothing is known.
  std::int64_t at(Time now) const { return offset_ns_ ? *offset_ns_ + ns(now) : 0; }

 private:
  static std::int64_t ns(Time time) { return time.time_since_epoch().count(); }
  std::optional<std::int64_t> offset_ns_{};
};

/// For how long nodes have led the database, all in all: StoredFile::led_ms. It never runs faster
/// than time passes, whatever clocks are set to, so it proves that something is old.
class LedTime {
 public:
  explicit LedTime(Time lead_begun) : begun_(lead_begun) {}

  /// The bucket says that it was led for so long; first asked of what leaders before this one have
  /// left there.
  void learn(std::int64_t recorded_ms, Time now) {
    before_ms_ = before_ms_ ? std::max(*before_ms_, recorded_ms - here(now)) : recorded_ms;
  }
  std::int64_t at(Time now) const { return before_ms_.value_or(0) + here(now); }

 private:
  std::int64_t here(Time now) const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(now - begun_).count();
  }
  const Time begun_;
  std::optional<std::int64_t> before_ms_{};  // when this lead began
};

/// What they say at one moment.
struct PlanTime {
  std::int64_t jetstream_ns = 0;
  std::int64_t led_ms = 0;
};

}  // namespace cluster::sqlite
