#include "coord/lease.h"

#include <algorithm>

#include "core/check.h"

namespace cluster::coord {

void Lease::release(const std::string& target, Time now, Output& out) {
  CLUSTER_CHECK(held_);
  held_ = false;
  LeaseRecord record = *record_;
  record.held = false;
  record.target = target;
  in_flight_ = InFlight{++last_write_id_, rev_, std::move(record), now};
  out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
}

std::optional<std::string> Lease::leader(const SessionView& view) const {
  if (!record_ || !record_->held) return std::nullopt;
  if (view.ended({record_->holder, record_->session}, record_->session_rev)) return std::nullopt;
  return record_->holder;
}

void Lease::on_session_ended() {
  // A write under way may still land: as an acquisition of a session that has ended it gives
  // nothing, and a release gives up what has ended anyway.
  held_ = false;
  in_flight_.reset();
  takeable_since_.reset();
}

void Lease::on_record(Revision rev, const LeaseRecord& record, const Context& context, Time now,
                      Output& out) {
  if (rev <= rev_) return;
  rev_ = rev;
  record_ = record;
  released_seen_ = now;
  takeable_since_.reset();
  out.changed = true;
  if (in_flight_) {
    settled(record == in_flight_->record, context, now, out);
  } else if (held_ && !(record.held && record.holder == node_ &&
                        record.session == context.session.id().session)) {
    // Taken from a session in force: only somebody who writes past the protocol does that.
    held_ = false;
    out.released = true;
  }
}

void Lease::on_write(std::uint64_t id, WriteOutcome outcome, Revision stored,
                     const Context& context, Time now, Output& out) {
  if (!in_flight_ || in_flight_->id != id) return;
  if (outcome == WriteOutcome::stored) {
    if (stored <= rev_) return;
    rev_ = stored;
    record_ = in_flight_->record;
    released_seen_ = now;
    takeable_since_.reset();
    out.changed = true;
    settled(true, context, now, out);
  } else if (outcome == WriteOutcome::unknown && mutant(Mutation::act_before_settled)) {
    record_ = in_flight_->record;
    settled(true, context, now, out);
  } else if (outcome == WriteOutcome::unknown && mutant(Mutation::settle_by_read)) {
    in_flight_.reset();
  }
}

void Lease::settled(bool landed, const Context& context, Time now, Output& out) {
  InFlight write = std::move(*in_flight_);
  in_flight_.reset();
  if (!write.record.held) {
    out.released = true;
    return;
  }
  if (!landed) return;
  // By a session that is no longer in force it is worth nothing.
  if (write.record.session != context.session.id().session || !context.session.in_force(now))
    return;
  held_ = true;
  out.acquired = write.record.epoch;
}

bool Lease::takeable(const Context& context, Time now) {
  if (!record_) return true;
  if (record_->held)
    return context.view.ended({record_->holder, record_->session}, record_->session_rev);
  if (record_->target.empty() || record_->target == node_) return true;
  Time free_at = released_seen_ + context.timing.session_timeout;
  if (now >= free_at) return true;
  due_ = std::min(due_, free_at);
  return false;
}

void Lease::tick(const Context& context, Time now, Output& out) {
  due_ = Time::max();
  if (in_flight_) {
    Time again = in_flight_->last_sent + context.timing.write_retry();
    if (now >= again && !out.write) {
      in_flight_->last_sent = now;
      out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
      again = now + context.timing.write_retry();
    }
    due_ = again;
    return;
  }
  if (held_ || !candidate_ || !context.leases_known) return;
  if (now < not_before_) {
    due_ = not_before_;
    return;
  }
  if (!context.session.may_take(now)) return;  // evaluated again when that changes
  if (!takeable(context, now)) {
    takeable_since_.reset();
    return;
  }
  if (!takeable_since_) takeable_since_ = now;
  const bool named = record_ && !record_->held && record_->target == node_;
  Time turn = *takeable_since_ + context.timing.rank_delay * (named ? 0 : context.rank(app_));
  if (now < turn) {
    due_ = std::min(due_, turn);
    return;
  }
  LeaseRecord record;
  record.app = app_;
  record.epoch = (record_ ? record_->epoch : 0) + (mutant(Mutation::keep_epoch) && record_ ? 0 : 1);
  record.held = true;
  record.holder = node_;
  record.session = context.session.id().session;
  record.session_rev = context.session.session_rev();
  in_flight_ = InFlight{++last_write_id_, rev_, std::move(record), now};
  out.write = Output::Write{in_flight_->id, in_flight_->expected, in_flight_->record};
  due_ = now + context.timing.write_retry();
}

}  // namespace cluster::coord
