// Locks, semaphores and barriers of a platform or an app. They are held by the node's session: a
// held one costs nothing, and is free a moment after its holder's process or machine has died. What
// that promises, and when a lock is not enough: docs/locks.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace cluster {

class LockService;

/// Who holds a lock, or waits for it.
struct LockHolder {
  std::string node{};
  std::string session{};
  std::uint64_t token = 0;  ///< of a holder; see LockGuard::token()
  std::string note{};       ///< what it says of itself
  /// When it asked for the lock, by its own clock: for people
  std::chrono::system_clock::time_point since{};
};

/// Holds a lock, or a place in a semaphore, until it is destroyed, release() is called, or it is
/// lost. Movable. Methods from any thread, but not two at a time.
class LockGuard {
 public:
  LockGuard() noexcept = default;
  LockGuard(LockGuard&&) noexcept;
  LockGuard& operator=(LockGuard&&) noexcept;
  /// Gives the lock up, without waiting for it.
  ~LockGuard();

  /// Whether it is held now: by the node's clock, so also a process that was stopped hears the
  /// truth when it wakes. What is true now may have ended when you act on it: hand token() along.
  bool held() const noexcept;
  explicit operator bool() const noexcept { return held(); }
  /// Grows with each acquisition of this lock (of a semaphore too, where those who get in together
  /// may share one). A system that remembers the highest token it has seen, and refuses lower ones,
  /// is safe from late holders.
  std::uint64_t token() const noexcept;
  /// Stopped when the lock is lost, before anybody else can hold it, as long as this process runs:
  /// when the node's session ends, or somebody takes the lock away (`cpp-cluster lock release
  /// --force`). Callbacks run on the node's loop: they must not block. Not stopped by release().
  std::stop_token lost() const noexcept;
  const std::string& name() const noexcept;
  /// Gives it up and waits until that is settled. Nothing to do when it is lost already. Throws
  /// Error{timeout}: then it is given up as soon as NATS answers, or with the session.
  void release(std::chrono::milliseconds timeout = std::chrono::seconds(10));

 private:
  friend class LockService;
  struct State;
  explicit LockGuard(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

/// One holder at a time, on all nodes. From Platform::lock() or App::lock(); small, to be copied.
/// Methods block; from any thread but that of Platform::run(). Throw Error{unavailable} where the
/// platform has not begun to run, {shutting_down} when it stops, {overloaded} when 500 wait
/// already, {permission_denied} when the NATS user may not, {invalid_argument} when others use that
/// name for a semaphore or a barrier.
class Lock {
 public:
  /// Waits until it holds the lock: in order of arrival, as well as that can be told. Throws
  /// Error{timeout}, which names the holder; the lock is then not held, or given back.
  LockGuard acquire(std::chrono::milliseconds timeout = std::chrono::seconds(30));
  /// Nothing when somebody else holds it. Throws Error{timeout} when JetStream does not answer.
  std::optional<LockGuard> try_acquire(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  /// Calls `fn` with the lock held. What it throws passes on; the lock is given up in any case.
  void run(const std::function<void(LockGuard&)>& fn,
           std::chrono::milliseconds timeout = std::chrono::seconds(30));
  /// Who holds it now, as JetStream has it; nothing when it is free.
  std::optional<LockHolder> holder(
      std::chrono::milliseconds timeout = std::chrono::seconds(5)) const;
  const std::string& name() const noexcept { return name_; }
  /// Told to those who look who holds it: at most 200 bytes.
  Lock& note(std::string note);

 private:
  friend class App;
  friend class Platform;
  Lock(std::shared_ptr<LockService> service, std::string key, std::string name)
      : service_(std::move(service)), key_(std::move(key)), name_(std::move(name)) {}
  std::shared_ptr<LockService> service_;
  std::string key_, name_, note_;
};

/// At most so many holders at a time, on all nodes; all must state the same number. Otherwise as
/// Lock.
class Semaphore {
 public:
  LockGuard acquire(std::chrono::milliseconds timeout = std::chrono::seconds(30));
  std::optional<LockGuard> try_acquire(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  void run(const std::function<void(LockGuard&)>& fn,
           std::chrono::milliseconds timeout = std::chrono::seconds(30));
  std::vector<LockHolder> holders(
      std::chrono::milliseconds timeout = std::chrono::seconds(5)) const;
  const std::string& name() const noexcept { return name_; }
  int limit() const noexcept { return limit_; }

 private:
  friend class App;
  friend class Platform;
  Semaphore(std::shared_ptr<LockService> service, std::string key, std::string name, int limit)
      : service_(std::move(service)), key_(std::move(key)), name_(std::move(name)), limit_(limit) {}
  std::shared_ptr<LockService> service_;
  std::string key_, name_;
  int limit_;
};

/// Something that is to be done once, by one node, before all go on: a migration. Closed until
/// somebody opens it, and then open for good (`cpp-cluster lock release --force` closes it again).
class Barrier {
 public:
  /// Calls `fn` on one node, while the others wait, and opens the barrier when it has returned;
  /// true when it was called here. When it throws, or its node dies, another that waits calls it.
  /// The guard tells whether this node still may: `fn` must be able to go on where another stopped.
  bool once(const std::function<void(LockGuard&)>& fn,
            std::chrono::milliseconds timeout = std::chrono::minutes(10));
  /// Waits until it is open. Throws Error{timeout}.
  void wait(std::chrono::milliseconds timeout = std::chrono::minutes(10));
  /// Waits for whoever is in once(), and opens it.
  void open(std::chrono::milliseconds timeout = std::chrono::seconds(30));
  bool is_open(std::chrono::milliseconds timeout = std::chrono::seconds(5)) const;
  const std::string& name() const noexcept { return name_; }

 private:
  friend class App;
  friend class Platform;
  Barrier(std::shared_ptr<LockService> service, std::string key, std::string name)
      : service_(std::move(service)), key_(std::move(key)), name_(std::move(name)) {}
  std::shared_ptr<LockService> service_;
  std::string key_, name_;
};

}  // namespace cluster
