// The benchmark's loop, and waiting on it for conditions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/loop.h"

namespace bench {

/// A person has had enough.
struct Interrupted {};

/// Something did not happen.
struct Failed {
  std::string text;
};

class Waiting {
 public:
  Waiting();

  cluster::Loop& loop() { return loop_; }
  /// Throws Failed when `condition` is not met within `limit`, Interrupted after a signal.
  void wait_for(const std::string& what, cluster::Duration limit,
                const std::function<bool()>& condition);
  /// Lets what runs go on for so long.
  void pass(cluster::Duration span);
  /// Throws Interrupted if a signal has come; for places that do not wait here.
  void check() const;

 private:
  cluster::Loop loop_;
  std::vector<cluster::LoopSource> signals_;
  bool interrupted_ = false;
};

}  // namespace bench
