#include "platform/app_core.h"

#include <algorithm>
#include <future>

#include "core/log.h"
#include "platform/tell.h"

namespace cluster {
namespace {

constexpr int kMostCooldownFactor = 16;
/// A backend answers stop() when SIGKILL has done its work; after this it is killed again and the
/// log tells.
constexpr Duration kKillAgain = std::chrono::seconds(5);
constexpr std::size_t kMostStepDownWaiters = 64;
/// Longer ones would overflow where they are added to a time.
constexpr std::chrono::milliseconds kLongestWait = std::chrono::hours(24 * 365);

}  // namespace

App::Core::Core(AppHost& h, AppOptions o)
    : host(h), options(std::move(o)), strand_(h.strands().strand()), transition_(plan()) {
  election_core = std::make_unique<Election::Core>(Election::Core{*this});
  election.reset(new Election(*election_core));
}

void App::Core::make_backend() {
  if (backend_) return;
  if (auto* process = std::get_if<Process>(&options.backend)) {
    BackendContext context{host.platform_name(), options.name, host.node_name(), host.folder_id()};
    backend_ = std::make_unique<ProcessBackend>(host.loop(), host.strands(), context, *process);
    backend_->on_process_group([this](pid_t group) { set_group(group); });
    backend_->on_failed([this](const Error& error, bool cooldown) {
      last_error_ = error.what();
      log::error("backend_failed", {{"app", options.name},
                                    {"node", host.node_name()},
                                    {"epoch", epoch.load()},
                                    {"why", error.what()}});
      if (cooldown)
        step([&](Transition& t, Time now, Transition::Output& out) {
          t.fail(std::string("backend: ") + error.what(), now, out);
        });
      else
        step([&](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
    });
  }
}

App::Core::~Core() {
  *alive_ = false;
  backend_.reset();
}

Duration App::Core::hook_timeout() const {
  return options.hook_timeout.count() > 0 ? options.hook_timeout : host.timing().hook_timeout;
}

std::vector<StepPlan> App::Core::plan() const {
  std::vector<StepPlan> steps;
  if (auto* process = std::get_if<Process>(&options.backend)) {
    // A first start may take every restart that the policy allows; the backend itself says when it
    // gives up.
    steps.push_back({Step::backend, process->ready_timeout + process->stop_timeout + kKillAgain,
                     process->stop_timeout + kKillAgain, true});
  }
  steps.push_back({Step::hook, hook_timeout(), hook_timeout(), false});
  return steps;
}

void App::Core::set_group(pid_t group) {
  if (group_ != 0) host.group_ended(group_);
  group_ = group;
  if (group == 0) return;
  host.group_began(group);
  // A start that was decided before this process was stopped for long must not come after it.
  if (past_limit())
    throw Error(Errc::unavailable, "the session's limit has passed: the node may not act");
}

void App::Core::step(const std::function<void(Transition&, Time, Transition::Output&)>& event) {
  Transition::Output out;
  event(transition_, BootClock::now(), out);
  carry_out(out);
}

void App::Core::carry_out(Transition::Output& out) {
  using Kind = Transition::Command::Kind;
  for (const auto& command : out.commands) {
    switch (command.kind) {
      case Kind::up: up(command.step, command.ticket); break;
      case Kind::down: undo(command.step, command.ticket); break;
      case Kind::cancel:
        if (command.step == Step::hook) active_stop_.request_stop();
        if (command.step == Step::backend && backend_) backend_->stop([] {});
        break;
      case Kind::kill:
        if (command.step == Step::backend && backend_) backend_->kill_now();
        break;
    }
  }
  if (out.active) {
    failures_ = 0;
    last_error_.clear();
    log::info("active",
              {{"app", options.name}, {"node", host.node_name()}, {"epoch", epoch.load()}});
    {
      std::lock_guard lock(mutex_);
      active_ = true;
    }
    changed_.notify_all();
  }
  if (transition_.phase() != Transition::Phase::active &&
      transition_.phase() != Transition::Phase::promoting) {
    std::lock_guard lock(mutex_);
    active_ = false;
  }
  if (out.standby) standby_reached(out.failure);
  arm();
}

void App::Core::arm() {
  Time due = transition_.due();
  if (due == Time::max()) {
    timer_.reset();
    return;
  }
  timer_ = host.loop().at(due, [this] {
    step([](Transition& t, Time now, Transition::Output& out) { t.tick(now, out); });
  });
}

// Runs hooks one after the other on the strand; the answer comes on the loop. The first exception
// is the answer, the others are still run.
void App::Core::run_hooks(const char* what, const std::vector<Hook>& hooks, std::stop_source stop,
                          std::function<void(std::optional<std::string>)> done) {
  auto work = [what, &hooks, stop, done, alive = alive_, &loop = host.loop(), name = options.name,
               node = host.node_name()] {
    std::optional<std::string> failure;
    for (const auto& hook : hooks) {
      try {
        hook(stop.get_token());
      } catch (const std::exception& e) {
        log::error("hook_threw",
                   {{"app", name}, {"node", node}, {"hook", what}, {"why", e.what()}});
        if (!failure) failure = std::string(what) + " threw: " + e.what();
      } catch (...) {
        log::error(
            "hook_threw",
            {{"app", name}, {"node", node}, {"hook", what}, {"why", "not a std::exception"}});
        if (!failure) failure = std::string(what) + " threw";
      }
    }
    loop.post([done, failure, alive] {
      if (*alive) done(failure);
    });
  };
  if (!strand_->post(work))
    host.loop().post([done, alive = alive_] {
      if (*alive) done("the app's queue of hooks is full: one of them has not returned for long");
    });
}

bool App::Core::past_limit() const {
  return BootClock::now().time_since_epoch().count() >= host.limit_ns();
}

void App::Core::up(Step which, std::uint64_t ticket) {
  // This process may have been stopped until now, and what has waited to be done comes before the
  // timer that ends the session.
  if (past_limit())
    return step([](Transition& t, Time now, Transition::Output& out) { t.demote(true, now, out); });
  auto finished = [this, ticket](std::optional<std::string> failure) {
    step([&](Transition& t, Time now, Transition::Output& out) {
      t.finished(ticket, failure, now, out);
    });
  };
  if (which == Step::backend) {
    backend_->start(epoch.load(), singleton() ? "leader" : "active",
                    [finished](std::optional<Error> error) {
                      finished(error ? std::optional<std::string>(error->what()) : std::nullopt);
                    });
    return;
  }
  role.store(Role::active);
  active_stop_ = std::stop_source();
  if (active_hooks.empty()) return finished(std::nullopt);
  run_hooks("on_active", active_hooks, active_stop_, finished);
}

void App::Core::undo(Step which, std::uint64_t ticket) {
  if (which == Step::backend) {
    backend_->stop([this, ticket] {
      step([&](Transition& t, Time now, Transition::Output& out) {
        t.finished(ticket, std::nullopt, now, out);
      });
    });
    return;
  }
  active_stop_.request_stop();
  auto finished = [this, ticket](std::optional<std::string> failure) {
    role.store(Role::standby);
    step([&](Transition& t, Time now, Transition::Output& out) {
      t.finished(ticket, failure, now, out);
    });
    // An answer that came after the step had been given up: the app can be active here again.
    offer();
  };
  if (passive_hooks.empty() && active_hooks.empty()) return finished(std::nullopt);
  // At its limit the hook is told to return.
  run_hooks("on_passive", passive_hooks, limited_stop(),
            [this, finished](std::optional<std::string> failure) {
              hook_limit_.reset();
              finished(failure);
            });
}

void App::Core::standby_reached(const std::optional<std::string>& failure) {
  log::info("standby", {{"app", options.name},
                        {"node", host.node_name()},
                        {"epoch", epoch.load()},
                        {"why", failure.value_or(stopping_   ? "stopping"
                                                 : in_force_ ? "stepped down"
                                                             : "session ended")}});
  Time now = BootClock::now();
  if (failure) {
    last_error_ = *failure;
    int factor = std::min(1 << std::min(failures_, 4), kMostCooldownFactor);
    ++failures_;
    not_before_ = now + host.timing().cooldown * factor;
    resting_ = false;
    log::warn("cooldown", {{"app", options.name},
                           {"node", host.node_name()},
                           {"why", *failure},
                           {"ms", (host.timing().cooldown * factor).count()}});
  } else if (in_force_ && !stopping_) {
    // Let somebody else take it, and never spin: for a while this node does not.
    not_before_ = now + 4 * host.timing().session_timeout;
    resting_ = true;
  }
  offered_ = false;
  // Before the release is sent: others may have seen it before its outcome is known here.
  leads.store(false);
  if (singleton() && host.holds(options.name)) {
    host.set_candidate(options.name, false, Time{});
    host.release(options.name, target_);
  } else {
    lease_gone();
  }
}

void App::Core::lease_gone() {
  held.store(false);
  leads.store(false);
  auto waiters = std::move(step_down_waiters_);
  step_down_waiters_.clear();
  for (auto& done : waiters) done(std::nullopt);
  target_.clear();
  if (transition_.phase() != Transition::Phase::standby)
    step([](Transition& t, Time now, Transition::Output& out) { t.demote(true, now, out); });
  else if (stopping_)
    finish_stop();
  else
    offer();
}

void App::Core::offer() {
  if (!in_force_ || !start_hooks_done_ || stopping_ || offered_ ||
      transition_.phase() != Transition::Phase::standby)
    return;
  if (transition_.stuck()) {
    last_error_ =
        "a hook has not returned after its time limit: this node does not lead until it does";
    return;
  }
  Time now = BootClock::now();
  if (singleton()) {
    offered_ = true;
    host.set_candidate(options.name, true, not_before_);
  } else if (now >= not_before_) {
    offered_ = true;
    step([](Transition& t, Time at, Transition::Output& out) { t.promote(at, out); });
  } else {
    cooldown_ = host.loop().at(not_before_, [this] { offer(); });
  }
}

void App::Core::session_began() {
  make_backend();
  in_force_ = true;
  if (start_hooks_done_) return offer();
  if (start_hooks_begun_) return;
  start_hooks_begun_ = true;
  run_hooks("on_start", start_hooks, limited_stop(), [this](std::optional<std::string> failure) {
    hook_limit_.reset();
    if (failure) last_error_ = *failure;
    start_hooks_done_ = true;
    if (stopping_) return stop();
    offer();
  });
}

// For a hook other than on_active, of which one runs at a time: at its limit it is told to return.
std::stop_source App::Core::limited_stop() {
  other_stop_ = std::stop_source();
  hook_limit_ =
      host.loop().after(hook_timeout(), [stop = other_stop_]() mutable { stop.request_stop(); });
  return other_stop_;
}

void App::Core::session_ended(const std::string& why) {
  in_force_ = false;
  offered_ = false;
  // Not with the next session either, before this app is at rest here: offer() says when.
  if (singleton()) host.set_candidate(options.name, false, Time{});
  held.store(false);
  leads.store(false);
  if (transition_.phase() == Transition::Phase::standby) return lease_gone();
  last_error_ = "session ended: " + why;
  step([](Transition& t, Time now, Transition::Output& out) { t.demote(true, now, out); });
}

void App::Core::acquired(std::uint64_t new_epoch) {
  newest_epoch.store(std::max(newest_epoch.load(), new_epoch));
  held.store(true);
  log::info("lease_taken",
            {{"app", options.name}, {"node", host.node_name()}, {"epoch", new_epoch}});
  if (stopping_ || transition_.phase() != Transition::Phase::standby || transition_.stuck()) {
    // It came too late to be wanted.
    host.set_candidate(options.name, false, Time{});
    offered_ = false;
    if (transition_.phase() == Transition::Phase::standby) host.release(options.name, {});
    return;
  }
  epoch.store(new_epoch);
  leads.store(true);
  step([](Transition& t, Time now, Transition::Output& out) { t.promote(now, out); });
}

void App::Core::invited() {
  if (!resting_) return;
  resting_ = false;
  not_before_ = Time{};
  if (offered_)
    host.set_candidate(options.name, true, not_before_);
  else
    offer();
}

void App::Core::leader_seen(std::optional<Leader> now_leads, std::uint64_t newest) {
  newest_epoch.store(std::max(newest_epoch.load(), newest));
  {
    std::lock_guard lock(mutex_);
    if (leader_ == now_leads) return;
    leader_ = now_leads;
  }
  changed_.notify_all();
  log::info("leader", {{"app", options.name},
                       {"node", host.node_name()},
                       {"leader", now_leads ? now_leads->node : "none"},
                       {"epoch", newest}});
  tell(*strand_, "on_leader_change", options.name, leader_hooks,
       LeaderChange{options.name, now_leads});
}

void App::Core::member_joined(const Member& member) {
  tell(*strand_, "on_member_join", options.name, join_hooks, member);
}

void App::Core::member_left(const Member& member) {
  tell(*strand_, "on_member_leave", options.name, leave_hooks, member);
}

void App::Core::step_down(const std::string& target, Completion done) {
  if (!singleton())
    return done(
        Error(Errc::invalid_argument,
              "app \"" + options.name + "\" is no singleton: it has no leader to step down"));
  if (!held.load())
    return done(Error(Errc::not_leader, "app \"" + options.name + "\": node \"" + host.node_name() +
                                            "\" does not lead it"));
  if (!target.empty() && target != host.node_name() && !host.is_live(target))
    return done(Error(Errc::node_not_found, "app \"" + options.name + "\": target \"" + target +
                                                "\" is no live node of this platform"));
  if (target == host.node_name()) return done(std::nullopt);
  if (step_down_waiters_.size() >= kMostStepDownWaiters)
    return done(Error(Errc::unavailable, "app \"" + options.name +
                                             "\": " + std::to_string(kMostStepDownWaiters) +
                                             " requests wait for it to step down already"));
  step_down_waiters_.push_back(std::move(done));
  target_ = target;
  log::info("step_down", {{"app", options.name},
                          {"node", host.node_name()},
                          {"epoch", epoch.load()},
                          {"target", target}});
  step([](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
}

void App::Core::stop() {
  stopping_ = true;
  cooldown_.reset();
  if (singleton()) host.set_candidate(options.name, false, Time{});
  if (start_hooks_begun_ && !start_hooks_done_) {
    // Goes on when on_start has returned, which it is told to do.
    other_stop_.request_stop();
    if (!stop_limit_)
      stop_limit_ = host.loop().after(hook_timeout(), [this] {
        log::warn("hook_given_up", {{"app", options.name}, {"hook", "on_start"}});
        finish_stop();
      });
    return;
  }
  if (transition_.phase() != Transition::Phase::standby)
    step([](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
  else if (!held.load())
    finish_stop();
}

void App::Core::finish_stop() {
  if (stopped_) return;
  stopped_ = true;
  auto done = [this] {
    stop_limit_.reset();
    over();
    host.app_is_down(options.name);
  };
  if (!start_hooks_done_ || stop_hooks.empty()) return done();
  auto once = std::make_shared<bool>(false);
  auto finish = [once, done] {
    if (!std::exchange(*once, true)) done();
  };
  other_stop_ = std::stop_source();
  stop_limit_ = host.loop().after(hook_timeout(), [this, finish] {
    other_stop_.request_stop();
    log::warn("hook_given_up", {{"app", options.name}, {"hook", "on_stop"}});
    finish();
  });
  run_hooks("on_stop", stop_hooks, other_stop_, [finish](std::optional<std::string>) { finish(); });
}

void App::Core::kill_now() {
  active_stop_.request_stop();
  other_stop_.request_stop();
  if (backend_) backend_->kill_now();
}

void App::Core::over() {
  held.store(false);
  leads.store(false);
  {
    std::lock_guard lock(mutex_);
    shut_down_ = true;
  }
  changed_.notify_all();
  auto waiters = std::move(step_down_waiters_);
  step_down_waiters_.clear();
  for (auto& done : waiters)
    done(Error(Errc::shutting_down, "app \"" + options.name + "\": the platform has stopped"));
}

App::Core::Seen App::Core::seen() const {
  Seen seen;
  seen.role = role.load();
  switch (transition_.phase()) {
    case Transition::Phase::standby:
      seen.phase = BootClock::now() < not_before_ && !last_error_.empty() ? "cooldown" : "standby";
      break;
    case Transition::Phase::promoting: seen.phase = "promoting"; break;
    case Transition::Phase::active: seen.phase = "active"; break;
    case Transition::Phase::demoting: seen.phase = "demoting"; break;
  }
  seen.leader = leader();
  seen.last_error = last_error_;
  if (backend_) seen.backend = backend_->status();
  return seen;
}

bool App::Core::is_leader() const noexcept {
  return leads.load() && BootClock::now().time_since_epoch().count() < host.limit_ns();
}

std::optional<Leader> App::Core::leader() const {
  std::lock_guard lock(mutex_);
  return leader_;
}

void App::Core::forbid_from_hooks(const char* what) const {
  if (strand_->in_strand())
    throw Error(Errc::invalid_argument,
                std::string(what) + " of app \"" + options.name +
                    "\" was called from one of its own hooks: it would wait for itself");
}

bool App::Core::wait_for_leadership(std::chrono::milliseconds timeout) {
  forbid_from_hooks("wait_for_leadership");
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::min(timeout, kLongestWait), [&] { return active_ || shut_down_; });
  if (!active_ && shut_down_)
    throw Error(Errc::shutting_down, "app \"" + options.name + "\": the platform stops");
  return active_;
}

void App::Core::step_down_and_wait(const std::string& target, std::chrono::milliseconds timeout) {
  forbid_from_hooks("step_down");
  {
    std::lock_guard lock(mutex_);
    if (shut_down_)
      throw Error(Errc::shutting_down, "app \"" + options.name + "\": the platform has stopped");
  }
  auto answer = std::make_shared<std::promise<Failure>>();
  auto future = answer->get_future();
  host.loop().post([this, alive = alive_, answer, target] {
    if (!*alive) return answer->set_value(Error(Errc::shutting_down, "the platform has stopped"));
    step_down(target, [answer](Failure failure) { answer->set_value(std::move(failure)); });
  });
  if (future.wait_for(std::min(timeout, kLongestWait)) != std::future_status::ready)
    throw Error(Errc::timeout, "step_down of app \"" + options.name + "\": not complete within " +
                                   std::to_string(timeout.count()) + " ms; it goes on");
  if (auto failure = future.get()) throw *failure;
}

}  // namespace cluster
