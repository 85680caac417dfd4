// All locks that this node takes part in (lock.h): by key, with what is due when. Held locks cost
// nothing. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coord/lock.h"

namespace cluster::coord {

struct WriteLock {
  std::string key{};
  std::uint64_t number = 0;
  Revision expected = 0;
  LockRecord record{};
};
struct ReadLock {
  std::string key{};
};
/// Tells another node of a lock that concerns it. Nothing relies on its arrival.
struct LockNotice {
  std::string to{};
  Revision rev = 0;
  std::shared_ptr<const LockRecord> record{};
};

class Locks {
 public:
  /// Locks that nobody here wants at the moment and that are remembered.
  static constexpr std::size_t kMostIdle = 1'000;

  struct Output {
    std::vector<LockNews> news{};
    std::vector<WriteLock> writes{};
    std::vector<ReadLock> reads{};
    std::vector<LockNotice> notices{};
  };

  void claim(LockClaim claim);
  void release(std::uint64_t claim, bool open, const Lock::Context& context, Output& out);
  void on_read(const std::string& key, Revision rev, const std::optional<LockRecord>& record,
               const Lock::Context& context, Time now, Output& out);
  void on_notice(const LockNotice& notice, const Lock::Context& context, Time now, Output& out);
  void on_write(const std::string& key, std::uint64_t number, WriteOutcome outcome, Revision stored,
                const Lock::Context& context, Time now, Output& out);
  void on_session_ended(Output& out);
  /// A session, the own or another's, has begun or ended.
  void sessions_changed();
  /// Notices may have been missed.
  void doubt();
  void tick(const Lock::Context& context, Time now, Output& out);
  Time due() const { return due_.empty() ? Time::max() : due_.begin()->first; }

  bool holds(std::uint64_t claim) const;
  std::size_t claims() const { return keys_.size(); }

 private:
  struct Entry {
    explicit Entry(const std::string& key) : lock(key) {}
    Lock lock;
    Time due = Time::max();  // as in due_
    std::uint64_t used = 0;
  };
  Entry& entry(const std::string& key);
  void take(const std::string& key, Entry& entry, Lock::Output& out, Output& all);
  void set_due(const std::string& key, Entry& entry, Time due);
  void drop_idle();

  std::map<std::string, Entry> entries_;
  std::unordered_map<std::uint64_t, std::string> keys_;  // of claims
  std::set<std::string> unsettled_;                      // keys of locks with something to come
  std::set<std::string> idle_;
  std::set<std::string> dirty_;
  std::set<std::pair<Time, std::string>> due_;
};

}  // namespace cluster::coord
