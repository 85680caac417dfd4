// sd-event behind Loop. Posted tasks and descriptors go before timers, so that a node that was
// stopped for a while reads what has queued up before it judges what is late (protocols: voters).
#include "core/loop.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster {
namespace {

constexpr int64_t kReadFirst = SD_EVENT_PRIORITY_NORMAL;
constexpr int64_t kTimersLater = SD_EVENT_PRIORITY_NORMAL + 10;

uint64_t to_usec(Duration d) {
  // Rounded up: a timer never fires before its time.
  auto us = std::chrono::ceil<std::chrono::microseconds>(d).count();
  return us < 0 ? 0 : static_cast<uint64_t>(us);
}

int check(int result, const char* what) {
  if (result < 0)
    throw Error(Errc::system, std::string("event loop: ") + what + ": " + std::strerror(-result));
  return result;
}

// Who waits for which signal; for the handler, so nothing but atomics.
struct SignalSlot {
  std::atomic<int> signal{0};
  std::atomic<int> fd{-1};
};
std::array<SignalSlot, 64> signal_slots;

// From the process's signals to loops. A handler, not a signalfd: that gets only what every thread
// blocks, and of a signal that a thread made before does not block, the process would die.
class Signals {
 public:
  /// A descriptor that is readable once for each arrival of `signal`. Throws Error{system}.
  int begin(int signal) {
    std::lock_guard lock(mutex_);
    for (auto& slot : signal_slots) {
      if (slot.signal.load() != 0) continue;
      // Never closed: a handler may be about to write to it.
      if (slot.fd.load() < 0) {
        int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
        check(fd < 0 ? -errno : fd, "eventfd");
        slot.fd.store(fd);
      }
      while (take(slot.fd.load())) continue;
      slot.signal.store(signal);
      auto& known = known_.at(static_cast<std::size_t>(signal));
      if (known.users++ == 0) {
        struct sigaction action{};
        action.sa_handler = arrived;
        action.sa_flags = SA_RESTART;
        sigemptyset(&action.sa_mask);
        check(::sigaction(signal, &action, &known.before) < 0 ? -errno : 0, "sigaction");
      }
      return slot.fd.load();
    }
    throw Error(Errc::system, "event loop: more than " + std::to_string(signal_slots.size()) +
                                  " wait for signals at the same time");
  }

  void end(int fd) {
    std::lock_guard lock(mutex_);
    for (auto& slot : signal_slots) {
      if (slot.fd.load() != fd) continue;
      auto& known = known_.at(static_cast<std::size_t>(slot.signal.load()));
      if (--known.users == 0) ::sigaction(slot.signal.load(), &known.before, nullptr);
      slot.signal.store(0);
    }
  }

  static bool take(int fd) {
    uint64_t one = 0;
    return ::read(fd, &one, sizeof one) == sizeof one;
  }

 private:
  struct Known {
    int users = 0;
    struct sigaction before{};
  };

  static void arrived(int signal) {
    const int before = errno;
    for (auto& slot : signal_slots) {
      if (slot.signal.load() != signal) continue;
      uint64_t one = 1;
      [[maybe_unused]] auto n = ::write(slot.fd.load(), &one, sizeof one);
    }
    errno = before;
  }

  std::mutex mutex_;
  std::array<Known, 65> known_{};
};

Signals& signals() {
  static Signals all;
  return all;
}

}  // namespace

struct LoopSource::State {
  sd_event_source* source = nullptr;
  std::function<void(unsigned)> task;
  Duration period{};
  std::exception_ptr* failure = nullptr;
  bool* destroyed = nullptr;
  int signal_fd = -1;

  ~State() {
    if (destroyed) *destroyed = true;
    if (signal_fd >= 0) signals().end(signal_fd);
    if (source) sd_event_source_disable_unref(source);
  }

  // Runs the task; run_once() rethrows what it throws.
  void call(unsigned events) {
    bool gone = false;
    destroyed = &gone;
    auto* failure_slot = failure;
    auto current = task;  // the task may destroy this State
    try {
      current(events);
    } catch (...) {
      if (!*failure_slot) *failure_slot = std::current_exception();
    }
    if (!gone) destroyed = nullptr;
  }
};

LoopSource::LoopSource(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
LoopSource::LoopSource() noexcept = default;
LoopSource::LoopSource(LoopSource&& other) noexcept = default;
LoopSource& LoopSource::operator=(LoopSource&& other) noexcept = default;
LoopSource::~LoopSource() = default;
void LoopSource::reset() noexcept { state_.reset(); }

Loop::Loop() {
  check(sd_event_new(&event_), "sd_event_new");
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    sd_event_unref(event_);
    throw Error(Errc::system, std::string("event loop: eventfd: ") + std::strerror(errno));
  }
  check(sd_event_add_io(
            event_, &wake_source_, wake_fd_, EPOLLIN,
            [](sd_event_source*, int fd, uint32_t, void* self) {
              uint64_t count = 0;
              [[maybe_unused]] auto n = ::read(fd, &count, sizeof count);
              static_cast<Loop*>(self)->drain_posts();
              return 0;
            },
            this),
        "sd_event_add_io");
  sd_event_source_set_priority(wake_source_, kReadFirst);
}

Loop::~Loop() {
  sd_event_source_disable_unref(wake_source_);
  sd_event_unref(event_);
  ::close(wake_fd_);
}

void Loop::drain_posts() {
  std::deque<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  while (!tasks.empty()) {
    Task task = std::move(tasks.front());
    tasks.pop_front();
    try {
      task();
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
    if (failure_ || stopping_.load()) {
      // What was not run yet stays queued, in front of what came meanwhile.
      std::lock_guard lock(mutex_);
      posted_.insert(posted_.begin(), std::make_move_iterator(tasks.begin()),
                     std::make_move_iterator(tasks.end()));
      return;
    }
  }
}

void Loop::post(Task task) {
  bool was_empty = false;
  {
    std::lock_guard lock(mutex_);
    was_empty = posted_.empty();
    posted_.push_back(std::move(task));
  }
  if (was_empty) {
    uint64_t one = 1;
    [[maybe_unused]] auto n = ::write(wake_fd_, &one, sizeof one);
  }
}

bool Loop::runs_here() const noexcept { return thread_.load() == std::this_thread::get_id(); }

bool Loop::in_loop() const noexcept {
  auto id = thread_.load();
  return id == std::thread::id{} || id == std::this_thread::get_id();
}

void Loop::run_once(Duration limit) {
  auto before = thread_.exchange(std::this_thread::get_id());
  {
    // Posts that an earlier stop left behind have used up their wake-up.
    std::lock_guard lock(mutex_);
    if (!posted_.empty()) {
      uint64_t one = 1;
      [[maybe_unused]] auto n = ::write(wake_fd_, &one, sizeof one);
    }
  }
  int result = sd_event_run(event_, to_usec(limit));
  thread_.store(before);
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  check(result, "sd_event_run");
}

bool Loop::run_until(const std::function<bool()>& done, Duration limit) {
  Time end = BootClock::now() + limit;
  while (!done()) {
    Time now = BootClock::now();
    if (now >= end) return false;
    run_once(std::min<Duration>(end - now, std::chrono::milliseconds(50)));
  }
  return true;
}

void Loop::run() {
  // Of this thread between the turns, too: other threads ask in_loop() at any time.
  struct Owner {
    std::atomic<std::thread::id>& thread;
    const std::thread::id before = thread.exchange(std::this_thread::get_id());
    ~Owner() { thread.store(before); }
  };
  const Owner owner{thread_};
  while (!stopping_.load()) run_once(std::chrono::hours(1));
}

void Loop::stop() {
  stopping_.store(true);
  uint64_t one = 1;
  [[maybe_unused]] auto n = ::write(wake_fd_, &one, sizeof one);
}

LoopSource Loop::at(Time when, Task task) {
  auto state = std::make_unique<LoopSource::State>();
  state->task = [task = std::move(task)](unsigned) { task(); };
  state->failure = &failure_;
  check(sd_event_add_time(
            event_, &state->source, CLOCK_BOOTTIME, to_usec(when.time_since_epoch()), 1,
            [](sd_event_source*, uint64_t, void* self) {
              static_cast<LoopSource::State*>(self)->call(0);
              return 0;
            },
            state.get()),
        "sd_event_add_time");
  sd_event_source_set_priority(state->source, kTimersLater);
  return LoopSource(std::move(state));
}

LoopSource Loop::every(Duration period, Task task) {
  auto state = std::make_unique<LoopSource::State>();
  state->task = [task = std::move(task)](unsigned) { task(); };
  state->failure = &failure_;
  state->period = period;
  check(sd_event_add_time(
            event_, &state->source, CLOCK_BOOTTIME,
            to_usec((BootClock::now() + period).time_since_epoch()), 1,
            [](sd_event_source* source, uint64_t, void* self) {
              auto* s = static_cast<LoopSource::State*>(self);
              sd_event_source_set_time(source,
                                       to_usec((BootClock::now() + s->period).time_since_epoch()));
              sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
              s->call(0);
              return 0;
            },
            state.get()),
        "sd_event_add_time");
  sd_event_source_set_priority(state->source, kTimersLater);
  return LoopSource(std::move(state));
}

LoopSource Loop::on_fd(int fd, unsigned events, std::function<void(unsigned)> task) {
  auto state = std::make_unique<LoopSource::State>();
  state->task = std::move(task);
  state->failure = &failure_;
  check(sd_event_add_io(
            event_, &state->source, fd, events,
            [](sd_event_source*, int, uint32_t revents, void* self) {
              static_cast<LoopSource::State*>(self)->call(revents);
              return 0;
            },
            state.get()),
        "sd_event_add_io");
  sd_event_source_set_priority(state->source, kReadFirst);
  return LoopSource(std::move(state));
}

LoopSource Loop::on_exit(int pidfd, Task task) {
  // A pidfd is readable once its process has ended, and stays so: one call is enough.
  auto source = on_fd(pidfd, EPOLLIN, [task = std::move(task)](unsigned) { task(); });
  check(sd_event_source_set_enabled(source.state_->source, SD_EVENT_ONESHOT),
        "sd_event_source_set_enabled");
  return source;
}

LoopSource Loop::on_signal(int signal, Task task) {
  const int fd = signals().begin(signal);
  auto source = on_fd(fd, EPOLLIN, [fd, task = std::move(task)](unsigned) {
    if (Signals::take(fd)) task();
  });
  source.state_->signal_fd = fd;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return source;
}

}  // namespace cluster
