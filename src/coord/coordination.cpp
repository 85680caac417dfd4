#include "coord/coordination.h"

#include <algorithm>

#include "core/check.h"

namespace cluster::coord {

#ifdef CLUSTER_SIM_MUTANTS
thread_local Mutation active_mutation = Mutation::none;
#endif

namespace {

// FNV-1a, 64 bit, with the finaliser of MurmurHash3 so that close names end up far apart.
std::uint64_t weight(const std::string& app, const std::string& node) {
  std::uint64_t h = 0xcbf29ce484222325u;
  auto eat = [&h](const std::string& s) {
    for (unsigned char c : s) h = (h ^ c) * 0x100000001b3u;
    h = (h ^ 0xff) * 0x100000001b3u;
  };
  eat(app);
  eat(node);
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
  return h ^ (h >> 33);
}

}  // namespace

int rank_of(const std::string& app, const std::string& node,
            const std::vector<std::string>& nodes) {
  auto mine = std::pair(weight(app, node), node);
  return static_cast<int>(std::count_if(nodes.begin(), nodes.end(), [&](const std::string& other) {
    return std::pair(weight(app, other), other) > mine;
  }));
}

Coordination::Coordination(Options options)
    : node_(options.session.node),
      timing_(options.session.timing),
      owner_(options.session),
      random_(std::move(options.random)) {
  for (const auto& app : options.apps) leases_.emplace(app, Lease(app, node_));
  rank_ = [this](const std::string& app) {
    std::vector<std::string> nodes;
    for (const auto& [node, seen] : view_.all()) {
      if (!seen.record.live()) continue;
      // Who has just given the lease up is not the one to wait for.
      const auto& record = lease(app).record();
      if (record && !record->held && record->holder == node && node != node_) continue;
      const auto& facts = seen.record.facts;
      bool has_app = !facts || app.starts_with('_') ||
                     std::find(facts->apps.begin(), facts->apps.end(), app) != facts->apps.end();
      if (has_app || node == node_) nodes.push_back(node);
    }
    return rank_of(app, node_, nodes);
  };
}

Lease::Context Coordination::context() const {
  return {owner_, view_, timing_, leases_known_, rank_};
}

Lease& Coordination::find(const std::string& app) {
  auto it = leases_.find(app);
  CLUSTER_CHECK(it != leases_.end());
  return it->second;
}

const Lease& Coordination::lease(const std::string& app) const {
  auto it = leases_.find(app);
  CLUSTER_CHECK(it != leases_.end());
  return it->second;
}

bool Coordination::holds(const std::string& app) const { return lease(app).held(); }
bool Coordination::leads(const std::string& app, Time now) const {
  return holds(app) && owner_.in_force(now);
}

void Coordination::take(SessionOwner::Output& out, Actions& actions) {
  if (out.ended) {
    for (auto& [app, lease] : leases_) lease.on_session_ended();
    leases_dirty_ = true;
    actions.push_back(SessionEnded{*out.ended});
    Locks::Output lost;
    locks_.on_session_ended(lost);
    take(lost, actions);
  }
  if (out.began) {
    leases_dirty_ = true;
    locks_.sessions_changed();
    actions.push_back(SessionBegan{owner_.id(), owner_.session_rev()});
  }
  for (auto& heartbeat : out.heartbeats) actions.push_back(std::move(heartbeat));
  if (out.write)
    actions.push_back(WriteMember{{WriteId::Kind::own_session, node_, out.write->id},
                                  out.write->expected,
                                  std::move(out.write->record)});
  if (out.left) actions.push_back(SessionLeft{});
}

void Coordination::take(const std::string& app, Lease::Output& out, Actions& actions) {
  if (out.changed) actions.push_back(LeaseChanged{app});
  if (out.released) actions.push_back(LeaseReleased{app});
  if (out.acquired) actions.push_back(LeaseAcquired{app, *out.acquired});
  if (out.write)
    actions.push_back(WriteLease{{WriteId::Kind::lease, app, out.write->id},
                                 out.write->expected,
                                 std::move(out.write->record)});
}

void Coordination::take(Locks::Output& out, Actions& actions) {
  // First whoever waits for it on another node, who has the longest way.
  for (auto& notice : out.notices) actions.push_back(std::move(notice));
  for (auto& news : out.news) actions.push_back(std::move(news));
  for (auto& write : out.writes) actions.push_back(std::move(write));
  for (auto& read : out.reads) actions.push_back(std::move(read));
}

void Coordination::start(Time now, Actions& actions) {
  owner_.start();
  voter_.count_from(now);
  due_ = now;
  step(now, actions);
}

void Coordination::leave(Time now, Actions& actions) {
  SessionOwner::Output out;
  owner_.leave(out, now);
  take(out, actions);
  step(now, actions);
}

void Coordination::facts_changed(Time now, Actions& actions) {
  owner_.facts_changed();
  step(now, actions);
}

void Coordination::on_member(Revision rev, const SessionRecord& record, Time now,
                             Actions& actions) {
  const auto* before = view_.find(record.node);
  bool same_life =
      before && before->record.session == record.session && before->record.state == record.state;
  if (!view_.see(rev, record, now)) return;
  actions.push_back(MemberChanged{record.node});
  if (record.node == node_) {
    SessionOwner::Output out;
    owner_.on_own_record(rev, record, now, out);
    take(out, actions);
  }
  if (!same_life) {  // a rewrite changes nothing for leases and locks
    leases_dirty_ = true;
    locks_.sessions_changed();
  }
  step(now, actions);
}

void Coordination::on_members_known(Time now, Actions& actions) {
  members_known_ = true;
  step(now, actions);
}

void Coordination::on_lease(Revision rev, const LeaseRecord& record, Time now, Actions& actions) {
  auto it = leases_.find(record.app);
  if (it == leases_.end()) return;  // another node's app
  Lease::Output out;
  it->second.on_record(rev, record, context(), now, out);
  take(record.app, out, actions);
  leases_dirty_ = true;
  step(now, actions);
}

void Coordination::on_leases_known(Time now, Actions& actions) {
  leases_known_ = true;
  leases_dirty_ = true;
  step(now, actions);
}

void Coordination::on_heartbeat(const Heartbeat& heartbeat, Time now, Actions& actions) {
  // A node whose own session is not in force is no voter; nor for a message that was meant for
  // another.
  if (heartbeat.to == node_ && owner_.in_force(now))
    if (auto ack = voter_.on_heartbeat(heartbeat, owner_.id(), now)) actions.push_back(*ack);
  step(now, actions);
}

void Coordination::on_ack(const HeartbeatAck& ack, Time now, Actions& actions) {
  SessionOwner::Output out;
  owner_.on_ack(ack, now, out);
  take(out, actions);
  step(now, actions);
}

void Coordination::on_withdrawal(const Withdrawal& withdrawal, Time now, Actions& actions) {
  view_.see(withdrawal);
  step(now, actions);
}

void Coordination::on_write(const WriteId& id, WriteOutcome outcome, Revision stored, Time now,
                            Actions& actions) {
  switch (id.kind) {
    case WriteId::Kind::own_session: {
      SessionOwner::Output out;
      owner_.on_write(id.number, outcome, stored, now, out);
      take(out, actions);
      break;
    }
    case WriteId::Kind::end_of_session: break;  // the watch shows what came of it
    case WriteId::Kind::lease:
      if (auto it = leases_.find(id.key); it != leases_.end()) {
        Lease::Output out;
        it->second.on_write(id.number, outcome, stored, context(), now, out);
        take(id.key, out, actions);
        leases_dirty_ = true;
      }
      break;
  }
  step(now, actions);
}

void Coordination::on_store_rewound(Time now, Actions& actions) {
  SessionOwner::Output out;
  owner_.on_store_rewound(now, out);
  take(out, actions);
}

void Coordination::set_candidate(const std::string& app, bool candidate, Time not_before, Time now,
                                 Actions& actions) {
  find(app).set_candidate(candidate, not_before);
  leases_dirty_ = true;
  step(now, actions);
}

void Coordination::release(const std::string& app, const std::string& target, Time now,
                           Actions& actions) {
  Lease::Output out;
  find(app).release(target, now, out);
  take(app, out, actions);
  leases_dirty_ = true;
  step(now, actions);
}

void Coordination::claim_lock(LockClaim claim, Time now, Actions& actions) {
  locks_.claim(std::move(claim));
  step(now, actions);
}

void Coordination::release_lock(std::uint64_t claim, bool open, Time now, Actions& actions) {
  Locks::Output out;
  locks_.release(claim, open, lock_context(), out);
  take(out, actions);
  step(now, actions);
}

void Coordination::on_lock_read(const std::string& key, Revision rev,
                                const std::optional<LockRecord>& record, Time now,
                                Actions& actions) {
  Locks::Output out;
  locks_.on_read(key, rev, record, lock_context(), now, out);
  take(out, actions);
  step(now, actions);
}

void Coordination::on_lock_notice(const LockNotice& notice, Time now, Actions& actions) {
  Locks::Output out;
  locks_.on_notice(notice, lock_context(), now, out);
  take(out, actions);
  step(now, actions);
}

void Coordination::on_lock_write(const std::string& key, std::uint64_t number, WriteOutcome outcome,
                                 Revision stored, Time now, Actions& actions) {
  Locks::Output out;
  locks_.on_write(key, number, outcome, stored, lock_context(), now, out);
  take(out, actions);
  step(now, actions);
}

void Coordination::doubt_locks(Time now, Actions& actions) {
  locks_.doubt();
  step(now, actions);
}

void Coordination::tick(Time now, Actions& actions) { step(now, actions); }

void Coordination::step(Time now, Actions& actions) {
  bool late = due_ != Time::max() && now >= due_ + timing_.late();
  if (late) voter_.count_from(now);

  SessionOwner::Output out;
  owner_.tick(view_, members_known_, late, now, out);
  take(out, actions);
  due_ = owner_.due();

  if (owner_.in_force(now))
    for (auto& withdrawal : voter_.tick(view_, owner_.id(), now, timing_, &due_)) {
      view_.see(withdrawal);
      actions.push_back(std::move(withdrawal));
    }
  end_sessions(now, actions);
  tick_leases_and_locks(now, actions);
}

void Coordination::end_sessions(Time now, Actions& actions) {
  if (!members_known_) return;
  for (const auto& [node, seen] : view_.all()) {
    // The own record only while it is another process's that stands in the way.
    if (node == node_ && !owner_.blocked()) continue;
    std::string why = view_.why_endable(seen, now, timing_, &due_);
    if (why.empty()) {
      if (!endings_.empty()) endings_.erase(node);
      continue;
    }
    auto& ending = endings_[node];
    Time again = ending.last_sent + timing_.write_retry();
    if (ending.rev == seen.rev && now < again) {
      due_ = std::min(due_, again);
      continue;
    }
    ending = {seen.rev, now};
    due_ = std::min(due_, now + timing_.write_retry());
    SessionRecord record = seen.record;
    record.state = SessionState::expired;
    record.ended_by = node_ + ": " + why;
    actions.push_back(
        WriteMember{{WriteId::Kind::end_of_session, node, 0}, seen.rev, std::move(record)});
  }
}

void Coordination::tick_leases_and_locks(Time now, Actions& actions) {
  bool may_take = owner_.may_take(now);
  if (!may_take && owner_.live()) due_ = std::min(due_, owner_.may_take_at());
  if (may_take && !could_take_) {
    leases_dirty_ = true;
    locks_.sessions_changed();
  }
  could_take_ = may_take;
  if (leases_dirty_ || now >= leases_due_) {
    leases_dirty_ = false;
    leases_due_ = Time::max();
    for (auto& [app, lease] : leases_) {
      Lease::Output out;
      lease.tick(context(), now, out);
      take(app, out, actions);
      leases_due_ = std::min(leases_due_, lease.due());
    }
  }
  due_ = std::min(due_, leases_due_);
  if (!members_known_) return;
  Locks::Output out;
  locks_.tick(lock_context(), now, out);
  take(out, actions);
  due_ = std::min(due_, locks_.due());
}

}  // namespace cluster::coord
