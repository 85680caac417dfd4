#include "core/process_scan.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/check.h"
#include "core/pidfd.h"
#include "core/unique_fd.h"

namespace cluster {
namespace {

constexpr std::size_t kFileLimit = 4
                                   << 20;  // the kernel allows far smaller environments by default
constexpr std::size_t kCommandLimit = 200;

// Empty when it can't be read: the process is gone, or is not ours to look at.
std::string read_proc(pid_t pid, const char* name, std::size_t limit) {
  std::string path = "/proc/" + std::to_string(pid) + "/" + name;
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char chunk[16384];
  while (text.size() < limit) {
    ssize_t n = ::read(fd.get(), chunk, std::min(sizeof chunk, limit - text.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(chunk, static_cast<std::size_t>(n));
  }
  return text;
}

template <typename Visit>
void for_each_process(const Visit& visit) {
  DIR* proc = ::opendir("/proc");
  if (!proc)
    throw Error(Errc::system, std::string("can't list processes: /proc: ") + std::strerror(errno) +
                                  "; mount /proc");
  while (dirent* entry = ::readdir(proc)) {
    std::string_view name = entry->d_name;
    pid_t pid = 0;
    auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (failed == std::errc{} && end == name.data() + name.size()) visit(pid);
  }
  ::closedir(proc);
}

bool has_marks(pid_t pid, const std::vector<std::string>& marks) {
  std::string environment = read_proc(pid, "environ", kFileLimit);
  if (environment.empty()) return false;
  environment.insert(environment.begin(), '\0');
  environment.push_back('\0');
  return std::all_of(marks.begin(), marks.end(), [&](const std::string& mark) {
    std::string entry;
    entry.reserve(mark.size() + 2);
    entry.push_back('\0');
    entry += mark;
    entry.push_back('\0');
    return environment.find(entry) != std::string::npos;
  });
}

struct Stat {
  char state = 0;
  pid_t group = 0;
  long threads = 0;

  // The state is that of the first thread: others may still run, and hold files and ports.
  bool dead() const { return state == 'X' || state == 'x' || (state == 'Z' && threads <= 1); }
};

std::optional<Stat> read_stat(pid_t pid) {
  // "pid (name) state ppid pgrp …"; the name may hold anything, also ')'.
  std::string text = read_proc(pid, "stat", 4096);
  auto at = text.rfind(')');
  if (at == std::string::npos) return std::nullopt;
  Stat stat;
  if (std::sscanf(text.c_str() + at + 1,
                  " %c %*d %d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld",
                  &stat.state, &stat.group, &stat.threads) != 3)
    return std::nullopt;
  return stat;
}

bool is_live_marked(pid_t pid, const std::vector<std::string>& marks) {
  if (!has_marks(pid, marks)) return false;
  auto stat = read_stat(pid);
  return stat && !stat->dead();
}

std::string command_of(pid_t pid) {
  std::string text = read_proc(pid, "cmdline", kCommandLimit);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

struct Killed {
  ScannedProcess process;
  UniqueFd pidfd;
};

std::vector<Killed> kill_pass(const std::vector<std::string>& marks) {
  std::vector<Killed> killed;
  for (auto& found : find_marked(marks)) {
    // The descriptor pins one process. If its id was reused before, the marks are missing or the
    // next pass finds it; if it is reused after, the signal goes to the pinned one.
    UniqueFd pidfd(open_pidfd(found.pid));
    if (!pidfd) {
      if (errno == ESRCH || errno == EINVAL) continue;
      throw Error(Errc::system, "can't end process " + std::to_string(found.pid) + " (" +
                                    found.command + "): pidfd_open: " + std::strerror(errno));
    }
    if (!is_live_marked(found.pid, marks)) continue;
    if (signal_pidfd(pidfd.get(), SIGKILL) != 0) {
      if (errno == ESRCH) continue;
      throw Error(Errc::system, "can't end process " + std::to_string(found.pid) + " (" +
                                    found.command + "): " + std::strerror(errno) +
                                    "; end it by hand, or run the node as its user or as root");
    }
    killed.push_back({std::move(found), std::move(pidfd)});
  }
  return killed;
}

}  // namespace

std::string instance_mark(const std::string& folder_id) {
  return "CPP_CLUSTER_INSTANCE=" + folder_id;
}

std::vector<ScannedProcess> find_marked(const std::vector<std::string>& marks) {
  CLUSTER_CHECK(!marks.empty());
  std::vector<ScannedProcess> found;
  pid_t self = ::getpid();
  for_each_process([&](pid_t pid) {
    if (pid != self && is_live_marked(pid, marks)) found.push_back({pid, command_of(pid)});
  });
  return found;
}

EndedProcesses end_marked(const std::vector<std::string>& marks, Duration limit) {
  EndedProcesses result;
  Time end = BootClock::now() + limit;
  while (true) {
    auto killed = kill_pass(marks);
    if (killed.empty()) return result;
    for (auto& one : killed) {
      auto left = std::chrono::ceil<std::chrono::milliseconds>(end - BootClock::now()).count();
      pollfd wait{.fd = one.pidfd.get(), .events = POLLIN, .revents = 0};
      bool gone = ::poll(&wait, 1, static_cast<int>(std::clamp<long long>(left, 0, 60'000))) > 0;
      bool known = std::any_of(result.ended.begin(), result.ended.end(),
                               [&](auto& seen) { return seen.pid == one.process.pid; });
      if (gone && !known) result.ended.push_back(std::move(one.process));
    }
    if (BootClock::now() >= end) {
      result.remaining = find_marked(marks);
      return result;
    }
  }
}

bool group_alive(pid_t group) {
  CLUSTER_CHECK(group > 1);
  if (::kill(-group, 0) != 0 && errno == ESRCH) return false;
  bool alive = false;
  for_each_process([&](pid_t pid) {
    if (alive) return;
    auto stat = read_stat(pid);
    alive = stat && stat->group == group && !stat->dead();
  });
  return alive;
}

}  // namespace cluster
