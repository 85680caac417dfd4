// Keeps calls from a target that does not answer. Pure: the caller says what time it is.
#pragma once

#include "cluster/clock.h"

namespace cluster {

class CircuitBreaker {
 public:
  struct Options {
    int failures = 5;                         ///< in a row, until it opens; 0: it never does
    Duration open = std::chrono::seconds(1);  ///< after the first; doubles up to 16 times that
  };
  enum class State { closed, open, half_open };

  explicit CircuitBreaker(Options options) : options_(options) {}

  /// Whether a call may be made now. Half open: one may, until it is known what became of it.
  bool allow(Time now);
  void succeeded();
  void failed(Time now);
  /// What was allowed ended without telling anything of the target.
  void unknown();

  State state(Time now) const;
  Time open_until() const noexcept { return until_; }

 private:
  Options options_;
  int failures_ = 0;  // in a row
  int openings_ = 0;  // in a row
  bool open_ = false;
  bool probing_ = false;
  Time until_{};
};

}  // namespace cluster
