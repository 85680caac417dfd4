// What other threads wait for until a node has joined its platform. Any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>

#include "cluster/error.h"
#include "core/deadline.h"

namespace cluster {

class Opening {
 public:
  void open() { set(open_); }
  /// For good.
  void close() { set(closed_); }
  /// Throws Error{unavailable} when it is not open at the deadline, Error{shutting_down} once it is
  /// closed.
  void wait(const std::string& what, Time deadline) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, left_until(deadline), [this] { return open_ || closed_; });
    if (closed_) throw Error(Errc::shutting_down, what + ": the platform has stopped");
    if (!open_)
      throw Error(Errc::unavailable, what +
                                         ": the node has not joined its platform yet (it does in "
                                         "Platform::run())");
  }

 private:
  void set(bool& what) {
    const std::lock_guard lock(mutex_);
    what = true;
    changed_.notify_all();
  }

  std::mutex mutex_;  // over what follows
  std::condition_variable changed_;
  bool open_ = false, closed_ = false;
};

}  // namespace cluster
