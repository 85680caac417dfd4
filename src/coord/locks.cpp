#include "coord/locks.h"

namespace cluster::coord {

Locks::Entry& Locks::entry(const std::string& key) {
  return entries_.try_emplace(key, key).first->second;
}

void Locks::set_due(const std::string& key, Entry& entry, Time due) {
  if (entry.due == due) return;
  if (entry.due != Time::max()) due_.erase({entry.due, key});
  entry.due = due;
  if (due != Time::max()) due_.emplace(due, key);
}

// Passes on what a lock says, and keeps the books.
void Locks::take(const std::string& key, Entry& entry, Lock::Output& out, Output& all) {
  for (auto& news : out.news) {
    if (news.what != LockNews::What::granted) keys_.erase(news.claim);
    all.news.push_back(std::move(news));
  }
  if (!out.to_tell.empty()) {
    const auto record = std::make_shared<const LockRecord>(entry.lock.record());
    for (auto& node : out.to_tell)
      all.notices.push_back({std::move(node), entry.lock.rev(), record});
  }
  if (out.write)
    all.writes.push_back({key, out.write->id, out.write->expected, std::move(out.write->record)});
  if (out.read) all.reads.push_back({key});
  out = {};
  entry.lock.settled() ? (void)unsettled_.erase(key) : (void)unsettled_.insert(key);
  entry.lock.idle() ? (void)idle_.insert(key) : (void)idle_.erase(key);
}

void Locks::drop_idle() {
  while (idle_.size() > kMostIdle) {
    const std::string key = *idle_.begin();
    idle_.erase(idle_.begin());
    set_due(key, entries_.at(key), Time::max());
    dirty_.erase(key);
    entries_.erase(key);
  }
}

void Locks::claim(LockClaim claim) {
  auto& e = entry(claim.key);
  keys_.emplace(claim.id, claim.key);
  dirty_.insert(claim.key);
  unsettled_.insert(claim.key);
  idle_.erase(claim.key);
  e.lock.claim(std::move(claim));
}

void Locks::release(std::uint64_t claim, bool open, const Lock::Context& context, Output& out) {
  const auto it = keys_.find(claim);
  if (it == keys_.end()) return;
  const std::string key = it->second;
  Lock::Output one;
  auto& e = entry(key);
  e.lock.release(claim, open, context, one);
  take(key, e, one, out);
  dirty_.insert(key);
}

void Locks::on_read(const std::string& key, Revision rev, const std::optional<LockRecord>& record,
                    const Lock::Context& context, Time now, Output& out) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  Lock::Output one;
  it->second.lock.on_read(rev, record, context, now, one);
  take(key, it->second, one, out);
  dirty_.insert(key);
}

void Locks::on_notice(const LockNotice& notice, const Lock::Context& context, Time now,
                      Output& out) {
  const auto& key = notice.record->key;
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  Lock::Output one;
  it->second.lock.on_notice(notice.rev, *notice.record, context, now, one);
  take(key, it->second, one, out);
  dirty_.insert(key);
}

void Locks::on_write(const std::string& key, std::uint64_t number, WriteOutcome outcome,
                     Revision stored, const Lock::Context& context, Time now, Output& out) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  Lock::Output one;
  it->second.lock.on_write(number, outcome, stored, context, now, one);
  take(key, it->second, one, out);
  dirty_.insert(key);
}

void Locks::on_session_ended(Output& out) {
  for (auto& [key, e] : entries_) {
    Lock::Output one;
    e.lock.on_session_ended(one);
    take(key, e, one, out);
    dirty_.insert(key);
  }
}

void Locks::sessions_changed() { dirty_.insert(unsettled_.begin(), unsettled_.end()); }

void Locks::doubt() {
  for (const auto& key : unsettled_) {
    entries_.at(key).lock.doubt();
    dirty_.insert(key);
  }
}

void Locks::tick(const Lock::Context& context, Time now, Output& out) {
  while (!due_.empty() && due_.begin()->first <= now) {
    const std::string key = due_.begin()->second;
    set_due(key, entries_.at(key), Time::max());
    dirty_.insert(key);
  }
  const auto dirty = std::exchange(dirty_, {});
  for (const auto& key : dirty) {
    auto& e = entries_.at(key);
    Lock::Output one;
    e.lock.tick(context, now, one);
    take(key, e, one, out);
    set_due(key, e, e.lock.due());
  }
  drop_idle();
}

bool Locks::holds(std::uint64_t claim) const {
  const auto it = keys_.find(claim);
  return it != keys_.end() && entries_.at(it->second).lock.holds(claim);
}

}  // namespace cluster::coord
