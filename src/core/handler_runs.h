// Runs of a user's code for as long as he wants any: what he ends is over when that returns. Any
// thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

namespace cluster {

class HandlerRuns {
 public:
  /// Calls `work`, which must not throw; false, and not called, once it has ended.
  bool run(const std::function<void()>& work);
  /// None begins any more. Waits for those that run, but for one that this is called from.
  void end();
  bool ended() const;

 private:
  mutable std::mutex mutex_;  // over what follows
  std::condition_variable rested_;
  std::multiset<std::thread::id> running_;
  bool ended_ = false;
};

}  // namespace cluster
