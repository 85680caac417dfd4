#include "platform/app_core.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <future>

#include "coord/coordination.h"
#include "core/deadline.h"
#include "core/log.h"
#include "platform/snapshots_core.h"
#include "platform/tell.h"
#include "sqlite/file.h"

namespace cluster {
namespace {

constexpr int kMostCooldownFactor = 16;
/// A backend answers stop() when SIGKILL has done its work; after this it is killed again and the
/// log tells.
constexpr Duration kKillAgain = std::chrono::seconds(5);
constexpr std::size_t kMostStepDownWaiters = 64;
/// Following up to the fence and PRAGMA quick_check take as long as the database is large.
constexpr Duration kDatabaseUp = std::chrono::minutes(10);
constexpr Duration kDatabaseDown = std::chrono::seconds(15);
constexpr std::size_t kMostPositionWaiters = 4096;
constexpr std::chrono::milliseconds kAskNode{2'000};
/// Of the time for the end in order, what is left for the steps behind the database's.
constexpr Duration kStopReserve = std::chrono::seconds(2);
/// So long a node that stops waits for the release of a lease.
constexpr Duration kReleaseLimit = std::chrono::seconds(5);
/// A program that waits for its node's answer gets it a little later than the node's own limit.
constexpr std::chrono::milliseconds kAnswerPatience{5'000};
constexpr Duration kPeerLimit = std::chrono::seconds(10);
/// Between two hand-overs because of wrong pages, and what a standby may lack to take part.
constexpr Duration kUnsoundHandOver = std::chrono::hours(1);
constexpr std::uint64_t kMostLagRecords = 1'000;

std::int64_t in_ms(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

// The program may run in another folder, and this process may change its own: both must mean the
// same file at all times.
AppOptions with_absolute_paths(AppOptions options) {
  for (auto* path : {&options.sqlite.path, &options.sqlite.replica})
    if (!path->empty()) *path = std::filesystem::absolute(*path).lexically_normal().string();
  return options;
}

}  // namespace

App::Core::Core(AppHost& h, AppOptions o)
    : host(h),
      options(with_absolute_paths(std::move(o))),
      kv(std::make_shared<KvBucket>(
          h.loop(), h.strands(), h.exchange(),
          KvBucket::Options{h.platform_name() + "_" + options.name, options.kv,
                            h.platform_name() + "." + options.name + ".kv.expiry",
                            [this] { return host.rank_among(options.name); }})),
      methods(std::make_shared<CallServer>(
          h.loop(), h.strands(), h.exchange(),
          CallServer::Options{
              h.platform_name(), h.node_name(), options.name, singleton(), options.calls,
              [this] { return is_leader() ? std::optional(epoch.load()) : std::nullopt; }})),
      audit_([this](AuditEntry entry) { host.audit(std::move(entry)); }),
      leases_("lease", options.name, h.node_name(), audit_),
      transitions_("transition", options.name, h.node_name(), audit_),
      hooks_("hook", options.name, h.node_name(), audit_),
      strand_(h.strands().strand()),
      transition_(plan()) {
  election_core = std::make_unique<Election::Core>(Election::Core{*this});
  election.reset(new Election(*election_core));
  database_core = std::make_unique<Database::Core>(Database::Core{*this});
  database.reset(new Database(*database_core));
  snapshots_core = std::make_unique<Snapshots::Core>(*this);
  snapshots.reset(new Snapshots(*snapshots_core));
}

void App::Core::make_backend() {
  if (backend_) return;
  if (auto* process = std::get_if<Process>(&options.backend)) {
    BackendContext context{host.platform_name(),
                           options.name,
                           host.node_name(),
                           host.folder_id(),
                           options.sqlite.path,
                           options.sqlite.commit,
                           options.sqlite.commit_timeout,
                           [this] { return database_ ? database_->commit_folder() : ""; },
                           audit_};
    backend_ = std::make_unique<ProcessBackend>(host.loop(), host.strands(), context, *process);
    backend_->on_process_group([this](pid_t group) { set_group(group); });
    backend_->on_failed([this](const Error& error, bool cooldown) {
      last_error_ = error.what();
      // It is being stopped anyway.
      if (hand_over_ && hand_over_->stage() == HandOver::Stage::stopping) return;
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
  database_.reset();
}

void App::Core::make_database() {
  if (database_ || options.sqlite.path.empty()) return;
  sqlite::ReplicatedDatabase::Options o;
  o.platform = host.platform_name();
  o.app = options.name;
  o.node = host.node_name();
  o.path = sqlite::real_path(options.sqlite.path);
  if (!options.sqlite.replica.empty()) o.replica = sqlite::real_path(options.sqlite.replica);
  if (const auto* process = std::get_if<Process>(&options.backend)) o.user = process->user;
  o.stream_replicas = host.stream_replicas();
  o.wal_limit = options.sqlite.wal_limit;
  o.snapshots.interval = options.sqlite.snapshot_interval;
  o.snapshots.retention = options.sqlite.snapshot_retention;
  o.snapshots.kept = options.sqlite.snapshots_kept;
  o.snapshots.merge_interval = options.sqlite.snapshot_merge_interval;
  o.snapshots.stream_window = options.sqlite.stream_window;
  o.snapshots.least_window =
      std::min<Duration>(o.snapshots.least_window, options.sqlite.stream_window);
  o.alone = host.alone();
  o.others = [this] { return host.others_with(options.name); };
  o.scrub = {options.sqlite.scrub_interval, options.sqlite.scrub_rate};
  o.ask_for_page = [this](const sqlite::PageRequest& request, Callback<std::string> done) {
    ask_leader_for_page(request, std::move(done));
  };
  sqlite::ReplicatedDatabase::Events events;
  events.ready_changed = [this](bool ready) { ready_changed(ready); };
  events.moved = [this] {
    transition_.moves(Step::database, BootClock::now());
    check_position_waiters();
  };
  events.held_changed = [this] { host.held_changed(); };
  events.unsound = [this](const std::string& why) { database_is_unsound(why); };
  events.audit = audit_;
  events.lost = [this](const Error& error, bool fenced) {
    last_error_ = error.what();
    step([&](Transition& t, Time now, Transition::Output& out) {
      fenced ? t.demote(true, now, out)
             : t.fail(std::string("database: ") + error.what(), now, out);
    });
  };
  database_ = std::make_unique<sqlite::ReplicatedDatabase>(host.loop(), host.strands(),
                                                           host.jetstream(), o, std::move(events));
  database_->start();
  snapshots_core->open();
}

void App::Core::ask_peer(const std::string& node, const PeerRequest& request,
                         Callback<std::string> done) {
  const std::string subject = host.platform_name() + "._.node." + node + ".peer." + options.name;
  host.connection().request(
      {.subject = subject, .data = text_of(request)}, kPeerLimit,
      [node, done = std::move(done)](Result<nats::Message> answer) {
        if (!answer) return done(answer.error());
        nats::Message& message = answer.value();
        if (message.header("Nats-Service-Error-Code").empty()) return done(std::move(message.data));
        done(Error(Errc::unavailable, "node " + node + " refuses: " +
                                          std::string(message.header("Nats-Service-Error"))));
      });
}

void App::Core::ask_leader_for_page(const sqlite::PageRequest& request,
                                    Callback<std::string> done) {
  const auto now_leads = leader();
  if (!now_leads || now_leads->node == host.node_name())
    return done(Error(Errc::unavailable, "no other node leads app \"" + options.name + "\" now"));
  ask_peer(now_leads->node, {PeerRequest::Op::page, request}, std::move(done));
}

// The program reads what is wrong. A node that has it right should lead; where that does not help,
// it is not tried again and again.
void App::Core::database_is_unsound(const std::string& why) {
  const Time now = BootClock::now();
  if (handed_over_unsound_ != Time{} && now < handed_over_unsound_ + kUnsoundHandOver) return;
  auto others = host.nodes_with(options.name);
  std::erase(others, host.node_name());
  const auto ask = [this](const std::string& node, const PeerRequest& request,
                          Callback<std::string> done) { ask_peer(node, request, std::move(done)); };
  find_sound_standby(
      ask, others, kMostLagRecords, [this, alive = alive_, why, now](const std::string& node) {
        if (!*alive || !is_leader()) return;
        if (node.empty())
          return log::warn("database_no_sound_standby",
                           {{"app", options.name}, {"node", host.node_name()}, {"why", why}});
        handed_over_unsound_ = now;
        transitions_.warn("unsound_step_down", {{"epoch", epoch.load()},
                                                {"why", why},
                                                {"target", node},
                                                {"means", "a node with a sound copy is to lead"}});
        step_down({.target = node}, [](const Result<SteppedDown>&) {});
      });
}

// A node whose copy is being had anew does not stand for election.
void App::Core::ready_changed(bool ready) {
  if (ready) return offer();
  if (!offered_ || transition_.phase() != Transition::Phase::standby) return;
  offered_ = false;
  host.set_candidate(options.name, false, Time{});
}

Duration App::Core::hook_timeout() const {
  return options.hook_timeout.count() > 0 ? options.hook_timeout : host.timing().hook_timeout;
}

std::vector<StepPlan> App::Core::plan() const {
  std::vector<StepPlan> steps;
  if (!options.sqlite.path.empty())
    steps.push_back(
        {Step::database, kDatabaseUp,
         std::max(options.sqlite.drain_timeout, host.timing().shutdown_timeout) + kDatabaseDown,
         false});
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
  using Phase = Transition::Phase;
  const auto goes_down = [this] {
    return transition_.phase() == Phase::demoting || transition_.phase() == Phase::held;
  };
  Transition::Output out;
  const bool went_down = goes_down();
  event(transition_, BootClock::now(), out);
  // Before anything is begun that may answer at once.
  for (const auto& done : out.steps) step_is_over(done);
  if (!went_down && goes_down()) demotion_begins();
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
        if (command.step == Step::database && database_) database_->cancel();
        break;
      case Kind::kill:
        if (command.step == Step::backend && backend_) backend_->kill_now();
        break;
    }
  }
  if (out.active) became_active();
  if (transition_.phase() != Transition::Phase::active &&
      transition_.phase() != Transition::Phase::promoting) {
    std::lock_guard lock(mutex_);
    active_ = false;
  }
  if (out.standby) standby_reached(out.failure);
  if (out.held && hand_over_) hand_over_->held();
  arm();
}

void App::Core::promote() {
  steps_.clear();
  was_active_ = false;
  transition_begun_ = BootClock::now();
  transitions_.info("promoting", {{"epoch", epoch.load()}});
  step([](Transition& t, Time now, Transition::Output& out) { t.promote(now, out); });
}

void App::Core::step_is_over(const StepDone& done) {
  step_times_.add(done);
  steps_.push_back(done);
  if (done.step == Step::hook && done.outcome == StepDone::Outcome::late)
    hooks_.error("hook_given_up", {{"hook", done.up ? "on_active" : "on_passive"},
                                   {"epoch", epoch.load()},
                                   {"ms", in_ms(done.took)}});
}

void App::Core::became_active() {
  failures_ = 0;
  last_error_.clear();
  was_active_ = true;
  tell_of_transition(log::Level::info, "active", {});
  {
    std::lock_guard lock(mutex_);
    active_ = true;
  }
  changed_.notify_all();
  if (singleton()) methods->lead_begins();
  if (hand_over_) hand_over_->resumed(std::nullopt);
}

void App::Core::demotion_begins() {
  methods->lead_ends();
  // By something else: there is no time to ask who can lead next.
  if (hand_over_ && hand_over_->live()) drop_hand_over();
  // A promotion that fails is one transition together with its undoing.
  if (was_active_) {
    steps_.clear();
    transition_begun_ = BootClock::now();
  }
  transitions_.info("demoting", {{"epoch", epoch.load()}, {"why", why_down()}});
}

std::string App::Core::why_down() const {
  if (const auto& failure = transition_.failure()) return *failure;
  return stopping_ ? "stopping" : in_force_ ? "stepped down" : "session ended";
}

// With what each of its steps took.
void App::Core::tell_of_transition(log::Level level, const char* event, log::Fields fields) {
  std::vector<log::Field> all{{"epoch", epoch.load()},
                              {"ms", in_ms(BootClock::now() - transition_begun_)}};
  all.insert(all.end(), fields.begin(), fields.end());
  for (auto& field : fields_of(steps_)) all.push_back(std::move(field));
  transitions_.tell(level, event, all);
  steps_.clear();
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
  auto work = [this, what, &hooks, stop, done, alive = alive_, &loop = host.loop(),
               name = options.name, node = host.node_name()] {
    std::optional<std::string> failure;
    std::vector<std::string> thrown;
    for (const auto& hook : hooks) {
      try {
        hook(stop.get_token());
      } catch (const std::exception& e) {
        log::error("hook_threw",
                   {{"app", name}, {"node", node}, {"hook", what}, {"why", e.what()}});
        thrown.push_back(e.what());
        if (!failure) failure = std::string(what) + " threw: " + e.what();
      } catch (...) {
        log::error(
            "hook_threw",
            {{"app", name}, {"node", node}, {"hook", what}, {"why", "not a std::exception"}});
        thrown.push_back("not a std::exception");
        if (!failure) failure = std::string(what) + " threw";
      }
    }
    loop.post([this, what, done, failure, thrown, alive] {
      if (!*alive) return;
      for (const auto& why : thrown)
        hooks_.enter(log::Level::error, "hook_threw",
                     std::array{log::Field{"hook", what}, log::Field{"why", why}});
      done(failure);
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
    return step([ticket](Transition& t, Time now, Transition::Output& out) {
      t.demote(true, now, out);
      t.finished(ticket, "this node's session has ended", now, out);
    });
  auto finished = [this, ticket](std::optional<std::string> failure) {
    step([&](Transition& t, Time now, Transition::Output& out) {
      t.finished(ticket, failure, now, out);
    });
  };
  if (which == Step::database) {
    database_->promote(epoch.load(), [this, finished](const Failure& failure) {
      *database_leads = !failure;
      finished(failure ? std::optional<std::string>(failure->what()) : std::nullopt);
    });
    return;
  }
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
  if (which == Step::database) {
    database_->demote(drain_limits(), [this, ticket] {
      *database_leads = false;
      step([&](Transition& t, Time now, Transition::Output& out) {
        t.finished(ticket, std::nullopt, now, out);
      });
      offer();
    });
    return;
  }
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
  const bool begun = role.load() == Role::active;  // else on_active has never been called
  if (!begun || (passive_hooks.empty() && active_hooks.empty())) return finished(std::nullopt);
  // At its limit the hook is told to return.
  run_hooks("on_passive", passive_hooks, limited_stop(),
            [this, finished](std::optional<std::string> failure) {
              hook_limit_.reset();
              finished(failure);
            });
}

sqlite::DrainLimits App::Core::drain_limits() const {
  if (handed_over_) return {};
  // Nobody's fence may have come yet: what JetStream takes counts, with a session or without.
  if (stopping_) {
    const Time until = host.stop_by() - kStopReserve;
    return {std::max(until - BootClock::now(), Duration(1)), until};
  }
  // Without a session others may lead already: there is no time for courtesy.
  return {in_force_ ? Duration(options.sqlite.drain_timeout) : Duration(0)};
}

void App::Core::standby_reached(const std::optional<std::string>& failure) {
  left_ = database_ ? database_->unsent() : sqlite::Unsent{};
  handed_over_ = false;
  tell_of_transition(failure ? log::Level::warn : log::Level::info,
                     failure && !was_active_ ? "promotion_failed" : "standby",
                     {{"why", why_down()}});
  Time now = BootClock::now();
  if (failure) {
    last_error_ = *failure;
    int factor = std::min(1 << std::min(failures_, 4), kMostCooldownFactor);
    ++failures_;
    not_before_ = now + host.timing().cooldown * factor;
    resting_ = false;
    transitions_.warn("cooldown",
                      {{"why", *failure}, {"ms", in_ms(host.timing().cooldown * factor)}});
  } else if (in_force_ && !stopping_) {
    // Let somebody else take it, and never spin: for a while this node does not.
    not_before_ = now + 4 * host.timing().session_timeout;
    resting_ = true;
  }
  offered_ = false;
  // Before the release is sent: others may have seen it before its outcome is known here.
  leads.store(false);
  if (hand_over_ && hand_over_->stage() == HandOver::Stage::resuming)
    hand_over_->resumed(Error(Errc::backend_failed, failure.value_or("its session has ended")));
  if (singleton() && host.holds(options.name)) {
    host.set_candidate(options.name, false, Time{});
    host.release(options.name, target_);
    if (stopping_) end_without_release();
  } else {
    lease_gone();
  }
}

// Nothing of the app runs here. Whoever is to lead next waits until the lease has expired then.
void App::Core::end_without_release() {
  release_limit_ = host.loop().after(kReleaseLimit, [this] {
    if (!held.load() || transition_.phase() != Transition::Phase::standby) return;
    leases_.warn("lease_not_released",
                 {{"epoch", epoch.load()}, {"why", "JetStream has not answered"}});
    held.store(false);
    lease_gone();
  });
}

void App::Core::lease_gone() {
  const bool at_rest = transition_.phase() == Transition::Phase::standby;
  if (held.exchange(false) && at_rest)
    leases_.info("lease_released", {{"epoch", epoch.load()}, {"target", target_}});
  else if (!at_rest && in_force_)
    leases_.error("lease_lost", {{"epoch", epoch.load()}, {"why", "another node has taken it"}});
  leads.store(false);
  drop_hand_over();
  if (at_rest && !step_down_waiters_.empty()) stepped_down();
  forced_ = false;
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
  if (database_ && !database_->ready()) return;
  if (transition_.stuck()) {
    last_error_ =
        "a step was not undone within its time limit: this node does not lead until it is";
    return;
  }
  Time now = BootClock::now();
  if (singleton()) {
    offered_ = true;
    host.set_candidate(options.name, true, not_before_);
  } else if (now >= not_before_) {
    offered_ = true;
    promote();
  } else {
    cooldown_ = host.loop().at(not_before_, [this] { offer(); });
  }
}

void App::Core::session_began() {
  make_backend();
  make_database();
  kv->open(host.jetstream(), host.stream_replicas());
  in_force_ = true;
  if (start_hooks_done_) {
    methods->open(host.connection());
    return offer();
  }
  if (start_hooks_begun_) return;
  start_hooks_begun_ = true;
  run_hooks("on_start", start_hooks, limited_stop(), [this](std::optional<std::string> failure) {
    hook_limit_.reset();
    if (failure) last_error_ = *failure;
    start_hooks_done_ = true;
    if (stopping_) return stop();
    if (in_force_) methods->open(host.connection());
    offer();
  });
}

// For a hook other than on_active, of which one runs at a time: at its limit it is told to return.
std::stop_source App::Core::limited_stop() {
  other_stop_ = std::stop_source();
  hook_limit_ = host.loop().after(hook_timeout(), [this, stop = other_stop_]() mutable {
    // Of on_passive the transition tells.
    if (!start_hooks_done_)
      hooks_.warn("hook_late", {{"hook", "on_start"}, {"ms", in_ms(hook_timeout())}});
    stop.request_stop();
  });
  return other_stop_;
}

void App::Core::session_ended(const std::string& why) {
  drop_hand_over();
  in_force_ = false;
  offered_ = false;
  methods->close_doors();
  // Not with the next session either, before this app is at rest here: offer() says when.
  if (singleton()) host.set_candidate(options.name, false, Time{});
  if (held.exchange(false))
    leases_.error("lease_lost", {{"epoch", epoch.load()}, {"why", "session ended: " + why}});
  leads.store(false);
  if (transition_.phase() == Transition::Phase::standby) return lease_gone();
  last_error_ = "session ended: " + why;
  step([](Transition& t, Time now, Transition::Output& out) { t.demote(true, now, out); });
}

void App::Core::acquired(std::uint64_t new_epoch) {
  newest_epoch.store(std::max(newest_epoch.load(), new_epoch));
  held.store(true);
  leases_.info("lease_taken", {{"epoch", new_epoch}});
  if (stopping_ || transition_.phase() != Transition::Phase::standby || transition_.stuck()) {
    // It came too late to be wanted.
    host.set_candidate(options.name, false, Time{});
    offered_ = false;
    if (transition_.phase() == Transition::Phase::standby) host.release(options.name, {});
    return;
  }
  epoch.store(new_epoch);
  leads.store(true);
  promote();
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

HookThrew App::Core::hook_threw() {
  return [this, alive = alive_, &loop = host.loop()](const char* hook, const std::string& why) {
    loop.post([this, alive, hook, why] {
      if (*alive)
        hooks_.enter(log::Level::error, "hook_threw",
                     std::array{log::Field{"hook", hook}, log::Field{"why", why}});
    });
  };
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
       LeaderChange{options.name, now_leads}, hook_threw());
}

void App::Core::member_joined(const Member& member) {
  tell(*strand_, "on_member_join", options.name, join_hooks, member, hook_threw());
}

void App::Core::member_left(const Member& member) {
  tell(*strand_, "on_member_leave", options.name, leave_hooks, member, hook_threw());
}

void App::Core::records_changed() {
  if (database_) database_->others_changed();
}

void App::Core::step_down(const StepDown& how, Callback<SteppedDown> done) {
  const std::string app = "app \"" + options.name + "\"";
  if (!singleton())
    return done(
        Error(Errc::invalid_argument, app + " is no singleton: it has no leader to step down"));
  if (!held.load())
    return done(
        Error(Errc::not_leader, app + ": node \"" + host.node_name() + "\" does not lead it"));
  if (how.target == host.node_name()) return done(SteppedDown{epoch.load(), how.target});
  if (!how.target.empty() && !host.is_live(how.target))
    return done(Error(Errc::node_not_found,
                      app + ": target \"" + how.target + "\" is no live node of this platform"));
  if (step_down_waiters_.size() >= kMostStepDownWaiters)
    return done(Error(Errc::unavailable, app + ": " + std::to_string(kMostStepDownWaiters) +
                                             " requests wait for it to step down already"));
  using Phase = Transition::Phase;
  const auto phase = transition_.phase();
  if (phase == Phase::promoting && !how.force && !hand_over_)
    return done(Error(Errc::unavailable,
                      app + " is not active yet on node \"" + host.node_name() +
                          "\", which leads: wait until it is, or break that off by force"));
  const bool goes_on = hand_over_ || phase == Phase::demoting || phase == Phase::held;
  if (goes_on && !how.target.empty() && how.target != target_)
    return done(
        Error(Errc::unavailable, app + " is being handed over already" +
                                     (target_.empty() ? "" : ", to node \"" + target_ + "\"")));
  const auto id = ++last_step_down_waiter_;
  step_down_waiters_.emplace(
      id, StepDownWaiter{std::move(done), how.timeout,
                         host.loop().after(how.timeout, [this, id] { step_down_is_late(id); })});
  if (!goes_on) return hand_over(how);
  forced_ = forced_ || how.force;
  if (hand_over_ && how.force) hand_over_->force();
}

void App::Core::hand_over(const StepDown& how) {
  target_ = how.target;
  forced_ = how.force;
  transitions_.info(
      "step_down",
      {{"epoch", epoch.load()}, {"target", how.target}, {"force", how.force ? "true" : "false"}});
  // By force, and nothing of it works yet.
  if (transition_.phase() != Transition::Phase::active)
    return step(
        [](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
  HandOver::Options with{how.target, how.force, options.sqlite.drain_timeout,
                         BootClock::now() + how.timeout};
  // It may be over before it has begun.
  const auto begun = std::make_shared<HandOver>(host.loop(), std::move(with), surroundings());
  hand_over_ = begun;
  begun->begin();
}

HandOver::Surroundings App::Core::surroundings() {
  HandOver::Surroundings around;
  around.candidates = [this] { return candidates(); };
  around.ask = [this](const std::string& node, const LeadQuery& query, Callback<LeadState> done) {
    ask_node(node, query, std::move(done));
  };
  around.ask_store = [this](Completion done) {
    host.jetstream().stream("KV_" + host.platform_name() + "_leases",
                            [done = std::move(done)](const Result<nats::StreamState>& state) {
                              done(state ? Failure() : Failure(state.error()));
                            });
  };
  if (database_)
    around.database = {[this](const sqlite::DrainLimits& limits, bool seal, Completion done) {
                         database_->drain(limits, seal, std::move(done));
                       },
                       [this](std::function<void()> done) { database_->unseal(std::move(done)); },
                       [this] { return database_->stored_up_to(); }};
  around.hold = [this] {
    step(
        [](Transition& t, Time now, Transition::Output& out) { t.hold(Step::database, now, out); });
  };
  around.resume = [this] {
    // Else it goes down already, for another reason.
    if (transition_.phase() != Transition::Phase::held) return;
    step([](Transition& t, Time now, Transition::Output& out) { t.resume(now, out); });
  };
  around.release = [this](const std::string& next) {
    target_ = next;
    handed_over_ = true;
    step([](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
  };
  around.called_off = [this](const Error& why) { called_off(why); };
  return around;
}

void App::Core::drop_hand_over() {
  if (!hand_over_) return;
  hand_over_->end();
  // It may be this that has called.
  host.loop().post([dropped = std::exchange(hand_over_, nullptr)] {});
}

void App::Core::called_off(const Error& why) {
  drop_hand_over();
  target_.clear();
  forced_ = false;
  const auto left = database_ ? database_->unsent() : sqlite::Unsent{};
  transitions_.warn("step_down_refused", {{"epoch", epoch.load()},
                                          {"why", why.what()},
                                          {"transactions", left.transactions()},
                                          {"bytes", left.bytes}});
  answer_step_down(Error(
      why.errc(), "app \"" + options.name + "\" is not handed over: " + std::string(why.what())));
}

void App::Core::stepped_down() {
  const Duration stopped = BootClock::now() - transition_begun_;
  transitions_.tell(left_.transactions() > 0 ? log::Level::warn : log::Level::info, "stepped_down",
                    {{"epoch", epoch.load()},
                     {"target", target_},
                     {"stopped_ms", in_ms(stopped)},
                     {"left", left_.transactions()}});
  if (left_.transactions() > 0 && !forced_)
    return answer_step_down(Error(Errc::not_replicated,
                                  "app \"" + options.name +
                                      "\" has been handed over, but this was left on node \"" +
                                      host.node_name() + "\", not in JetStream: " + to_text(left_) +
                                      (left_.why.empty() ? "" : ": " + left_.why)));
  answer_step_down(SteppedDown{epoch.load(), target_, stopped, left_});
}

void App::Core::answer_step_down(const Result<SteppedDown>& result) {
  for (auto& [id, waiter] : std::exchange(step_down_waiters_, {})) waiter.done(result);
}

void App::Core::step_down_is_late(std::uint64_t waiter) {
  const auto it = step_down_waiters_.find(waiter);
  const std::string within =
      "not done within " + std::to_string(it->second.timeout.count()) + " ms" +
      (hand_over_ ? std::string(", while ") + to_text(hand_over_->stage()) : std::string());
  const auto left = database_ ? database_->unsent() : sqlite::Unsent{};
  const std::string to_send =
      left.transactions() > 0 ? "; not in JetStream yet: " + to_text(left) : "";
  if (hand_over_ && step_down_waiters_.size() == 1 &&
      hand_over_->call_off_now(Error(Errc::timeout, within + to_send)))
    return;
  auto late = step_down_waiters_.extract(it);
  late.mapped().done(Error(Errc::timeout, "app \"" + options.name + "\" is being handed over: " +
                                              within + "; it goes on" + to_send));
}

// Who would take the lease first comes first.
std::vector<std::string> App::Core::candidates() const {
  auto nodes = host.nodes_with(options.name);
  std::erase(nodes, host.node_name());
  std::vector<std::string> ranked(nodes.size());
  for (const auto& node : nodes)
    ranked.at(static_cast<std::size_t>(coord::rank_of(options.name, node, nodes))) = node;
  return ranked;
}

void App::Core::ask_node(const std::string& node, const LeadQuery& query,
                         Callback<LeadState> done) {
  LeadQuery asked = query;
  asked.app = options.name;
  nats::Message request;
  request.subject = host.platform_name() + "._.node." + node + ".lead";
  request.data = to_text(asked);
  host.connection().request(
      std::move(request), kAskNode,
      [alive = alive_, done = std::move(done)](const Result<nats::Message>& answer) {
        if (!*alive) return;
        if (!answer)
          return done(Error(answer.error().errc(),
                            std::string("it does not answer: ") + answer.error().what()));
        const auto refusal = answer.value().header("Nats-Service-Error");
        if (!refusal.empty()) return done(Error(Errc::unavailable, std::string(refusal)));
        done(lead_state_from(answer.value().data));
      });
}

void App::Core::lead_state(const LeadQuery& query, Callback<LeadState> done) {
  LeadState state = lead_state_now(query.sequence);
  if (!query.check || !state.ready || !database_) return done(std::move(state));
  database_->check([this, query, done = std::move(done)](const Result<std::string>& wrong) {
    LeadState now = lead_state_now(query.sequence);
    if (!wrong || !wrong.value().empty()) {
      now.ready = false;
      now.why = wrong ? "its copy is damaged: " + wrong.value() : wrong.error().what();
    }
    done(std::move(now));
  });
}

LeadState App::Core::lead_state_now(std::uint64_t sequence) const {
  LeadState state;
  state.phase = phase_text();
  state.epoch = epoch.load();
  state.why = why_not_ready();
  state.ready = state.why.empty();
  if (database_) state.sequence = database_->status().sequence;
  state.has = state.sequence >= sequence;
  state.last_error = last_error_;
  if (!hand_over_) return state;
  HandOverProgress progress{to_text(hand_over_->stage()), hand_over_->next(), !hand_over_->live()};
  if (database_) {
    const auto left = database_->unsent();
    progress.transactions = left.transactions();
    progress.bytes = left.bytes;
  }
  state.hand_over = progress;
  return state;
}

// Why this node would not take the lease, or not lead soon after; empty: it would.
std::string App::Core::why_not_ready() const {
  if (!in_force_) return "it has no session";
  if (stopping_) return "it is stopping";
  if (!start_hooks_done_) return "its on_start has not returned yet";
  if (transition_.phase() != Transition::Phase::standby) return "the app is " + phase_text();
  if (transition_.stuck()) return "a step was not undone within its time limit, and still is not";
  if (const Time now = BootClock::now(); now < not_before_ && !resting_)
    return "it failed to lead, and waits for another " + std::to_string(in_ms(not_before_ - now)) +
           " ms: " + last_error_;
  if (!database_ || database_->ready()) return {};
  const auto status = database_->status();
  std::string why = std::string("its database is not ready: ") + to_text(status.copy);
  if (status.copy == sqlite::DatabaseCopy::Phase::restoring)
    why += ", " + std::to_string(status.restored_percent) + " %";
  if (status.copy == sqlite::DatabaseCopy::Phase::following)
    why += ", and not up to date or not proven yet";
  return why + (status.trouble.empty() ? "" : ": " + status.trouble);
}

std::string App::Core::why_up() const {
  if (const auto now = transition_.current())
    return std::string("its step ") + to_text(*now) + " has not come to its end";
  if (transition_.phase() != Transition::Phase::standby) return phase_text();
  if (held.load()) return "its lease is not released";
  return stopped_ ? "its on_stop, or its database, has not ended" : "its on_start has not returned";
}

sqlite::Unsent App::Core::unsent_at_stop() const {
  const bool leads_still =
      database_ && database_->status().role != sqlite::ReplicatedDatabase::Role::standby;
  return leads_still ? database_->unsent() : left_;
}

void App::Core::stop() {
  drop_hand_over();
  if (!std::exchange(stopping_, true)) left_ = {};
  cooldown_.reset();
  if (singleton()) host.set_candidate(options.name, false, Time{});
  if (start_hooks_begun_ && !start_hooks_done_) {
    // Goes on when on_start has returned, which it is told to do.
    other_stop_.request_stop();
    if (!stop_limit_)
      stop_limit_ = host.loop().after(hook_timeout(), [this] {
        hooks_.error("hook_given_up", {{"hook", "on_start"}, {"ms", in_ms(hook_timeout())}});
        finish_stop();
      });
    return;
  }
  if (transition_.phase() != Transition::Phase::standby)
    step([](Transition& t, Time now, Transition::Output& out) { t.demote(false, now, out); });
  else if (held.load())
    end_without_release();
  else
    finish_stop();
}

void App::Core::finish_stop() {
  if (stopped_) return;
  release_limit_.reset();
  stopped_ = true;
  methods->close_doors();
  auto close = [this] {
    stop_limit_.reset();
    over();
    down_ = true;
    host.app_is_down(options.name);
  };
  auto done = [this, close] {
    if (!database_) return close();
    stop_limit_.reset();
    database_->stop(close);
  };
  if (!start_hooks_done_ || stop_hooks.empty()) return done();
  auto once = std::make_shared<bool>(false);
  auto finish = [once, done] {
    if (!std::exchange(*once, true)) done();
  };
  other_stop_ = std::stop_source();
  stop_limit_ = host.loop().after(hook_timeout(), [this, finish] {
    other_stop_.request_stop();
    hooks_.error("hook_given_up", {{"hook", "on_stop"}, {"ms", in_ms(hook_timeout())}});
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
  drop_hand_over();
  held.store(false);
  leads.store(false);
  held_last_ = held_database();
  database_.reset();
  snapshots_core->close();
  kv->close();
  methods->close();
  for (auto& [id, waiter] : std::exchange(position_waiters_, {}))
    waiter.done(
        Error(Errc::shutting_down, "app \"" + options.name + "\": the platform has stopped"));
  {
    std::lock_guard lock(mutex_);
    shut_down_ = true;
  }
  changed_.notify_all();
  answer_step_down(
      Error(Errc::shutting_down, "app \"" + options.name + "\": the platform has stopped"));
}

std::string App::Core::phase_text() const {
  switch (transition_.phase()) {
    case Transition::Phase::standby:
      return BootClock::now() < not_before_ && !last_error_.empty() ? "cooldown" : "standby";
    case Transition::Phase::promoting: return "promoting";
    case Transition::Phase::active: return "active";
    case Transition::Phase::demoting:
    case Transition::Phase::held: return "demoting";
  }
  return "unknown";
}

App::Core::Seen App::Core::seen() const {
  Seen seen;
  seen.role = role.load();
  seen.phase = phase_text();
  seen.leader = leader();
  seen.last_error = last_error_;
  seen.steps = step_times_.all();
  seen.calls = methods->counts();
  if (backend_) seen.backend = backend_->status();
  if (database_) seen.database = database_->status();
  return seen;
}

void App::Core::wait_for_position(const DatabasePosition& position, Duration limit,
                                  Completion done) {
  if (!database_)
    return done(Error(Errc::unavailable,
                      "app \"" + options.name + "\": its database is not there before a session"));
  if (database_->has(position.epoch, position.txid, position.sequence)) return done(std::nullopt);
  if (position_waiters_.size() >= kMostPositionWaiters)
    return done(Error(Errc::unavailable, "app \"" + options.name +
                                             "\": " + std::to_string(kMostPositionWaiters) +
                                             " calls wait for its database already"));
  const auto id = ++last_waiter_;
  auto timer = host.loop().after(limit, [this, id, position] {
    auto waiter = position_waiters_.extract(id);
    waiter.mapped().done(
        Error(Errc::timeout, "app \"" + options.name + "\": node \"" + host.node_name() +
                                 "\" has not come to transaction " + std::to_string(position.txid) +
                                 " of epoch " + std::to_string(position.epoch) +
                                 " within the time limit"));
  });
  position_waiters_.emplace(id, PositionWaiter{position, std::move(done), std::move(timer)});
}

void App::Core::check_position_waiters() {
  std::vector<Completion> reached;
  for (auto it = position_waiters_.begin(); it != position_waiters_.end();) {
    const auto& at = it->second.position;
    if (database_->has(at.epoch, at.txid, at.sequence)) {
      reached.push_back(std::move(it->second.done));
      it = position_waiters_.erase(it);
    } else {
      ++it;
    }
  }
  for (auto& done : reached) done(std::nullopt);
}

bool App::Core::is_leader() const noexcept {
  return leads.load() && BootClock::now().time_since_epoch().count() < host.limit_ns();
}

std::optional<Leader> App::Core::leader() const {
  std::lock_guard lock(mutex_);
  return leader_;
}

void App::Core::check_answered(const char* what) const {
  {
    const std::lock_guard lock(mutex_);
    if (shut_down_)
      throw Error(Errc::shutting_down,
                  std::string(what) + " of app \"" + options.name + "\": the platform has stopped");
  }
  if (host.loop().in_loop())
    throw Error(Errc::invalid_argument,
                std::string(what) + " of app \"" + options.name +
                    "\" was called before Platform::run() or from its loop: "
                    "it would wait for itself");
}

void App::Core::on_loop(std::function<void()> task) {
  host.loop().post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

std::string App::Core::database_file() const {
  return database_leads->load() || options.sqlite.replica.empty() ? options.sqlite.path
                                                                  : options.sqlite.replica;
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

void App::Core::step_down_and_wait(const StepDown& how) {
  forbid_from_hooks("step_down");
  {
    std::lock_guard lock(mutex_);
    if (shut_down_)
      throw Error(Errc::shutting_down, "app \"" + options.name + "\": the platform has stopped");
  }
  const auto timeout = std::min(how.timeout, kLongestWait);
  auto answer = std::make_shared<std::promise<Failure>>();
  auto future = answer->get_future();
  StepDown within = how;
  within.timeout = timeout;
  host.loop().post([this, alive = alive_, answer, within] {
    if (!*alive) return answer->set_value(Error(Errc::shutting_down, "the platform has stopped"));
    step_down(within, [answer](const Result<SteppedDown>& result) {
      answer->set_value(result ? Failure() : Failure(result.error()));
    });
  });
  if (future.wait_for(timeout + kAnswerPatience) != std::future_status::ready)
    throw Error(Errc::timeout, "step_down of app \"" + options.name +
                                   "\": the node's loop has not answered within " +
                                   std::to_string(timeout.count()) + " ms");
  if (auto failure = future.get()) throw *failure;
}

}  // namespace cluster
