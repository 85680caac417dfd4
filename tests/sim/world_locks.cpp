// Locks in the simulated platform: their store, the clients of nodes that claim them, and what must
// hold.
#include <algorithm>

#include "sim/world.h"

namespace cluster::sim {

using namespace coord;

namespace {
constexpr Nanos kLockTimeout = 400 * kMillisecond;
constexpr std::size_t kVersions = 8;
constexpr Nanos kLatest = 17 * kSecond;  // a store outage, and a late write
}  // namespace

void World::claim_lock(int index, int lock, bool wait, Nanos hold) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused) return;
  const std::uint64_t id = ++node.last_claim;
  node.clients[id] = {lock, hold};
  if (keep_trace_)
    note(node_name(index) + " claims " + lock_key(lock) + " by claim " + std::to_string(id));
  Actions actions;
  node.process->claim_lock({id, lock_key(lock), lock_kind(lock), lock_limit(lock), wait},
                           local(node), actions);
  perform(index, actions);
  check_after(index);
  arm(index);
}

void World::withdraw_claim(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused || node.clients.empty()) return;
  release_claim(index, node.clients.begin()->first);
}

void World::release_claim(int index, std::uint64_t claim) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused || !node.clients.contains(claim)) return;
  const auto client = node.clients[claim];
  const bool open =
      client.granted && lock_kind(client.lock) == LockKind::barrier && random_.chance(0.6);
  if (keep_trace_)
    note(node_name(index) + " releases claim " + std::to_string(claim) + (open ? ", open" : ""));
  node.clients.erase(claim);
  Actions actions;
  node.process->release_lock(claim, open, local(node), actions);
  perform(index, actions);
  arm(index);
}

std::size_t World::claims() const {
  std::size_t all = 0;
  for (const auto& node : nodes_) all += node.process ? node.clients.size() : 0;
  return all;
}

std::size_t World::known_claims() const {
  std::size_t all = 0;
  for (const auto& node : nodes_) all += node.process ? node.process->lock_claims() : 0;
  return all;
}

void World::sweep_lock(int lock) {
  auto it = locks_.find(lock_key(lock));
  if (it == locks_.end() || it->second.empty() || now_ < store_down_until_) return;
  const auto& latest = it->second.back();
  if (!latest.record || !latest.record->holders.empty() || !latest.record->waiters.empty()) return;
  // A write that expects nothing there must not be on its way any more when there is nothing again;
  // a marker in its place keeps it out at any time.
  const bool old = now_ - latest.at > kLatest;
  if (!old && random_.chance(0.5)) return;
  if (keep_trace_) note("store removes " + lock_key(lock) + (old ? "" : ", with a marker"));
  it->second.push_back({old ? 0 : ++last_lock_rev_, nullptr, now_});
}

// Carries out what a node asks of the store, and passes on what it has heard of its locks.
void World::perform_lock(int index, Action& action) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (auto* write = std::get_if<WriteLock>(&action)) {
    schedule(now_ + kLockTimeout,
             {index, node.incarnation,
              LockOutcome{write->key, write->number, WriteOutcome::unknown, 0}});
    if (!is_cut(index, kStore))
      schedule(now_ + delay(), {index, 0, LockWrite{std::move(*write), node.incarnation}});
  } else if (auto* read = std::get_if<ReadLock>(&action)) {
    if (!is_cut(index, kStore))
      schedule(now_ + delay(), {index, 0, LockRead{std::move(read->key), node.incarnation}});
  } else if (auto* notice = std::get_if<LockNotice>(&action)) {
    send(index, std::stoi(notice->to.substr(1)), *notice);
  } else if (auto* news = std::get_if<LockNews>(&action)) {
    lock_news(index, *news);
  }
}

bool World::handle_lock(int index, What& what, Actions& actions) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  const Time now = local(node);
  if (auto* outcome = std::get_if<LockOutcome>(&what)) {
    node.process->on_lock_write(outcome->key, outcome->number, outcome->outcome, outcome->stored,
                                now, actions);
  } else if (auto* answer = std::get_if<LockAnswer>(&what)) {
    node.process->on_lock_read(answer->key, answer->rev,
                               answer->record ? std::optional(*answer->record) : std::nullopt, now,
                               actions);
  } else if (auto* notice = std::get_if<LockNotice>(&what)) {
    node.process->on_lock_notice(*notice, now, actions);
  } else {
    return false;
  }
  return true;
}

void World::apply_lock(int from, LockWrite& sent) {
  if (now_ < store_down_until_) {
    if (random_.chance(0.3)) {
      sent.late_already = true;
      schedule(store_down_until_ + random_.between(0, 2 * kSecond), {from, 0, sent});
    }
    return;
  }
  if (!sent.late_already && weather_.write_late > 0 && random_.chance(weather_.write_late)) {
    sent.late_already = true;
    schedule(now_ + random_.between(0, weather_.late_high), {from, 0, sent});
    return;
  }
  auto& versions = locks_[sent.write.key];
  const Revision latest = versions.empty() ? 0 : versions.back().rev;
  const auto& before = versions.empty() ? nullptr : versions.back().record;
  const bool releases = before && sent.write.record.holders.size() < before->holders.size();
  const bool unconditional = releases && mutant(Mutation::lock_release_without_revision);
  LockOutcome outcome{sent.write.key, sent.write.number, WriteOutcome::refused, 0};
  if (latest == sent.write.expected || unconditional) {
    if (before && before->open && !sent.write.record.open)
      violate(sent.write.key + " was open and is closed again");
    outcome = {sent.write.key, sent.write.number, WriteOutcome::stored, ++last_lock_rev_};
    versions.push_back({last_lock_rev_, std::make_shared<const LockRecord>(sent.write.record)});
    if (versions.size() > kVersions) versions.erase(versions.begin());
    if (keep_trace_) {
      std::string line =
          "store locks/" + sent.write.key + " rev " + std::to_string(last_lock_rev_) + " held by";
      for (const auto& p : sent.write.record.holders)
        line += " " + p.session.text() + "#" + std::to_string(p.claim);
      line += ", waiting";
      for (const auto& p : sent.write.record.waiters)
        line += " " + p.session.text() + "#" + std::to_string(p.claim);
      note(line);
    }
  }
  if (is_cut(kStore, from) || (weather_.answer_lost > 0 && random_.chance(weather_.answer_lost)))
    return;
  schedule(now_ + delay(), {from, sent.incarnation, std::move(outcome)});
}

void World::answer_read(int from, const LockRead& read) {
  if (now_ < store_down_until_ || is_cut(kStore, from)) return;
  const auto& versions = locks_[read.key];
  LockAnswer answer{read.key};
  if (!versions.empty()) {
    std::size_t back = 1;
    if (weather_.watch_slow > 0 && random_.chance(weather_.watch_slow))
      back = 1 + random_.below(std::min<std::size_t>(3, versions.size()));
    const auto& version = versions[versions.size() - back];
    answer.rev = version.rev;
    answer.record = version.record;
  }
  schedule(now_ + delay(), {from, read.incarnation, std::move(answer)});
}

void World::lock_news(int index, const LockNews& news) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  const auto it = node.clients.find(news.claim);
  if (keep_trace_)
    note(node_name(index) + " claim " + std::to_string(news.claim) + " news " +
         std::to_string(static_cast<int>(news.what)) + " token " + std::to_string(news.token));
  if (it == node.clients.end()) return;  // withdrawn meanwhile
  if (news.what != LockNews::What::granted) {
    node.clients.erase(it);
    return;
  }
  auto& client = it->second;
  client.granted = true;
  ++grants_;
  auto& last = last_token_[client.lock];
  // Holders of a semaphore may hear of it in another order.
  if (news.token <= last && lock_limit(client.lock) == 1)
    violate(lock_key(client.lock) + ": token " + std::to_string(news.token) + " was granted to " +
            node_name(index) + ", but " + std::to_string(last) + " was there before");
  if (news.token > last_lock_rev_)
    violate(lock_key(client.lock) + ": token " + std::to_string(news.token) +
            " is of no revision yet");
  last = std::max(last, news.token);
  release_later(index, news.claim, client.hold);
}

void World::release_later(int index, std::uint64_t claim, Nanos delay) {
  const auto incarnation = nodes_[static_cast<std::size_t>(index)].incarnation;
  at(now_ + delay, [this, index, claim, incarnation] {
    auto& holder = nodes_[static_cast<std::size_t>(index)];
    if (holder.incarnation != incarnation) return;
    if (holder.paused)  // it goes on when it wakes
      release_later(index, claim, 100 * kMillisecond);
    else
      release_claim(index, claim);
  });
}

// Never more than the limit that may act, on any nodes.
void World::check_locks(int index) {
  const auto& self = nodes_[static_cast<std::size_t>(index)];
  for (const auto& [claim, client] : self.clients) {
    if (!client.granted || !self.process->holds_lock(claim, local(self))) continue;
    int holders = 0;
    std::string who;
    for (int i = 0; i < options_.nodes; ++i) {
      const auto& node = nodes_[static_cast<std::size_t>(i)];
      if (!node.process) continue;
      for (const auto& [other_claim, other] : node.clients)
        if (other.lock == client.lock && other.granted &&
            node.process->holds_lock(other_claim, local(node))) {
          ++holders;
          who += " " + node_name(i) + "#" + std::to_string(other_claim);
        }
    }
    if (holders > lock_limit(client.lock)) violate(lock_key(client.lock) + " is held by" + who);
  }
}

}  // namespace cluster::sim
