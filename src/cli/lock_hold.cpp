#include "cli/lock_hold.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/client.h"
#include "cluster/platform.h"
#include "core/ids.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{20};  // at the lock, the command and signals

/// A folder for a node that does not come back.
class OwnFolder {
 public:
  OwnFolder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "cpp-cluster-hold-XXXXXX").string();
    if (!mkdtemp(name.data()))
      throw Error(Errc::system, "no folder can be made in " +
                                    std::filesystem::temp_directory_path().string() + ": " +
                                    std::strerror(errno));
    path_ = name;
  }
  ~OwnFolder() {
    std::error_code ignored;  // what is left of it does no harm
    std::filesystem::remove_all(path_, ignored);
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// SIGINT and SIGTERM wait to be taken, on all threads that are made from now on.
sigset_t blocked_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM}) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

/// 0: none came in that time.
int signal_within(const sigset_t& set, milliseconds time) {
  const timespec limit{0, std::chrono::nanoseconds(time).count()};
  const int signal = sigtimedwait(&set, nullptr, &limit);
  return signal < 0 ? 0 : signal;
}

/// Dies with the thread that starts it.
pid_t start(const HoldRequest& request, std::uint64_t token) {
  std::vector<char*> arguments;
  for (const auto& word : request.command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  setenv("CPP_CLUSTER_LOCK", request.name.c_str(), 1);
  setenv("CPP_CLUSTER_LOCK_TOKEN", std::to_string(token).c_str(), 1);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0)
    throw Error(Errc::system, std::string("no pipe: ") + std::strerror(errno));
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execvp(arguments[0], arguments.data());
    const int why = errno;
    if (write(report[1], &why, sizeof why) != sizeof why) _exit(126);
    _exit(127);
  }
  const int fork_fault = errno;
  close(report[1]);
  int why = 0;
  const bool failed = child > 0 && read(report[0], &why, sizeof why) == sizeof why;
  close(report[0]);
  if (child < 0)
    throw Error(Errc::system, std::string("no process can be made: ") + std::strerror(fork_fault));
  if (!failed) return child;
  waitpid(child, nullptr, 0);
  throw CommandError(Exit::usage,
                     "\"" + request.command[0] + "\" can't be run: " + std::strerror(why));
}

Exit wait_for(pid_t child, const LockGuard& guard, const sigset_t& signals) {
  while (true) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child)
      return static_cast<Exit>(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    if (!guard.held()) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
      throw CommandError(Exit::failed,
                         "lock \"" + guard.name() + "\" was lost: the command has been killed");
    }
    if (const int signal = signal_within(signals, kLook)) kill(child, signal);
  }
}

Exit wait_for_signal(const LockGuard& guard, const sigset_t& signals) {
  print("holding \"" + guard.name() + "\", token " + std::to_string(guard.token()) + "\n");
  while (guard.held())
    if (signal_within(signals, kLook) != 0) return Exit::ok;
  throw CommandError(Exit::failed, "lock \"" + guard.name() + "\" was lost");
}

PlatformOptions node_options(const CommonFlags& flags, const std::string& folder) {
  Client client(flags);
  PlatformOptions options = client.config().platform;
  options.name = client.platform();
  options.node = ("hold-" + short_host_name()).substr(0, 50) + "-" + std::to_string(getpid());
  options.labels = {{"kind", "lock-hold"}};
  options.folder = folder;
  options.http.clear();
  options.nats.embedded.clear();
  options.nats.start_timeout = flags.timeout;
  options.handle_signals = false;
  return options;
}

LockGuard take(Lock& lock, milliseconds wait) {
  const auto end = std::chrono::steady_clock::now() + wait;
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(end - std::chrono::steady_clock::now());
    try {
      return lock.acquire(std::max(left, milliseconds(1)));
    } catch (const Error& error) {
      // The node has not joined yet.
      if (error.errc() != Errc::unavailable || left <= kLook) throw;
      std::this_thread::sleep_for(kLook);
    }
  }
}

}  // namespace

Exit hold_lock(const CommonFlags& flags, const HoldRequest& request) {
  const sigset_t signals = blocked_signals();
  const OwnFolder folder;
  Platform platform(node_options(flags, folder.path()));
  auto over = std::async(std::launch::async, [&] { platform.run(); });
  struct Stop {
    Platform& platform;
    ~Stop() { platform.stop(); }
  } const stop{platform};
  Lock lock = request.app.empty() ? platform.lock(request.name)
                                  : platform.lock_of(request.app, request.name);
  if (!request.note.empty()) lock.note(request.note);

  int asked_to_end = 0;
  auto taking = std::async(std::launch::async, [&] { return take(lock, request.wait); });
  while (taking.wait_for(milliseconds(0)) != std::future_status::ready)
    if (const int signal = signal_within(signals, kLook); signal != 0) {
      asked_to_end = signal;
      platform.stop();
    }
  std::optional<LockGuard> guard;
  try {
    guard = taking.get();
  } catch (const Error& error) {
    if (asked_to_end != 0) return static_cast<Exit>(128 + asked_to_end);
    // When the node has ended by itself, why is what there is to say.
    if (error.errc() == Errc::shutting_down) over.get();
    throw;
  }
  const Exit exit = request.command.empty()
                        ? wait_for_signal(*guard, signals)
                        : wait_for(start(request, guard->token()), *guard, signals);
  guard->release();
  return exit;
}

}  // namespace cluster::cli
