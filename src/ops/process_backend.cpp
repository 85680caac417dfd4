#include "ops/process_backend.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/check.h"
#include "core/log.h"
#include "core/process_scan.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstPause = 5ms;  // between readiness checks, doubling to …
constexpr Duration kLongestPause = 200ms;
constexpr Duration kProbeLimit = 1s;
constexpr Duration kPortFreeLimit = 1s;  // for an earlier program's port to become free
constexpr Duration kEndPass = 200ms;     // how long one look for left-overs may take
constexpr Duration kWarnEvery = 10s;     // while something does not die
constexpr std::size_t kTailBytes = 2048;
constexpr int kTailLines = 10;

std::string in_ms(Duration d) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(d).count()) + " ms";
}

std::string describe_exit(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return "exited with status " + std::to_string(info.si_status);
  const char* name = ::sigabbrev_np(info.si_status);
  std::string signal =
      name ? "SIG" + std::string(name) : "signal " + std::to_string(info.si_status);
  return "was ended by " + signal + (info.si_code == CLD_DUMPED ? " (core dumped)" : "");
}

// The last lines that the program wrote to its log file since `start`.
std::string read_tail(const std::string& path, off_t start) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat found{};
  if (!fd || ::fstat(fd.get(), &found) != 0 || !S_ISREG(found.st_mode) || found.st_size <= start)
    return {};
  off_t from = std::max(start, found.st_size - static_cast<off_t>(kTailBytes));
  std::string text(static_cast<std::size_t>(found.st_size - from), '\0');
  ssize_t n = ::pread(fd.get(), text.data(), text.size(), from);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::size_t at = text.size();
  for (int lines = 0; lines < kTailLines && at != std::string::npos && at > 0; ++lines)
    at = text.rfind('\n', at - 1);
  if (at != std::string::npos && at > 0) text.erase(0, at + 1);
  return text;
}

}  // namespace

std::vector<std::string> check_process(const Process& process, const std::string& path) {
  std::vector<std::string> problems;
  auto refuse = [&](const std::string& key, const std::string& why) {
    problems.push_back(path + "." + key + ": " + why);
  };
  if (process.command.empty() || process.command.front().empty())
    refuse("command", "is empty; give the program and its arguments");
  for (const auto& word : process.command)
    if (word.find('\0') != std::string::npos) refuse("command", "holds a zero byte");
  for (const auto& [name, value] : process.environment) {
    if (name.empty() || name.find('=') != std::string::npos || name.find('\0') != std::string::npos)
      refuse("environment", "\"" + name + "\" is no name of a variable");
    if (value.find('\0') != std::string::npos) refuse("environment." + name, "holds a zero byte");
    if (name.rfind("CPP_CLUSTER_", 0) == 0)
      refuse("environment." + name, "names with CPP_CLUSTER_ are set by the node");
  }
  if (const auto* tcp = std::get_if<ReadyTcp>(&process.ready)) {
    if (tcp->port < 1 || tcp->port > 65535)
      refuse("ready.port", std::to_string(tcp->port) + " is no port from 1 to 65535");
    if (tcp->host.empty()) refuse("ready.host", "is empty");
  } else if (const auto* http = std::get_if<ReadyHttp>(&process.ready)) {
    try {
      parse_http_url(http->url);
    } catch (const Error& error) {
      refuse("ready.url", error.what());
    }
  } else if (std::get<ReadyDelay>(process.ready).delay < 0ms) {
    refuse("ready.delay", "is negative");
  } else if (std::get<ReadyDelay>(process.ready).delay >= process.ready_timeout) {
    refuse("ready.delay",
           "must be shorter than ready_timeout (" + in_ms(process.ready_timeout) + ")");
  }
  if (process.ready_timeout <= 0ms) refuse("ready_timeout", "must be above 0");
  if (process.health_interval < 0ms)
    refuse("health_interval", "is negative; 0 turns health checks off");
  if (process.health_failures < 1) refuse("health_failures", "must be at least 1");
  if (process.stop_timeout < 0ms) refuse("stop_timeout", "is negative");
  if (process.backoff_min <= 0ms) refuse("backoff_min", "must be above 0");
  if (process.backoff_max < process.backoff_min)
    refuse("backoff_max", "must be at least backoff_min");
  if (process.max_restarts < 0) refuse("max_restarts", "is negative");
  if (process.restart_window <= 0ms) refuse("restart_window", "must be above 0");
  return problems;
}

struct ProcessBackend::Cleared {
  bool group_alive = false;
  EndedProcesses strays;
  std::string tail;
  std::string error;
};

ProcessBackend::ProcessBackend(Loop& loop, StrandPool& pool, BackendContext context,
                               Process process)
    : loop_(loop),
      strand_(pool.strand()),
      context_(std::move(context)),
      journal_("backend", context_.app, context_.node, context_.audit),
      process_(std::move(process)),
      node_environment_(cluster::node_environment()),
      probe_(loop) {
  CLUSTER_CHECK(!context_.app.empty() && !context_.marker.empty());
}

ProcessBackend::~ProcessBackend() {
  if (!child_) return;
  kill_group();
  pollfd wait{.fd = child_->pidfd.get(), .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, 1000) > 0) {
    reap();
  } else {
    log::error("backend_does_not_end", {{"app", context_.app}, {"pid", child_->pid}});
  }
}

const char* ProcessBackend::name(State state) {
  switch (state) {
    case State::stopped: return "stopped";
    case State::starting: return "starting";
    case State::ready: return "ready";
    case State::backing_off: return "backing_off";
    case State::stopping: return "stopping";
    case State::failed: return "failed";
  }
  return "unknown";
}

ProcessBackend::Status ProcessBackend::status() const {
  return {.state = state_,
          .since = since_,
          .pid = child_ && !leader_gone_ ? child_->pid : 0,
          .restarts = restarts_,
          .last_exit = last_exit_,
          .last_health = last_health_};
}

void ProcessBackend::set_state(State state) {
  if (state_ == state) return;
  state_ = state;
  since_ = BootClock::now();
}

std::vector<std::string> ProcessBackend::marks() const {
  return {instance_mark(context_.marker), "CPP_CLUSTER_APP=" + context_.app};
}

std::string ProcessBackend::described(const std::string& what) const {
  return "app \"" + context_.app + "\": program \"" + process_.command.front() + "\" " + what;
}

// `work` runs on the strand and returns what is to be done on the loop with its result.
void ProcessBackend::on_strand(std::function<std::function<void()>()> work) {
  std::weak_ptr<char> alive = alive_;
  auto task = [&loop = loop_, alive, work = std::move(work)] {
    auto then = work();
    loop.post([alive, then = std::move(then)] {
      if (!alive.expired()) then();
    });
  };
  if (!strand_->post(task)) task();  // the pool is ending: slower on the loop, but not left undone
}

// ---- start

void ProcessBackend::start(uint64_t epoch, std::string role,
                           std::function<void(std::optional<Error>)> done) {
  CLUSTER_CHECK(loop_.in_loop());
  CLUSTER_CHECK(phase_ == Phase::idle && !stop_wanted_);
  epoch_ = epoch;
  role_ = std::move(role);
  start_done_ = std::move(done);
  restarts_ = 0;
  recent_restarts_.clear();
  begin_attempt();
}

void ProcessBackend::begin_attempt() {
  uint64_t attempt = ++attempt_;
  phase_ = Phase::preparing;
  set_state(State::starting);
  failure_.clear();
  clean_exit_ = false;
  leader_gone_ = false;
  killed_ = false;
  health_failures_ = 0;
  last_health_.clear();
  pause_ = kFirstPause;
  attempt_began_ = BootClock::now();
  limit_ = loop_.after(process_.ready_timeout, [this] { not_ready_in_time(); });
  std::vector<std::string> extra = {
      "CPP_CLUSTER_PLATFORM=" + context_.platform,   "CPP_CLUSTER_APP=" + context_.app,
      "CPP_CLUSTER_NODE=" + context_.node,           "CPP_CLUSTER_ROLE=" + role_,
      "CPP_CLUSTER_EPOCH=" + std::to_string(epoch_), instance_mark(context_.marker)};
  if (!context_.database.empty()) {
    extra.push_back("CPP_CLUSTER_DATABASE=" + context_.database);
    extra.push_back(std::string("CPP_CLUSTER_COMMIT=") +
                    (context_.commit == Commit::replicated ? "replicated" : "async"));
    extra.push_back("CPP_CLUSTER_COMMIT_TIMEOUT=" +
                    std::to_string(context_.commit_timeout.count()));
    const std::string folder = context_.commit_folder ? context_.commit_folder() : "";
    if (!folder.empty()) extra.push_back("CPP_CLUSTER_COMMIT_FOLDER=" + folder);
  }
  on_strand([this, attempt, process = process_, environment = node_environment_,
             extra = std::move(extra)] {
    auto launch = std::make_shared<std::optional<Launch>>();
    auto target = std::make_shared<std::optional<ProbeTarget>>();
    std::string error;
    try {
      *launch = prepare_launch(process, environment, extra);
      *target = resolve_probe(process.ready);
    } catch (const std::exception& e) {
      launch->reset();
      error = e.what();
    }
    return std::function<void()>([this, attempt, launch, target, error] {
      if (attempt == attempt_ && phase_ == Phase::preparing)
        prepared(std::move(*launch), std::move(*target), error);
    });
  });
}

void ProcessBackend::prepared(std::optional<Launch> launch, std::optional<ProbeTarget> target,
                              const std::string& error) {
  if (!launch) {
    fail_attempt("could not be started: " + error);
    return;
  }
  launch_ = std::move(launch);
  target_ = std::move(target);
  launch_when_free();
}

// Another program that answers at the place where readiness is asked would make this one look
// ready. An earlier one of ours may be about to end, so a moment is granted.
void ProcessBackend::launch_when_free() {
  if (!target_) {
    this->launch();
    return;
  }
  ProbeTarget port = *target_;
  port.request.clear();
  probe_.ask(port, kProbeLimit, [this](const ProbeResult& result) {
    if (!result.ok) {
      this->launch();
    } else if (BootClock::now() - attempt_began_ < kPortFreeLimit) {
      timer_ = loop_.after(pause_, [this] { launch_when_free(); });
      pause_ = std::min(pause_ * 2, kLongestPause);
    } else {
      fail_attempt(
          "was not started: another program already answers at " + target_->name +
          ", where it would be asked whether it is ready; end that one, or correct `ready`");
    }
  });
}

void ProcessBackend::launch() {
  try {
    child_ = spawn(*launch_);
    if (process_group_) process_group_(child_->pid);
  } catch (const std::exception& error) {
    if (!child_) {
      fail_attempt(std::string("could not be started: ") + error.what());
      return;
    }
    // The gate stays shut: it has not run.
    failure_ = std::string("could not be started: ") + error.what();
    child_->gate.reset();
  }
  phase_ = Phase::launching;
  pause_ = kFirstPause;
  exit_ = loop_.on_exit(child_->pidfd.get(), [this] { exited(); });
  if (!failure_.empty()) return;
  exec_ = loop_.on_fd(child_->exec_result.get(), EPOLLIN, [this](unsigned) { exec_reported(); });
  open_gate(*child_);
}

void ProcessBackend::exec_reported() {
  std::string why;
  ExecState state = exec_state(*child_, *launch_, why);
  if (state == ExecState::pending) return;
  exec_.reset();
  child_->exec_result.reset();
  if (state == ExecState::failed) {
    failure_ = "could not be started: " + why;  // its exit follows
    return;
  }
  journal_.info("backend_started", {{"epoch", epoch_}, {"pid", child_->pid}});
  if (phase_ != Phase::launching) return;
  phase_ = Phase::probing;
  if (target_) {
    probe_ready();
  } else {
    timer_ = loop_.after(std::get<ReadyDelay>(process_.ready).delay, [this] { became_ready(); });
  }
}

void ProcessBackend::probe_ready() {
  probe_.ask(*target_, kProbeLimit, [this](const ProbeResult& result) {
    last_health_ = result.text;
    if (result.ok) {
      became_ready();
      return;
    }
    timer_ = loop_.after(pause_, [this] { probe_ready(); });
    // Gently, so that a program that needs half a second is not found late.
    pause_ = std::min(pause_ + pause_ / 8, kLongestPause);
  });
}

void ProcessBackend::became_ready() {
  phase_ = Phase::running;
  limit_.reset();
  timer_.reset();
  set_state(State::ready);
  journal_.info(
      "backend_ready",
      {{"epoch", epoch_}, {"pid", child_->pid}, {"after", in_ms(since_ - attempt_began_)}});
  if (target_ && process_.health_interval > 0ms)
    timer_ = loop_.after(process_.health_interval, [this] { check_health(); });
  if (start_done_) std::exchange(start_done_, nullptr)(std::nullopt);
}

void ProcessBackend::not_ready_in_time() {
  std::string last = last_health_.empty() ? "" : "; the last check: " + last_health_;
  std::string why = "was not ready within " + in_ms(process_.ready_timeout) + last +
                    "; raise `ready_timeout`, or look at its output for why it takes so long";
  if (!child_) {
    fail_attempt(phase_ == Phase::preparing && !launch_
                     ? "was not started within " + in_ms(process_.ready_timeout) +
                           ": looking up its user, its log file or its host name hangs"
                     : why);
    return;
  }
  failure_ = why;
  end_attempt(process_.stop_timeout);
}

void ProcessBackend::check_health() {
  probe_.ask(*target_, kProbeLimit, [this](const ProbeResult& result) {
    last_health_ = result.text;
    health_failures_ = result.ok ? 0 : health_failures_ + 1;
    if (health_failures_ >= process_.health_failures) {
      failure_ = "failed " + std::to_string(health_failures_) +
                 " health checks in a row; the last one: " + result.text;
      journal_.warn("backend_unhealthy",
                    {{"epoch", epoch_}, {"pid", child_->pid}, {"check", result.text}});
      end_attempt(process_.stop_timeout);
      return;
    }
    timer_ = loop_.after(process_.health_interval, [this] { check_health(); });
  });
}

// ---- end

// A failure before there was a process.
void ProcessBackend::fail_attempt(std::string why) {
  failure_ = std::move(why);
  conclude();
}

void ProcessBackend::stop(std::function<void()> done) {
  CLUSTER_CHECK(loop_.in_loop());
  if (done) stop_done_.push_back(std::move(done));
  if (!stop_wanted_) {
    stop_wanted_ = true;
    set_state(State::stopping);
  }
  if (!child_) {
    ++attempt_;  // a preparation under way is no longer wanted
    probe_.cancel();
    timer_.reset();
    limit_.reset();
    soon_ = loop_.at(BootClock::now(), [this] { finish_stop(); });
  } else if (phase_ != Phase::ending && phase_ != Phase::clearing) {
    end_attempt(process_.stop_timeout);
  }
}

void ProcessBackend::kill_now() {
  CLUSTER_CHECK(loop_.in_loop());
  kill_group();
  if (child_ && !std::exchange(killed_, true))
    journal_.warn("backend_killed", {{"epoch", epoch_}, {"pid", child_->pid}, {"after", "0 ms"}});
  stop(nullptr);
  grace_until_ = BootClock::now();
  if (phase_ == Phase::ending) limit_.reset();
}

void ProcessBackend::end_attempt(Duration grace) {
  phase_ = Phase::ending;
  probe_.cancel();
  timer_.reset();
  grace_until_ = BootClock::now() + grace;
  if (grace <= 0ms) {
    kill_group();
    return;
  }
  ::kill(-child_->pid, SIGTERM);
  ::kill(-child_->pid, SIGCONT);  // a stopped program can't heed it
  limit_ = loop_.after(grace, [this] {
    kill_group();
    journal_.warn(
        "backend_killed",
        {{"epoch", epoch_}, {"pid", child_->pid}, {"after", in_ms(process_.stop_timeout)}});
  });
}

// The leader is reaped only when the whole group is gone: until then its id can't be reused.
void ProcessBackend::kill_group() {
  if (child_) ::kill(-child_->pid, SIGKILL);
}

void ProcessBackend::exited() {
  exit_.reset();
  if (exec_) exec_reported();
  exec_.reset();
  timer_.reset();
  limit_.reset();
  probe_.cancel();
  leader_gone_ = true;
  siginfo_t info{};
  bool known = ::waitid(P_PIDFD, static_cast<id_t>(child_->pidfd.get()), &info,
                        WEXITED | WNOWAIT | WNOHANG) == 0 &&
               info.si_pid != 0;
  last_exit_ =
      known ? describe_exit(info) : "ended, its status was taken by another part of this process";
  if (failure_.empty() && !stop_wanted_) {
    clean_exit_ = known && info.si_code == CLD_EXITED && info.si_status == 0;
    failure_ = last_exit_;
    if (phase_ != Phase::running) {
      failure_ += " before it was ready";
      if (clean_exit_)
        failure_ += "; if it puts itself into the background, tell it to stay in the foreground";
    }
  }
  journal_.info("backend_exited", {{"epoch", epoch_}, {"pid", child_->pid}, {"how", last_exit_}});
  if (phase_ != Phase::ending) grace_until_ = BootClock::now();
  phase_ = Phase::clearing;
  next_warning_ = grace_until_ + kWarnEvery;
  pause_ = 1ms;
  clear();
}

// Looks for what is left of the group and of those that have left it, until there is nothing.
void ProcessBackend::clear() {
  if (BootClock::now() >= grace_until_) kill_group();
  bool want_tail = !failure_.empty() && !process_.log_file.empty();
  on_strand([this, group = child_->pid, marks = marks(), start = launch_->log_start,
             file = want_tail ? process_.log_file : std::string()] {
    Cleared result;
    try {
      result.group_alive = group_alive(group);
      if (!result.group_alive) {
        result.strays = end_marked(marks, kEndPass);
        if (!file.empty()) result.tail = read_tail(file, start);
      }
    } catch (const std::exception& error) {
      result.error = error.what();
    }
    return std::function<void()>([this, result] { cleared(result); });
  });
}

void ProcessBackend::cleared(const Cleared& result) {
  for (const auto& stray : result.strays.ended)
    log::info("backend_stray_ended",
              {{"app", context_.app}, {"pid", stray.pid}, {"command", stray.command}});
  if (result.group_alive || !result.strays.remaining.empty() || !result.error.empty()) {
    Time now = BootClock::now();
    if (now >= next_warning_) {
      std::string who =
          result.group_alive ? "its process group " + std::to_string(child_->pid) : "";
      for (const auto& stray : result.strays.remaining)
        who += (who.empty() ? "" : ", ") + std::to_string(stray.pid) + " " + stray.command;
      journal_.warn("backend_does_not_end",
                    {{"epoch", epoch_}, {"who", who}, {"error", result.error}});
      next_warning_ = now + kWarnEvery;
    }
    Duration pause = now < grace_until_ ? std::min(pause_, grace_until_ - now) : pause_;
    timer_ = loop_.after(pause, [this] { clear(); });
    pause_ = std::min(pause_ * 2, result.error.empty() ? Duration(20ms) : Duration(1s));
    return;
  }
  if (!result.tail.empty()) failure_ += "; the end of " + process_.log_file + ":\n" + result.tail;
  reap();
  conclude();
}

void ProcessBackend::reap() {
  // While the zombie holds its id nobody else's group can have it.
  forget_group();
  siginfo_t info{};
  ::waitid(P_PIDFD, static_cast<id_t>(child_->pidfd.get()), &info, WEXITED | WNOHANG);
  exit_.reset();
  exec_.reset();
  child_.reset();
  launch_.reset();
}

void ProcessBackend::forget_group() {
  if (!process_group_) return;
  try {
    process_group_(0);
  } catch (const std::exception& error) {
    log::error("process_group_not_recorded", {{"app", context_.app}, {"error", error.what()}});
  }
}

// Nothing of the attempt is left.
void ProcessBackend::conclude() {
  ++attempt_;
  phase_ = Phase::idle;
  probe_.cancel();
  timer_.reset();
  limit_.reset();
  launch_.reset();
  if (stop_wanted_) {
    journal_.info("backend_stopped", {{"epoch", epoch_}, {"how", last_exit_}});
    finish_stop();
  } else if (start_done_) {
    set_state(State::failed);
    journal_.warn("backend_start_failed", {{"epoch", epoch_}, {"why", failure_}});
    std::exchange(start_done_, nullptr)(Error(Errc::backend_failed, described(failure_)));
  } else {
    restart_or_give_up();
  }
}

void ProcessBackend::finish_stop() {
  phase_ = Phase::idle;
  stop_wanted_ = false;
  set_state(State::stopped);
  auto start_done = std::exchange(start_done_, nullptr);
  auto stop_done = std::exchange(stop_done_, {});
  if (start_done)
    start_done(Error(Errc::shutting_down, described("was stopped before it was ready")));
  for (auto& done : stop_done) done();
}

void ProcessBackend::restart_or_give_up() {
  Time now = BootClock::now();
  while (!recent_restarts_.empty() && now - recent_restarts_.front() >= process_.restart_window)
    recent_restarts_.pop_front();
  if (process_.restart == Restart::never) {
    give_up(true);
    return;
  }
  if (process_.restart == Restart::on_failure && clean_exit_) {
    give_up(false);
    return;
  }
  if (recent_restarts_.size() >= static_cast<std::size_t>(process_.max_restarts)) {
    failure_ = "was restarted " + std::to_string(recent_restarts_.size()) + " times within " +
               in_ms(process_.restart_window) + " and ended again: it " + failure_;
    give_up(true);
    return;
  }
  Duration backoff = process_.backoff_min;
  for (std::size_t i = 0; i < recent_restarts_.size() && backoff < process_.backoff_max; ++i)
    backoff *= 2;
  backoff = std::min<Duration>(backoff, process_.backoff_max);
  recent_restarts_.push_back(now);
  phase_ = Phase::backing_off;
  set_state(State::backing_off);
  journal_.warn("backend_restarts",
                {{"epoch", epoch_}, {"why", failure_}, {"after", in_ms(backoff)}});
  timer_ = loop_.after(backoff, [this] {
    ++restarts_;
    begin_attempt();
  });
}

void ProcessBackend::give_up(bool cooldown) {
  set_state(State::failed);
  journal_.error("backend_failed", {{"epoch", epoch_}, {"why", failure_}, {"cooldown", cooldown}});
  if (failed_) {
    auto failed = failed_;
    failed(Error(Errc::backend_failed, described(failure_)), cooldown);
  }
}

}  // namespace cluster
