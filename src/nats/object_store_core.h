// What an object store shares with its writers and readers. Inside src/nats only.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "nats/object_store.h"

namespace cluster::nats {

/// A put or a get.
class ObjectTransfer {
 public:
  virtual ~ObjectTransfer() = default;
  virtual void store_gone() = 0;
};

/// How many chunks may be under way: as many as come back soon, so that a slow network is not
/// filled with ours while a lease's message on the same connection waits behind them.
class ObjectPace {
 public:
  explicit ObjectPace(int most) : most_(most), window_(std::min(most, 4)) {}
  int window() const noexcept { return window_; }
  /// So long took what was just under way.
  void took(Duration time) noexcept {
    if (time <= std::chrono::milliseconds(100))
      window_ = std::min(most_, window_ + std::max(1, window_ / 4));
    if (time >= std::chrono::milliseconds(250)) window_ = std::max(1, window_ - 1);
  }

 private:
  int most_;
  int window_;
};

/// The time between tries, and when to stop trying: since trouble began.
class ObjectRetry {
 public:
  void progress() noexcept {
    wait_ = kFirst;
    since_.reset();
  }
  /// Nothing when it has gone on for `patience`.
  std::optional<Duration> next(Duration patience) {
    const Time now = BootClock::now();
    if (!since_) since_ = now;
    if (now - *since_ >= patience) return std::nullopt;
    return std::exchange(wait_, std::min(wait_ * 2, kLast));
  }

 private:
  static constexpr Duration kFirst = std::chrono::milliseconds(50);
  static constexpr Duration kLast = std::chrono::seconds(1);
  Duration wait_ = kFirst;
  std::optional<Time> since_{};
};

/// May it go through another time?
inline bool may_pass(const Error& error) {
  return error.errc() != Errc::permission_denied && error.errc() != Errc::invalid_argument &&
         error.errc() != Errc::not_found && error.errc() != Errc::corrupt;
}

struct ObjectStore::Core : std::enable_shared_from_this<ObjectStore::Core> {
  /// The metadata of a name as it stands.
  struct Known {
    std::uint64_t sequence = 0;  ///< 0: there is none
    std::optional<ObjectInfo> info{};
    Failure fault{};  ///< why `info` can't be read
  };
  /// What is to become of it; nothing: it is as wanted.
  using Decide = std::function<Result<std::optional<ObjectInfo>>(const Known&)>;

  JetStream& js;
  const std::string bucket;
  const std::string stream;
  const Duration patience;
  bool closed = false;
  std::set<ObjectTransfer*> transfers{};
  std::set<std::shared_ptr<void>> unfinished{};  ///< work that nobody else holds

  Core(JetStream& jetstream, std::string name, Duration how_long);

  void close();
  Error gone() const;
  /// Runs `task` later, unless the store is gone by then.
  void later(Duration delay, Loop::Task task);
  void read(const std::string& name, Callback<Known> done);
  /// Changes metadata by compare-and-set until it is as `decide` wants it; answers with what was
  /// there before.
  void change(const std::string& name, Decide decide, Callback<std::optional<ObjectInfo>> done);
  /// Purges an object's chunks; tries for as long as `patience`.
  void free_chunks(const std::string& nuid, Completion done);

 private:
  struct Change;
  struct Freeing;
  void step(const std::shared_ptr<Change>& change);
  void free_step(const std::shared_ptr<Freeing>& freeing);

  std::map<std::uint64_t, LoopSource> timers_{};
  std::uint64_t last_timer_ = 0;
};

}  // namespace cluster::nats
