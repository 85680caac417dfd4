#include "platform/transition.h"

#include <algorithm>

#include "core/check.h"

namespace cluster {

const char* to_text(Step step) {
  switch (step) {
    case Step::database: return "database";
    case Step::backend: return "backend";
    case Step::hook: return "hook";
  }
  return "unknown";
}

std::optional<Step> Transition::current() const {
  if (!waiting_ || up_ == 0) return std::nullopt;
  return plan_[up_ - 1].step;
}

void Transition::promote(Time now, Output& out) {
  CLUSTER_CHECK(phase_ == Phase::standby && !stuck());
  phase_ = Phase::promoting;
  failure_.reset();
  breaking_off_ = false;
  begin_up(0, now, out);
}

void Transition::hold(Step keep, Time now, Output& out) {
  CLUSTER_CHECK(phase_ == Phase::active);
  const auto it = std::find_if(plan_.begin(), plan_.end(),
                               [keep](const StepPlan& plan) { return plan.step == keep; });
  CLUSTER_CHECK(it != plan_.end());
  keep_ = static_cast<std::size_t>(it - plan_.begin()) + 1;
  failure_.reset();
  phase_ = Phase::demoting;
  begin_down(now, out);
}

void Transition::resume(Time now, Output& out) {
  CLUSTER_CHECK(phase_ == Phase::held);
  keep_ = 0;
  phase_ = Phase::promoting;
  failure_.reset();
  breaking_off_ = false;
  begin_up(up_, now, out);
}

void Transition::begin_up(std::size_t index, Time now, Output& out) {
  if (index == plan_.size()) {
    phase_ = Phase::active;
    waiting_ = false;
    limit_ = Time::max();
    out.active = true;
    return;
  }
  up_ = index + 1;
  waiting_ = true;
  begun_ = now;
  limit_ = now + plan_[index].up_limit;
  out.commands.push_back({Command::Kind::up, plan_[index].step, ++ticket_});
}

void Transition::begin_down(Time now, Output& out) {
  if (keep_ > 0 && up_ == keep_) {
    phase_ = Phase::held;
    waiting_ = false;
    limit_ = Time::max();
    out.held = true;
    return;
  }
  if (up_ == 0) {
    phase_ = Phase::standby;
    waiting_ = false;
    limit_ = Time::max();
    out.standby = true;
    out.failure = failure_;
    return;
  }
  const auto& plan = plan_[up_ - 1];
  waiting_ = true;
  begun_ = now;
  limit_ = now + plan.down_limit;
  out.commands.push_back({Command::Kind::down, plan.step, ++ticket_});
}

// The step under way.
void Transition::over(StepDone::Outcome outcome, Time now, Output& out) {
  waiting_ = false;
  out.steps.push_back({plan_[up_ - 1].step, phase_ == Phase::promoting, now - begun_, outcome});
}

void Transition::kill_hard(Output& out) {
  for (std::size_t i = 0; i < up_; ++i)
    if (plan_[i].hard) out.commands.push_back({Command::Kind::kill, plan_[i].step, 0});
}

void Transition::turn_down(Time now, Output& out) {
  if (phase_ == Phase::promoting && waiting_) {
    // The step that is going up is asked to break off; it goes down once it has answered.
    if (!breaking_off_) {
      breaking_off_ = true;
      out.commands.push_back({Command::Kind::cancel, plan_[up_ - 1].step, ticket_});
    }
    return;
  }
  phase_ = Phase::demoting;
  begin_down(now, out);
}

void Transition::demote(bool forced, Time now, Output& out) {
  if (phase_ == Phase::standby) return;
  keep_ = 0;
  if (forced) kill_hard(out);
  if (phase_ != Phase::demoting) turn_down(now, out);
}

void Transition::fail(const std::string& why, Time now, Output& out) {
  if (phase_ == Phase::standby) return;
  if (!failure_ && (phase_ != Phase::demoting || keep_ > 0)) failure_ = why;
  keep_ = 0;
  if (phase_ != Phase::demoting) turn_down(now, out);
}

void Transition::finished(std::uint64_t ticket, const std::optional<std::string>& error, Time now,
                          Output& out) {
  if (std::erase(stuck_, ticket) > 0) return;
  if (!waiting_ || ticket != ticket_) return;
  over(error ? StepDone::Outcome::failed : StepDone::Outcome::done, now, out);
  if (phase_ == Phase::promoting) {
    if (error && !breaking_off_ && !failure_)
      failure_ = std::string(to_text(plan_[up_ - 1].step)) + ": " + *error;
    if (error || breaking_off_) {
      phase_ = Phase::demoting;
      begin_down(now, out);
    } else {
      begin_up(up_, now, out);
    }
  } else if (phase_ == Phase::demoting) {
    // A step that could not be undone in good order has said so; what follows is undone all the
    // same.
    --up_;
    begin_down(now, out);
  }
}

void Transition::moves(Step step, Time now) {
  if (!waiting_ || breaking_off_ || current() != step) return;
  const auto& plan = plan_[up_ - 1];
  limit_ = now + (phase_ == Phase::promoting ? plan.up_limit : plan.down_limit);
}

void Transition::tick(Time now, Output& out) {
  if (!waiting_ || now < limit_) return;
  const auto& plan = plan_[up_ - 1];
  if (phase_ == Phase::promoting) {
    if (!breaking_off_) out.commands.push_back({Command::Kind::cancel, plan.step, ticket_});
    breaking_off_ = true;
    if (!failure_) failure_ = std::string(to_text(plan.step)) + ": not done within its time limit";
    if (plan.hard) {
      // Its answer comes for certain once it is killed.
      out.commands.push_back({Command::Kind::kill, plan.step, 0});
      limit_ = now + plan.down_limit;
      return;
    }
    stuck_.push_back(ticket_);
    over(StepDone::Outcome::late, now, out);
    phase_ = Phase::demoting;
    begin_down(now, out);
    return;
  }
  if (plan.hard) {
    // Others may start once this is down: it is never given up, only killed again.
    out.commands.push_back({Command::Kind::kill, plan.step, 0});
    limit_ = now + plan.down_limit;
    return;
  }
  stuck_.push_back(ticket_);
  over(StepDone::Outcome::late, now, out);
  if (!failure_) failure_ = std::string(to_text(plan.step)) + ": not undone within its time limit";
  --up_;
  begin_down(now, out);
}

}  // namespace cluster
