#include "coord/session_owner.h"

#include <algorithm>
#include <set>

#include "core/check.h"

namespace cluster::coord {
namespace {

constexpr std::size_t kMostVoters = 3;

std::string zone_of(const SessionRecord* record) {
  if (!record || !record->facts) return {};
  auto it = record->facts->labels.find("zone");
  return it == record->facts->labels.end() ? std::string() : it->second;
}

const SessionRecord* record_of(const SessionView& view, const std::string& node) {
  const auto* seen = view.find(node);
  return seen ? &seen->record : nullptr;
}

}  // namespace

void SessionOwner::start() { wanted_ = true; }

void SessionOwner::leave(Output& out, Time now) {
  wanted_ = false;
  if (phase_ == Phase::left || phase_ == Phase::leaving) return;
  if (phase_ == Phase::none) {
    phase_ = Phase::left;
    out.left = true;
    return;
  }
  if (phase_ == Phase::live) out.ended = "left";
  phase_ = Phase::leaving;
  // A write under way is settled first: until then the revision to expect is not known.
  if (!in_flight_) write(record_with({}, SessionState::left), now, out);
}

bool SessionOwner::may_take(Time now) const {
  if (!in_force(now)) return false;
  return had_voters_ || now >= live_since_ + options_.timing.session_timeout;
}

std::vector<SessionId> SessionOwner::voters() const {
  return phase_ == Phase::live ? voters_ : std::vector<SessionId>{};
}

Time SessionOwner::rule_two(const std::vector<SessionId>& voters) const {
  std::size_t needed = acks_to_keep(voters.size());
  if (needed == 0) return Time::max();
  std::vector<Time> fresh_until;
  for (const auto& id : voters) {
    const Peer* p = peer(id);
    fresh_until.push_back(p ? p->last_acked_sent + options_.timing.owner_session_timeout()
                            : Time{});
  }
  std::sort(fresh_until.begin(), fresh_until.end(), std::greater<>());
  return fresh_until[needed - 1];
}

Time SessionOwner::limit() const {
  Time limit = last_write_sent_ + options_.timing.owner_lease_ttl();
  bool changing = in_flight_ && in_flight_->record.voters != voters_;
  if (!(changing && mutant(Mutation::only_new_voters))) limit = std::min(limit, rule_two(voters_));
  // A write that changes the voters may have landed or not: the rule must hold for both lists.
  if (changing && phase_ == Phase::live)
    limit = std::min(limit, rule_two(in_flight_->record.voters));
  return limit;
}

void SessionOwner::expire_if_due(Time now, Output& out) {
  if (phase_ != Phase::live || now < limit() - options_.timing.stop_margin) return;
  bool by_ttl =
      now >= last_write_sent_ + options_.timing.owner_lease_ttl() - options_.timing.stop_margin;
  lose(by_ttl ? "its record could not be rewritten within lease_ttl: JetStream is slow or away"
              : "too few voters acknowledge: this node, its network or its NATS server is slow or "
                "cut off",
       now, out);
}

void SessionOwner::lose(const std::string& why, Time, Output& out) {
  if (phase_ == Phase::live) out.ended = why;
  // What is under way may still land: a new session's first write expects what has been seen, and
  // is refused until the store shows what came of it.
  in_flight_.reset();
  phase_ = Phase::none;
  voters_.clear();
  peers_.clear();
  had_voters_ = false;
  session_rev_ = 0;
  session_.clear();
}

SessionRecord SessionOwner::record_with(const std::vector<SessionId>& voters, SessionState state) {
  SessionRecord record;
  record.node = options_.node;
  record.session = session_;
  record.state = state;
  record.voters = voters;
  record.facts = options_.facts();
  facts_changed_ = false;
  if (state == SessionState::left) record.ended_by = options_.node + ": left";
  return record;
}

void SessionOwner::write(SessionRecord record, Time now, Output& out) {
  CLUSTER_CHECK(!in_flight_);
  in_flight_ = InFlight{++last_write_id_, known_rev_, std::move(record), now, now};
  out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
}

void SessionOwner::begin(const SessionView& view, Time now, Output& out) {
  const auto* seen = view.find(options_.node);
  known_rev_ = std::max(known_rev_, seen ? seen->rev : 0);
  blocked_ = false;
  if (seen && seen->record.live()) {
    const auto& facts = seen->record.facts;
    bool our_own = facts && !options_.folder.empty() && facts->boot == options_.boot &&
                   facts->folder == options_.folder;
    if (!our_own) {
      blocked_ = true;
      return;
    }
  }
  session_ = options_.new_id();
  phase_ = Phase::beginning;
  write(record_with({}, SessionState::live), now, out);
}

void SessionOwner::settled(bool landed, Revision rev, Time now, Output& out) {
  InFlight write = std::move(*in_flight_);
  in_flight_.reset();
  switch (phase_) {
    case Phase::beginning:
      if (!landed) {
        phase_ = Phase::none;  // somebody else was first: look again
        return;
      }
      phase_ = Phase::live;
      session_rev_ = rev;
      live_since_ = now;
      last_write_sent_ = write.first_sent;
      voters_.clear();
      silence_from_ = now;
      next_heartbeat_ = now;
      out.began = true;
      expire_if_due(now, out);
      if (phase_ != Phase::live) {
        out.began = false;
        out.ended.reset();
      }
      return;
    case Phase::live:
      if (!landed) {
        lose("ended by others", now, out);
        return;
      }
      last_write_sent_ = mutant(Mutation::count_from_repeat) ? write.last_sent : write.first_sent;
      voters_ = write.record.voters;
      if (!voters_.empty()) had_voters_ = true;
      expire_if_due(now, out);
      return;
    case Phase::leaving:
      if (write.record.state == SessionState::left || !landed) {
        phase_ = Phase::left;
        out.left = true;
      } else {
        this->write(record_with({}, SessionState::left), now, out);
      }
      return;
    case Phase::none:
    case Phase::left: return;
  }
}

void SessionOwner::on_own_record(Revision rev, const SessionRecord& record, Time now, Output& out) {
  expire_if_due(now, out);
  if (rev <= known_rev_) return;
  known_rev_ = rev;
  if (in_flight_) {
    // Exactly one write follows the expected revision, and only one of ours is under way: a live
    // record of this session is that write.
    bool ours =
        record.session == in_flight_->record.session && record.state == in_flight_->record.state;
    settled(ours, rev, now, out);
    return;
  }
  bool ended = record.session != session_ || !record.live();
  if (phase_ == Phase::live && ended)
    lose(record.ended_by.empty() ? "ended by others" : "ended by " + record.ended_by, now, out);
}

void SessionOwner::on_write(std::uint64_t id, WriteOutcome outcome, Revision stored, Time now,
                            Output& out) {
  expire_if_due(now, out);
  if (!in_flight_ || in_flight_->id != id) return;
  if (outcome == WriteOutcome::stored) {
    if (stored <= known_rev_) return;
    known_rev_ = stored;
    settled(true, stored, now, out);
  } else if (mutant(Mutation::settle_by_read) && outcome == WriteOutcome::unknown) {
    in_flight_.reset();
    if (phase_ == Phase::beginning) phase_ = Phase::none;
  }
  // Refused or unknown: only a higher revision settles it. tick() repeats it.
}

void SessionOwner::on_store_rewound(Time now, Output& out) {
  if (phase_ == Phase::live)
    lose("JetStream has lost revisions that it had acknowledged", now, out);
  in_flight_.reset();
  if (phase_ == Phase::beginning) phase_ = Phase::none;
}

SessionOwner::Peer* SessionOwner::peer(const SessionId& id) {
  auto it = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& p) { return p.id == id; });
  return it == peers_.end() ? nullptr : &*it;
}
const SessionOwner::Peer* SessionOwner::peer(const SessionId& id) const {
  auto it = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& p) { return p.id == id; });
  return it == peers_.end() ? nullptr : &*it;
}

void SessionOwner::on_ack(const HeartbeatAck& ack, Time now, Output& out) {
  expire_if_due(now, out);
  if (phase_ != Phase::live || ack.owner != id()) return;
  Peer* p = peer(ack.voter);
  if (!p) return;              // nobody that was asked
  if (ack.sent > now) return;  // of no heartbeat of ours
  if (p->acking_since == Time{} || silent(*p, now)) p->acking_since = now;
  p->last_ack_arrival = now;
  p->last_acked_sent =
      std::max(p->last_acked_sent, mutant(Mutation::count_from_ack_arrival) ? now : ack.sent);
}

bool SessionOwner::silent(const Peer& p, Time now) const {
  Time heard = std::max({p.last_ack_arrival, p.first_sent, silence_from_});
  return now >= heard + options_.timing.silence();
}

// Live nodes in name order behind the own one, each once; first those of zones that no voter is in
// yet.
std::vector<SessionId> SessionOwner::candidates(const SessionView& view) const {
  std::vector<const SessionRecord*> live;
  const auto& all = view.all();
  auto add = [&](auto from, auto to) {
    for (auto it = from; it != to; ++it)
      if (it->first != options_.node && it->second.record.live())
        live.push_back(&it->second.record);
  };
  auto next = all.upper_bound(options_.node);
  add(next, all.end());
  add(all.begin(), next);

  std::set<std::string> zones;
  for (const auto& voter : voters_)
    if (const auto* p = peer(voter); p && p->acking_since != Time{})
      zones.insert(zone_of(record_of(view, voter.node)));
  std::vector<SessionId> fresh_zone;
  std::vector<SessionId> others;
  for (const auto* record : live) {
    SessionId id{record->node, record->session};
    if (std::find(voters_.begin(), voters_.end(), id) != voters_.end()) continue;
    std::string zone = zone_of(record);
    if (!zone.empty() && zones.insert(zone).second)
      fresh_zone.push_back(id);
    else
      others.push_back(id);
  }
  fresh_zone.insert(fresh_zone.end(), others.begin(), others.end());
  return fresh_zone;
}

// The place of a voter whose zone another voter before it is in.
std::optional<std::size_t> SessionOwner::doubled_zone(const SessionView& view,
                                                      const std::vector<SessionId>& voters) const {
  std::set<std::string> zones;
  for (std::size_t i = 0; i < voters.size(); ++i) {
    std::string zone = zone_of(record_of(view, voters[i].node));
    if (!zone.empty() && !zones.insert(zone).second) return i;
  }
  return std::nullopt;
}

std::vector<SessionId> SessionOwner::wanted_voters(const SessionView& view, Time now) {
  std::vector<SessionId> wanted;
  for (const auto& voter : voters_) {
    const Peer* p = peer(voter);
    const auto* record = record_of(view, voter.node);
    bool gone = record && (!record->live() || record->session != voter.session);
    if (p && !gone && !silent(*p, now)) wanted.push_back(voter);
  }
  // The first voters of a session come at once, later ones when they have been steady for a while.
  auto improves = [&](const SessionId& id) {
    std::string zone = zone_of(record_of(view, id.node));
    return !zone.empty() && std::none_of(wanted.begin(), wanted.end(), [&](const SessionId& voter) {
      return zone_of(record_of(view, voter.node)) == zone;
    });
  };
  bool young = !had_voters_ || now < live_since_ + options_.timing.session_timeout;
  for (const auto& id : candidates(view)) {
    // A full set is left alone, but for a voter of a new zone in the place of one whose zone is
    // there twice.
    auto doubled = wanted.size() < kMostVoters ? std::nullopt : doubled_zone(view, wanted);
    if (wanted.size() >= kMostVoters && !(doubled && improves(id))) break;
    const Peer* p = peer(id);
    if (!p || p->acking_since == Time{} || silent(*p, now)) continue;
    Time steady_at = young ? p->acking_since : p->acking_since + options_.timing.settle_in;
    if (now < steady_at)
      due_ = std::min(due_, steady_at);
    else if (doubled)
      wanted[*doubled] = id;
    else
      wanted.push_back(id);
  }
  return wanted;
}

void SessionOwner::consider_write(const SessionView& view, Time now, Output& out) {
  if (in_flight_) {
    Time again = in_flight_->last_sent + options_.timing.write_retry();
    if (now >= again) {
      in_flight_->last_sent = now;
      out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
      again = now + options_.timing.write_retry();
    }
    due_ = std::min(due_, again);
    return;
  }
  if (phase_ != Phase::live) return;
  auto wanted = wanted_voters(view, now);
  Time rewrite_at = last_write_sent_ + options_.timing.rewrite_period();
  if (wanted != voters_ || facts_changed_ || now >= rewrite_at) {
    write(record_with(wanted, SessionState::live), now, out);
    due_ = std::min(due_, now + options_.timing.write_retry());
  } else {
    due_ = std::min(due_, rewrite_at);
  }
}

void SessionOwner::heartbeat(const SessionView& view, Time now, Output& out) {
  if (now < next_heartbeat_) {
    due_ = std::min(due_, next_heartbeat_);
    return;
  }
  next_heartbeat_ = now + options_.timing.heartbeat_period();
  due_ = std::min(due_, next_heartbeat_);

  std::vector<SessionId> to = voters_;
  if (in_flight_)
    for (const auto& id : in_flight_->record.voters)
      if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  std::size_t good = 0;
  for (const auto& voter : voters_)
    if (const Peer* p = peer(voter); p && !silent(*p, now)) ++good;
  // Ask nodes that may become voters: as many as are missing, passing over those that do not
  // answer.
  std::size_t missing = good < kMostVoters ? kMostVoters - good : 0;
  auto spare = candidates(view);
  if (missing == 0 && doubled_zone(view, voters_)) missing = 1;
  for (int round = 0; round < 2 && missing > 0; ++round) {
    for (const auto& id : spare) {
      if (missing == 0) break;
      if (std::find(to.begin(), to.end(), id) != to.end()) continue;
      const Peer* p = peer(id);
      if (round == 0 && p && silent(*p, now)) continue;
      to.push_back(id);
      --missing;
    }
  }
  // Forget who is asked no more, so that their times start afresh when they are asked again.
  std::erase_if(peers_, [&](const Peer& p) {
    if (std::find(to.begin(), to.end(), p.id) != to.end()) return false;
    return std::find(spare.begin(), spare.end(), p.id) == spare.end() || !silent(p, now);
  });
  for (const auto& id : to) {
    Peer* p = peer(id);
    if (!p) {
      peers_.push_back(Peer{.id = id, .first_sent = now});
    } else if (silent(*p, now)) {
      p->acking_since = Time{};
    }
    out.heartbeats.push_back({id.node, this->id(), known_rev_, now});
  }
}

void SessionOwner::tick(const SessionView& view, bool members_known, bool late, Time now,
                        Output& out) {
  due_ = Time::max();
  expire_if_due(now, out);
  if (late) silence_from_ = now;
  if (phase_ == Phase::none && wanted_ && members_known) begin(view, now, out);
  if (phase_ == Phase::live) heartbeat(view, now, out);
  if (!out.write)
    consider_write(view, now, out);
  else if (in_flight_)
    due_ = std::min(due_, in_flight_->last_sent + options_.timing.write_retry());
  if (phase_ == Phase::live) due_ = std::min(due_, limit() - options_.timing.stop_margin);
}

}  // namespace cluster::coord
