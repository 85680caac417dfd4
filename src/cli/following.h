// Keeps a command going that shows what comes: until it is interrupted, or nobody reads any more.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>

namespace cluster::cli {

class Following {
 public:
  /// Of any thread. What `show` throws ends it.
  void take(const std::function<void()>& show) {
    try {
      show();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      over_.notify_all();
    }
  }
  /// Until then; throws what `show` has thrown.
  void wait(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    over_.wait(lock, stop, [this] { return failure_ != nullptr; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;  // over what follows
  std::condition_variable_any over_;
  std::exception_ptr failure_;
};

}  // namespace cluster::cli
