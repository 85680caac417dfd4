// A rate limit: so many a second, and a burst. Any thread.
#pragma once

#include <algorithm>
#include <mutex>

#include "cluster/clock.h"
#include "cluster/error.h"

namespace cluster {

class TokenBucket {
 public:
  /// Full at first. Throws Error{invalid_argument} for a rate or a burst under 1.
  TokenBucket(double per_second, double burst)
      : per_second_(per_second), burst_(burst), tokens_(burst) {
    if (!(per_second >= 1) || !(burst >= 1))
      throw Error(Errc::invalid_argument, "a rate limit: rate and burst are to be at least 1");
  }

  bool take(Time now) {
    const std::lock_guard lock(mutex_);
    const double seconds = std::chrono::duration<double>(std::max(Duration(0), now - at_)).count();
    if (at_ != Time{}) tokens_ = std::min(burst_, tokens_ + seconds * per_second_);
    at_ = std::max(at_, now);
    if (tokens_ < 1) return false;
    --tokens_;
    return true;
  }

 private:
  const double per_second_, burst_;
  std::mutex mutex_;
  double tokens_;
  Time at_{};
};

}  // namespace cluster
