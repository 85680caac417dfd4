// The way to a Loop for what may outlive it.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "cluster/error.h"
#include "core/deadline.h"
#include "core/loop.h"
#include "core/result.h"

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
  /// Calls `begin(done)` on the loop and waits for `done`, which may also come later, for nobody.
  /// What came of it, or why nobody knows: shutting_down, or unavailable at the deadline.
  Failure confirm(Time deadline, std::function<void(Completion)> begin) {
    const auto answer = std::make_shared<std::promise<Failure>>();
    auto future = answer->get_future();
    const bool posted = post([begin = std::move(begin), answer] {
      begin([answer](Failure failure) { answer->set_value(std::move(failure)); });
    });
    if (!posted) return Error(Errc::shutting_down, "the platform has stopped");
    if (future.wait_for(left_until(deadline)) != std::future_status::ready)
      return Error(Errc::unavailable, "JetStream has not confirmed it in time");
    return future.get();
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
