// The way to a Loop for what may outlive it.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "cluster/error.h"
#include "core/loop.h"

namespace cluster {

class LoopGate {
 public:
  explicit LoopGate(Loop& loop) : loop_(&loop) {}

  /// Queues a task; false, and nothing queued, when the gate is closed. Any thread.
  bool post(Loop::Task task) {
    const std::lock_guard lock(mutex_);
    if (!loop_) return false;
    loop_->post(std::move(task));
    return true;
  }
  /// Before the loop goes.
  void close() {
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
  }
  /// Throws Error{invalid_argument} on the loop's thread, where a call that blocks would wait for
  /// itself, and Error{shutting_down} once the gate is closed.
  void check_may_block(const std::string& what) const {
    const std::lock_guard lock(mutex_);
    if (!loop_) throw Error(Errc::shutting_down, what + ": the platform has stopped");
    if (loop_->runs_here())
      throw Error(Errc::invalid_argument, what +
                                              ": it blocks, and this is the thread of "
                                              "Platform::run(): call it on another");
  }

 private:
  mutable std::mutex mutex_;
  Loop* loop_;
};

}  // namespace cluster
