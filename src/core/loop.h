// The event loop of a node: one thread, sd-event underneath, timers on CLOCK_BOOTTIME.
// All state of a node lives on it; other threads only post to it. Not a thread pool: what blocks
// belongs on a Strand.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "cluster/clock.h"

struct sd_event;
struct sd_event_source;

namespace cluster {

/// What the loop calls back for: a timer, a descriptor, a process. Destroying it ends the calls; it
/// may be destroyed from within its own callback. Only on the loop's thread.
class LoopSource {
 public:
  LoopSource() noexcept;
  LoopSource(LoopSource&& other) noexcept;
  LoopSource& operator=(LoopSource&& other) noexcept;
  ~LoopSource();
  /// Ends the calls. Idempotent.
  void reset() noexcept;
  explicit operator bool() const noexcept { return state_ != nullptr; }

 private:
  friend class Loop;
  struct State;
  explicit LoopSource(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

class Loop {
 public:
  using Task = std::function<void()>;

  Loop();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Runs on the calling thread until stop(). An exception out of a callback ends run() and is
  /// rethrown.
  void run();
  /// Handles what is ready, waiting at most `limit` for the first event. For tests and blocking
  /// tools.
  void run_once(Duration limit);
  /// Runs until `done()` is true or `limit` has passed; tells which.
  bool run_until(const std::function<bool()>& done, Duration limit);
  /// Ends run() after the callback that is under way. From any thread.
  void stop();

  /// Queues a task for the loop's thread, in order; from any thread, never blocks. Tasks posted
  /// together run before the timers that are due at that time: what has arrived is read before time
  /// is judged.
  void post(Task task);
  /// True on the thread that runs the loop (or before anybody runs it).
  bool in_loop() const noexcept;
  /// True on the thread that runs the loop, and only while it does.
  bool runs_here() const noexcept;

  /// Calls `task` once at `when`. Keep the source; dropping it cancels.
  [[nodiscard]] LoopSource at(Time when, Task task);
  [[nodiscard]] LoopSource after(Duration delay, Task task) {
    return at(BootClock::now() + delay, std::move(task));
  }
  /// Calls `task` every `period`, first after one period. Late calls are not made up for.
  [[nodiscard]] LoopSource every(Duration period, Task task);
  /// Calls `task` with the ready epoll events (EPOLLIN, …) of `fd`, which stays the caller's.
  [[nodiscard]] LoopSource on_fd(int fd, unsigned events, std::function<void(unsigned)> task);
  /// Calls `task` once when the process behind `pidfd` has ended; does not reap it. `pidfd` stays
  /// the caller's.
  [[nodiscard]] LoopSource on_exit(int pidfd, Task task);
  /// Calls `task` for each arrival of the signal at this process, whichever thread it arrives at.
  /// While there is a source for it, the signal has a handler of ours; then its former one again.
  [[nodiscard]] LoopSource on_signal(int signal, Task task);

 private:
  void drain_posts();

  sd_event* event_ = nullptr;
  sd_event_source* wake_source_ = nullptr;
  int wake_fd_ = -1;
  std::mutex mutex_;
  std::deque<Task> posted_;
  std::atomic<std::thread::id> thread_{};
  std::atomic<bool> stopping_{false};
  std::exception_ptr failure_;
};

}  // namespace cluster
