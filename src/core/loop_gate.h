// The way to a Loop for what may outlive it.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

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
  bool open() const {
    const std::lock_guard lock(mutex_);
    return loop_ != nullptr;
  }

 private:
  mutable std::mutex mutex_;
  Loop* loop_;
};

}  // namespace cluster
