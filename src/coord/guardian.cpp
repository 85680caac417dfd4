#include "coord/guardian.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cluster/error.h"
#include "core/log.h"

#ifndef CLUSTER_LIBEXEC_DIR
#define CLUSTER_LIBEXEC_DIR "/usr/local/libexec/cpp-cluster"
#endif

namespace cluster::coord {
namespace {

constexpr Duration kFirstBackoff = std::chrono::milliseconds(50);
constexpr Duration kMostBackoff = std::chrono::seconds(5);
constexpr int kEndLimit = 1'000;  // ms
// Of one that has nothing left to write: it ends at once, but a busy machine may be slow to run it.
constexpr int kSettledEndLimit = 10'000;  // ms
constexpr int kFirstFree = 8;             // the guardian finds its descriptors at 3 to 7

bool executable(const std::string& path) {
  return !path.empty() && ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::string find_guardian(const std::string& program) {
  if (!program.empty()) return executable(program) ? program : std::string();
  if (const char* named = std::getenv("CPP_CLUSTER_GUARDIAN"); named && executable(named))
    return named;
  std::error_code error;
  auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    auto beside = (self.parent_path() / "cpp-cluster-guardian").string();
    if (executable(beside)) return beside;
    auto relocated =
        (self.parent_path().parent_path() / "libexec/cpp-cluster/cpp-cluster-guardian").string();
    if (executable(relocated)) return relocated;
  }
  std::string installed = CLUSTER_LIBEXEC_DIR "/cpp-cluster-guardian";
  return executable(installed) ? installed : std::string();
}

Guardian::Guardian(Loop& loop, Options options)
    : loop_(loop), options_(std::move(options)), backoff_(kFirstBackoff) {
  self_pidfd_ = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  if (self_pidfd_ < 0)
    throw Error(Errc::system, std::string("guardian: pidfd_open: ") + std::strerror(errno));
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0)
    throw Error(Errc::system, std::string("guardian: eventfd: ") + std::strerror(errno));
}

void Guardian::set_limit(Time limit, Duration margin) {
  memory_.set_limit(limit, margin);
  // Later limits are found when the former one would come. A session that gets its first voters has
  // a limit that is sooner, by far.
  if (limit < limit_) wake();
  limit_ = limit;
}

void Guardian::wake() const {
  // It can only fail when the counter is full, and then the guardian has yet to look.
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_fd_, &one, sizeof one);
}

Guardian::~Guardian() {
  exit_.reset();
  retry_.reset();
  if (pidfd_ >= 0) {
    memory_.state().over.store(true);
    wake();
    pollfd ended{.fd = pidfd_, .events = POLLIN, .revents = 0};
    const int limit = memory_.state().left.load() ? kSettledEndLimit : kEndLimit;
    if (::poll(&ended, 1, limit) == 1) ::waitpid(pid_, nullptr, 0);
    ::close(pidfd_);
  }
  ::close(self_pidfd_);
  ::close(wake_fd_);
}

void Guardian::start() {
  path_ = find_guardian(options_.program);
  if (path_.empty()) {
    log::warn(
        "no_guardian",
        {{"node", options_.node},
         {"means",
          "when this process is killed or stopped, what it runs is ended only at the next start "
          "here"},
         {"do",
          "install cpp-cluster, or set CPP_CLUSTER_GUARDIAN to the program cpp-cluster-guardian"}});
    return;
  }
  spawn();
}

void Guardian::spawn() {
  int job = ::memfd_create("cpp-cluster-guardian-job", MFD_CLOEXEC);
  std::string text = to_json(GuardianJob{options_.platform, options_.node, options_.marker,
                                         options_.nats, options_.give_up});
  bool written =
      job >= 0 && ::write(job, text.data(), text.size()) == static_cast<ssize_t>(text.size());

  // They are copied out of the way first: dup2 in the child could otherwise overwrite one that is
  // still to be copied.
  std::vector<int> from{memory_.fd(), options_.lock_fd, self_pidfd_, job, wake_fd_};
  std::vector<int> high;
  for (int fd : from) high.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstFree));
  bool copied = std::all_of(high.begin(), high.end(), [](int fd) { return fd >= 0; });

  int result = errno;
  pid_t pid = 0;
  if (written && copied) {
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    for (std::size_t i = 0; i < high.size(); ++i)
      posix_spawn_file_actions_adddup2(&files, high[i], static_cast<int>(3 + i));
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigset_t defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    // A session of its own: Ctrl-C in the node's terminal is not for the guardian.
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::string name = "cpp-cluster-guardian";
    std::string whose = options_.platform + "/" + options_.node;
    char* arguments[] = {name.data(), whose.data(), nullptr};
    result = posix_spawn(&pid, path_.c_str(), &files, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
  }
  for (int fd : high)
    if (fd >= 0) ::close(fd);
  if (job >= 0) ::close(job);

  if (result == 0) {
    pidfd_ = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (pidfd_ < 0) {
      result = errno;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  if (result == 0) {
    pid_ = pid;
    exit_ = loop_.on_exit(pidfd_, [this] { ended(); });
    log::debug("guardian_started", {{"node", options_.node}, {"pid", pid}});
    return;
  }
  log::error("guardian_failed",
             {{"node", options_.node}, {"program", path_}, {"why", std::strerror(result)}});
  retry_ = loop_.after(backoff_, [this] { spawn(); });
  backoff_ = std::min(backoff_ * 2, kMostBackoff);
}

void Guardian::ended() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  std::string how = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                        : "status " + std::to_string(WEXITSTATUS(status));
  log::warn("guardian_ended", {{"node", options_.node}, {"pid", pid_}, {"how", how}});
  exit_.reset();
  ::close(pidfd_);
  pidfd_ = -1;
  pid_ = 0;
  retry_ = loop_.after(backoff_, [this] { spawn(); });
  backoff_ = std::min(backoff_ * 2, kMostBackoff);
  if (!WIFEXITED(status))
    backoff_ = kFirstBackoff;  // killed from outside: nothing is wrong with the program
}

std::string to_json(const GuardianJob& job) {
  const auto& n = job.nats;
  return nlohmann::json{{"platform", job.platform},
                        {"node", job.node},
                        {"marker", job.marker},
                        {"servers", n.servers},
                        {"creds", n.creds_file},
                        {"nkey", n.nkey_seed_file},
                        {"user", n.user},
                        {"password", n.password},
                        {"token", n.token},
                        {"tls", n.tls.enabled},
                        {"ca", n.tls.ca_file},
                        {"cert", n.tls.cert_file},
                        {"key", n.tls.key_file},
                        {"server_name", n.tls.server_name},
                        {"skip_verification", n.tls.skip_verification},
                        {"give_up_ns", job.give_up.count()}}
      .dump();
}

GuardianJob guardian_job_from(const std::string& text) {
  try {
    auto json = nlohmann::json::parse(text);
    GuardianJob job;
    job.platform = json.at("platform");
    job.node = json.at("node");
    job.marker = json.at("marker");
    job.give_up = Duration(json.at("give_up_ns").get<std::int64_t>());
    auto& n = job.nats;
    n.servers = json.at("servers").get<std::vector<std::string>>();
    n.creds_file = json.at("creds");
    n.nkey_seed_file = json.at("nkey");
    n.user = json.at("user");
    n.password = json.at("password");
    n.token = json.at("token");
    n.tls.enabled = json.at("tls");
    n.tls.ca_file = json.at("ca");
    n.tls.cert_file = json.at("cert");
    n.tls.key_file = json.at("key");
    n.tls.server_name = json.at("server_name");
    n.tls.skip_verification = json.at("skip_verification");
    return job;
  } catch (const nlohmann::json::exception& e) {
    throw Error(Errc::corrupt, std::string("guardian: its job is not readable: ") + e.what());
  }
}

}  // namespace cluster::coord
