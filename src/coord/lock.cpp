#include "coord/lock.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace cluster::coord {
namespace {

/// A notice may be lost: whoever waits looks now and then.
constexpr Duration kLookAgain = std::chrono::seconds(5);
constexpr Duration kMostTurn = std::chrono::seconds(1);
/// For each that waits already, up to so many, who comes after them may take his time.
constexpr Duration kJoinDelay = std::chrono::microseconds(500);
constexpr std::ptrdiff_t kMostJoinDelays = 4;
constexpr Duration kFirstClaimBackoff = std::chrono::milliseconds(2);
constexpr int kMostDoublings = 6;

bool has(const std::vector<LockParty>& parties, const LockParty& party) {
  return std::any_of(parties.begin(), parties.end(), [&](const LockParty& other) {
    return other.session == party.session && other.claim == party.claim;
  });
}

bool wants(const LockParty& waiter) { return !waiter.watches; }

std::string describe(const LockRecord& record) {
  switch (record.kind) {
    case LockKind::lock: return "a lock";
    case LockKind::semaphore: return "a semaphore of " + std::to_string(record.limit);
    case LockKind::barrier: return "a barrier";
  }
  return "";
}

}  // namespace

const Lock::Mine* Lock::find(std::uint64_t claim) const {
  auto it = std::find_if(claims_.begin(), claims_.end(),
                         [&](const Mine& m) { return m.claim.id == claim; });
  return it == claims_.end() ? nullptr : &*it;
}
Lock::Mine* Lock::find(std::uint64_t claim) {
  return const_cast<Mine*>(std::as_const(*this).find(claim));
}

bool Lock::holds(std::uint64_t claim) const {
  const auto* m = find(claim);
  return m && m->held && !m->leaving;
}

bool Lock::settled() const {
  return !in_flight_ && std::all_of(claims_.begin(), claims_.end(),
                                    [](const Mine& m) { return m.held && !m.leaving; });
}

bool Lock::waiting() const {
  return std::any_of(claims_.begin(), claims_.end(), [](const Mine& m) { return !m.held; });
}

bool Lock::gives() const {
  return std::any_of(claims_.begin(), claims_.end(),
                     [](const Mine& m) { return m.leaving && m.held; });
}

void Lock::claim(LockClaim claim) {
  CLUSTER_CHECK(!find(claim.id));
  claims_.push_back({std::move(claim)});
}

void Lock::release(std::uint64_t claim, bool open, const Context& context, Output& out) {
  auto* m = find(claim);
  if (!m || m->leaving) return;
  const auto has_it = [&, session = context.session.id()](const LockRecord& r) {
    const auto is = [&](const LockParty& p) { return mine(p, session, claim); };
    return std::any_of(r.holders.begin(), r.holders.end(), is) ||
           std::any_of(r.waiters.begin(), r.waiters.end(), is);
  };
  // A write under way may still bring it in.
  if (!has_it(record_) && !(in_flight_ && has_it(in_flight_->record))) {
    out.news.push_back({claim, LockNews::What::released});
    std::erase_if(claims_, [&](const Mine& other) { return other.claim.id == claim; });
    return;
  }
  m->leaving = true;
  m->open = open;
}

// Whether nobody stands behind what the record says of that party any more. For good.
bool Lock::gone(const LockParty& party, const Context& context) const {
  if (party.session == context.session.id()) {
    const auto* m = find(party.claim);
    return !m || m->leaving;
  }
  return context.view.ended(party.session, party.session_rev);
}

LockParty Lock::party_of(const LockClaim& claim, const Context& context) const {
  LockParty party;
  party.session = context.session.id();
  party.session_rev = context.session.session_rev();
  party.claim = claim.id;
  party.watches = claim.watches;
  party.asked_ms = claim.asked_ms;
  party.note = claim.note;
  return party;
}

// New claims go behind those who wait.
void Lock::join(LockRecord& next, const Context& context) const {
  for (const auto& m : claims_) {
    const LockParty party = party_of(m.claim, context);
    if (m.leaving || next.open || has(next.holders, party) || has(next.waiters, party)) continue;
    if (next.holders.empty() && next.waiters.empty()) {
      next.kind = m.claim.kind;
      next.limit = m.claim.limit;
    }
    if (next.kind != m.claim.kind || next.limit != m.claim.limit) continue;
    const auto wanting = std::count_if(next.waiters.begin(), next.waiters.end(), wants);
    const bool room = next.holders.size() + static_cast<std::size_t>(wanting) <
                      static_cast<std::size_t>(next.limit);
    if (room || (m.claim.wait && next.waiters.size() < kMostWaiters)) next.waiters.push_back(party);
  }
}

// What should stand there, as far as this node can see.
LockRecord Lock::evolved(const Context& context) const {
  LockRecord next = record_;
  for (const auto& m : claims_)
    if (m.leaving && m.open && has(record_.holders, party_of(m.claim, context))) next.open = true;
  const auto over = [&](const LockParty& party) { return gone(party, context); };
  std::erase_if(next.holders, over);
  std::erase_if(next.waiters, over);
  if (next.open) next.waiters.clear();
  join(next, context);
  while (next.holders.size() < static_cast<std::size_t>(next.limit)) {
    const auto first = std::find_if(next.waiters.begin(), next.waiters.end(), wants);
    if (first == next.waiters.end()) break;
    next.holders.push_back(std::move(*first));
    next.waiters.erase(first);
  }
  if (next == record_) return next;
  // Who acquired it with the record that stands there now keeps that revision as the token.
  for (auto& holder : next.holders)
    if (holder.token == 0 && has(record_.holders, holder)) holder.token = rev_;
  if (mutant(Mutation::lock_keep_token) && !record_.holders.empty())
    for (auto& holder : next.holders)
      if (holder.token == 0) holder.token = record_.holders.front().token;
  return next;
}

// Claims that nothing needs to be written for.
void Lock::answer(const LockRecord& next, const Context& context, Output& out) {
  std::erase_if(claims_, [&](const Mine& m) {
    const LockParty party = party_of(m.claim, context);
    if (m.held || m.leaving || has(next.holders, party) || has(next.waiters, party)) return false;
    const bool fits = next.kind == m.claim.kind && next.limit == m.claim.limit;
    if (next.open && next.kind == m.claim.kind) {
      out.news.push_back({m.claim.id, LockNews::What::opened});
      return true;
    }
    if (!m.checked) {
      doubted_ = true;
      return false;
    }
    // Nobody holds what another is about to be given: that may yet go to a third.
    const bool taken = record_.holders.size() >= static_cast<std::size_t>(record_.limit);
    if (fits && !m.claim.wait && !taken) return false;
    if (!fits)
      out.news.push_back({m.claim.id, LockNews::What::mismatch, 0, describe(next)});
    else if (m.claim.wait)
      out.news.push_back({m.claim.id, LockNews::What::full});
    else
      out.news.push_back({m.claim.id, LockNews::What::held, 0,
                          next.holders.empty() ? "" : next.holders.front().session.node});
    return true;
  });
}

void Lock::adopt(Revision rev, LockRecord record, const Context& context, Time now, Output& out) {
  rev_ = rev;
  record_ = std::move(record);
  known_ = true;
  news_at_ = now;
  wanted_since_.reset();
  if (in_flight_ && rev > in_flight_->expected) in_flight_.reset();
  const SessionId session = context.session.id();
  std::erase_if(claims_, [&](Mine& m) {
    const auto is = [&](const LockParty& p) { return mine(p, session, m.claim.id); };
    const auto holder = std::find_if(record_.holders.begin(), record_.holders.end(), is);
    if (holder != record_.holders.end()) {
      if (m.held || m.leaving || !context.session.in_force(now)) return false;
      m.held = true;
      out.news.push_back(
          {m.claim.id, LockNews::What::granted, holder->token == 0 ? rev_ : holder->token});
      return false;
    }
    if (m.leaving) {
      if (in_flight_ || std::any_of(record_.waiters.begin(), record_.waiters.end(), is))
        return false;
      out.news.push_back({m.claim.id, LockNews::What::released});
      return true;
    }
    if (m.held) out.news.push_back({m.claim.id, LockNews::What::lost});
    return m.held;
  });
}

// One that nobody holds may be removed; that shows in a refusal of what we know of it. Anything
// else that is older than what is known is an old answer, unless it stays so: then somebody has
// removed a lock that is held, or the store has lost its end.
bool Lock::believe_less(bool removed, const Context& context, Time now) {
  if (!in_flight_ || !in_flight_->refused) return false;
  const bool held =
      std::any_of(claims_.begin(), claims_.end(), [](const Mine& m) { return m.held; });
  if (removed && !held) return true;
  if (!less_since_) less_since_ = now;
  return now >= *less_since_ + context.timing.lease_ttl;
}

void Lock::on_read(Revision rev, const std::optional<LockRecord>& record, const Context& context,
                   Time now, Output& out) {
  read_sent_.reset();
  doubted_ = false;
  news_at_ = now;
  for (auto& m : claims_) m.checked = m.checked || m.asked;
  LockRecord none;
  none.key = record_.key;
  const bool less = rev < rev_ && believe_less(!record, context, now);
  if (less) in_flight_.reset();
  if (less || rev >= rev_) less_since_.reset();
  if (!known_ || less || rev > rev_) {
    // Whom a write of ours has let in, if it has landed, nobody else tells.
    const bool unsure = in_flight_ && in_flight_->repeated;
    const LockRecord before = record_;
    adopt(rev, record ? *record : none, context, now, out);
    if (unsure) tell_others(before, record_, context, out);
  } else if (in_flight_ && rev == in_flight_->expected) {
    // Stale, or the write has yet to land: it is repeated as it is.
    in_flight_->refused = false;
    if (mutant(Mutation::lock_settle_by_read)) in_flight_.reset();
  }
}

void Lock::on_notice(Revision rev, const LockRecord& record, const Context& context, Time now,
                     Output& out) {
  if (rev > rev_ || mutant(Mutation::lock_believe_old_news)) adopt(rev, record, context, now, out);
}

// Whoever holds it now and did not before, and who waited for a barrier that is open.
void Lock::tell_others(const LockRecord& before, const LockRecord& after, const Context& context,
                       Output& out) const {
  const auto tell = [&](const LockParty& party) {
    const auto& node = party.session.node;
    if (node != context.session.id().node &&
        std::find(out.to_tell.begin(), out.to_tell.end(), node) == out.to_tell.end())
      out.to_tell.push_back(node);
  };
  for (const auto& holder : after.holders)
    if (!has(before.holders, holder)) tell(holder);
  if (after.open && !before.open)
    for (const auto& waiter : before.waiters) tell(waiter);
}

void Lock::on_write(std::uint64_t id, WriteOutcome outcome, Revision stored, const Context& context,
                    Time now, Output& out) {
  if (!in_flight_ || in_flight_->id != id) return;
  if (outcome == WriteOutcome::stored) {
    if (stored <= rev_) return;
    conflicts_ = 0;
    const LockRecord before = std::move(record_);
    adopt(stored, std::move(in_flight_->record), context, now, out);
    tell_others(before, record_, context, out);
  } else if (outcome == WriteOutcome::refused) {
    in_flight_->refused = true;
    if (!gives()) {
      const double most = static_cast<double>(kFirstClaimBackoff.count()) *
                          static_cast<double>(1 << std::min(conflicts_, kMostDoublings));
      not_before_ = now + Duration(static_cast<std::int64_t>(most * context.random()));
    }
    ++conflicts_;
  } else if (mutant(Mutation::lock_act_before_settled)) {
    adopt(rev_ + 1, std::move(in_flight_->record), context, now, out);
  }
}

void Lock::on_session_ended(Output& out) {
  // A write under way may still land; what it gives to a session that has ended is nothing.
  in_flight_.reset();
  read_sent_.reset();
  wanted_since_.reset();
  doubted_ = true;
  if (mutant(Mutation::lock_outlives_session)) return;
  std::erase_if(claims_, [&](const Mine& m) {
    if (!m.held && !m.leaving) return false;
    out.news.push_back({m.claim.id, m.leaving ? LockNews::What::released : LockNews::What::lost});
    return true;
  });
}

void Lock::read(const Context& context, Time now, Output& out) {
  const Duration patience = context.timing.write_retry();
  if (read_sent_ && now < *read_sent_ + patience) {
    due_ = *read_sent_ + patience;
    return;
  }
  if (!read_sent_)
    for (auto& m : claims_) m.asked = true;
  read_sent_ = now;
  out.read = true;
  due_ = now + patience;
}

void Lock::repeat_write(const Context& context, Time now, Output& out) {
  Time again = in_flight_->last_sent + context.timing.write_retry();
  if (now >= again) {
    in_flight_->last_sent = now;
    in_flight_->repeated = true;
    out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
    again = now + context.timing.write_retry();
  }
  due_ = again;
}

void Lock::write(LockRecord next, Time now, const Context& context, Output& out) {
  in_flight_ = InFlight{++last_write_id_, rev_, std::move(next), now};
  out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
  due_ = now + context.timing.write_retry();
}

// Until when to leave it to others: a change that only the end of somebody's session brings is made
// by the first who waits. And until when it can wait: whoever queues up behind others would only be
// in the way of their hand-overs, with a write that a release, or others who queue up, can share.
Time Lock::turn(const LockRecord& next, const Context& context, Time now) const {
  const SessionId self = context.session.id();
  const auto of_mine = [&](const LockParty& p) { return p.session == self; };
  for (const auto& m : claims_)
    if (m.leaving) return now;
  for (const auto& holder : next.holders)
    if (of_mine(holder) && !has(record_.holders, holder)) return now;
  const auto first = std::find_if(next.waiters.begin(), next.waiters.end(), of_mine);
  auto ahead = first - next.waiters.begin();
  Time when = *wanted_since_ + std::min<Duration>(kMostTurn, context.timing.rank_delay *
                                                                 (static_cast<int>(ahead) + 1));
  for (auto it = first; it != next.waiters.end(); ++it, ++ahead) {
    if (!of_mine(*it) || has(record_.waiters, *it)) continue;
    const Duration delay = kJoinDelay * std::min(ahead, kMostJoinDelays);
    when = std::min(when, find(it->claim)->since + delay);
  }
  return when;
}

void Lock::tick(const Context& context, Time now, Output& out) {
  due_ = Time::max();
  // Claims wait for a session; what an ended one held needs no release.
  if (idle() || !context.session.may_take(now)) return;
  if (in_flight_ && !in_flight_->refused) return repeat_write(context, now, out);
  if (!known_ || doubted_ || in_flight_) return read(context, now, out);
  LockRecord next = evolved(context);
  answer(next, context, out);
  if (doubted_) return read(context, now, out);
  if (next == record_) {
    if (!waiting()) return;
    due_ = news_at_ + kLookAgain;
    if (now < due_) return;
    doubted_ = true;
    return read(context, now, out);
  }
  if (!wanted_since_) wanted_since_ = now;
  for (auto& m : claims_)
    if (m.since == Time{}) m.since = now;
  // Those who have something to give are in more of a hurry than those who want something.
  const Time when = gives() ? now : std::max(not_before_, turn(next, context, now));
  if (now < when) {
    due_ = when;
    return;
  }
  write(std::move(next), now, context, out);
}

}  // namespace cluster::coord
