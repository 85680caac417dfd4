// How long the steps of an app's promotions and demotions have taken: for the audit log, each
// transition's steps; for Prometheus, a histogram of each step. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/log.h"
#include "platform/transition.h"

namespace cluster {

class StepTimes {
 public:
  /// Upper bounds of the histogram's buckets, in seconds; one more has no bound.
  static constexpr std::array kBounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,  0.25,
                                      0.5,   1.0,    2.5,   5.0,  10.0,  30.0, 60.0, 300.0};
  struct Times {
    Step step{};
    bool up = false;                                     ///< else it was undone
    std::uint64_t failures = 0;                          ///< failed, or not done in time
    double sum_s = 0;                                    ///< of all
    std::array<std::uint64_t, kBounds.size() + 1> in{};  ///< each bucket, of itself alone
  };

  void add(const StepDone& done);
  /// Those that have happened, in no order.
  const std::vector<Times>& all() const noexcept { return all_; }

 private:
  std::vector<Times> all_;
};

/// "database_up_ms" and so on for each; of those that were not done, "database_up" says so.
std::vector<log::Field> fields_of(const std::vector<StepDone>& steps);

}  // namespace cluster
