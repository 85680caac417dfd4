// The locks of a platform for threads that block: claims go to the loop, and what becomes of them
// comes back. Outlives its platform while somebody holds a guard.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "cluster/lock.h"
#include "coord/driver.h"
#include "core/audit.h"
#include "core/loop_gate.h"
#include "nats/blocking_jetstream.h"

namespace cluster {

/// The key of a lock's record; `app` is `_` for the platform's own. Throws Error{invalid_argument}.
std::string lock_key(const std::string& app, const std::string& name);
/// Throws Error{invalid_argument} for what is no limit of a semaphore.
int checked_limit(const std::string& name, int limit);

/// One claim, from when somebody asks until it has ended.
struct LockGuard::State {
  std::shared_ptr<LockService> service;
  std::uint64_t id = 0;
  std::string key, name;
  coord::LockKind kind{};
  std::stop_source lost;
  std::atomic<std::uint64_t> token{0};
  std::atomic<bool> held{false};

  std::mutex mutex;  // over what follows
  std::condition_variable changed;
  std::optional<coord::LockNews> ended;
  Failure refused;  // NATS does not let this node claim it
};

class LockService : public std::enable_shared_from_this<LockService> {
 public:
  struct Wanted {
    std::string key{}, name{};
    coord::LockKind kind = coord::LockKind::lock;
    int limit = 1;
    bool wait = true;
    bool watches = false;
    std::string note{};
  };
  using Milliseconds = std::chrono::milliseconds;

  /// `audit`: is told of locks that were lost while somebody held them.
  LockService(Loop& loop, std::shared_ptr<nats::Exchange> exchange, std::string platform,
              AuditSink audit);

  // Of the loop.

  /// There is a driver, and claims can go to it; nullptr: there is none any more.
  void use(coord::Driver* driver);
  void news(const coord::LockNews& news);
  /// NATS refuses something to this node: claims that need it end.
  void refused(const Error& error);
  /// Until when the node's session holds.
  void set_limit(Time limit) { limit_ns_.store(limit.time_since_epoch().count()); }
  /// The platform ends: what is held is lost, who waits is told.
  void close();

  // Of any other thread.

  /// What became of the claim: granted, with the guard, or how it ended. Throws timeout,
  /// unavailable, permission_denied, shutting_down.
  struct Answer {
    LockGuard guard{};
    coord::LockNews::What what = coord::LockNews::What::granted;
  };
  Answer claim(const Wanted& wanted, Milliseconds timeout);
  /// Gives a claim up without waiting.
  void release(const std::shared_ptr<LockGuard::State>& state, bool open);
  /// The same, and waits; throws timeout, and lock_lost when it was lost before, if `open`.
  void release_and_wait(const std::shared_ptr<LockGuard::State>& state, bool open,
                        Milliseconds timeout);
  void open_barrier(LockGuard& guard, Milliseconds timeout) {
    release_and_wait(guard.state_, true, timeout);
  }
  bool in_force() const noexcept {
    return BootClock::now().time_since_epoch().count() < limit_ns_.load();
  }
  /// The record as JetStream has it; none when nobody ever wanted that lock.
  std::optional<coord::LockRecord> look(const std::string& key, coord::Revision* rev,
                                        Milliseconds timeout) const;

 private:
  void end(const std::shared_ptr<LockGuard::State>& state, const coord::LockNews& news);
  void tell_lost(const LockGuard::State& state) const;
  [[noreturn]] void give_up(const Wanted& wanted, Milliseconds timeout) const;
  bool post(std::function<void(LockService&)> task);

  const nats::BlockingJetStream jetstream_;
  const std::string platform_;
  const AuditSink audit_;
  LoopGate gate_;
  std::atomic<std::int64_t> limit_ns_{0};
  coord::Driver* driver_ = nullptr;                  // of the loop
  std::map<std::uint64_t, coord::LockClaim> early_;  // of the loop: before there was a driver

  mutable std::mutex mutex_;  // over what follows
  std::map<std::uint64_t, std::shared_ptr<LockGuard::State>> states_;
  std::uint64_t last_id_ = 0;
};

}  // namespace cluster
