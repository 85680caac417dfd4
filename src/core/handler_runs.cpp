#include "core/handler_runs.h"

namespace cluster {

bool HandlerRuns::run(const std::function<void()>& work) {
  const auto me = std::this_thread::get_id();
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return false;
    running_.insert(me);
  }
  work();
  const std::lock_guard lock(mutex_);
  running_.erase(running_.find(me));
  rested_.notify_all();
  return true;
}

void HandlerRuns::end() {
  std::unique_lock lock(mutex_);
  ended_ = true;
  const auto me = std::this_thread::get_id();
  rested_.wait(lock, [&] { return running_.size() == running_.count(me); });
}

bool HandlerRuns::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

}  // namespace cluster
