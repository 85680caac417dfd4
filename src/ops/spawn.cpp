#include "ops/spawn.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/open_files.h"
#include "core/pidfd.h"

extern char** environ;

namespace cluster {
namespace {

Error refuse(const std::string& message) { return Error(Errc::backend_failed, message); }

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

void set_variable(std::vector<std::string>& environment, const std::string& name,
                  const std::string& value) {
  std::string prefix = name + "=";
  std::erase_if(environment, [&](const std::string& entry) { return entry.rfind(prefix, 0) == 0; });
  environment.push_back(prefix + value);
}

std::string variable(const std::vector<std::string>& environment, const std::string& name) {
  std::string prefix = name + "=";
  for (const auto& entry : environment)
    if (entry.rfind(prefix, 0) == 0) return entry.substr(prefix.size());
  return {};
}

bool is_program(const std::string& path) {
  struct stat found{};
  return ::stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

std::string find_program(const std::string& name, const std::vector<std::string>& environment) {
  if (name.find('/') != std::string::npos) return name;
  std::string path = variable(environment, "PATH");
  if (path.empty()) path = "/usr/local/bin:/usr/bin:/bin";
  std::size_t at = 0;
  while (at <= path.size()) {
    std::size_t end = std::min(path.find(':', at), path.size());
    std::string folder = path.substr(at, end - at);
    at = end + 1;
    if (folder.empty()) continue;  // means the current folder: nobody wants that from a service
    std::string candidate = folder + "/" + name;
    if (is_program(candidate)) return candidate;
  }
  throw refuse("command not found: looked for " + quoted(name) + " in PATH (" + path +
               "); install it, or give its full path in `command`");
}

void look_up_user(const std::string& user, Launch& launch) {
  std::vector<char> buffer(64 * 1024);
  passwd entry{};
  passwd* found = nullptr;
  int failed = ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (!found)
    throw refuse("unknown user " + quoted(user) +
                 (failed ? std::string(": ") + std::strerror(failed) : "") +
                 "; create it, or correct `user`");
  if (::geteuid() != 0) {
    if (entry.pw_uid == ::geteuid()) return;
    throw refuse("can't run as user " + quoted(user) +
                 ": the node does not run as root; run it as root, or as that user without `user`");
  }
  int count = 64;
  launch.groups.resize(static_cast<std::size_t>(count));
  while (::getgrouplist(user.c_str(), entry.pw_gid, launch.groups.data(), &count) < 0) {
    count = std::max<int>(count, static_cast<int>(launch.groups.size()) * 2);
    if (count > 65536) throw refuse("user " + quoted(user) + " is in too many groups");
    launch.groups.resize(static_cast<std::size_t>(count));
  }
  launch.groups.resize(static_cast<std::size_t>(count));
  launch.user = user;
  launch.uid = entry.pw_uid;
  launch.gid = entry.pw_gid;
  set_variable(launch.environment, "USER", user);
  set_variable(launch.environment, "LOGNAME", user);
  set_variable(launch.environment, "HOME", entry.pw_dir);
  set_variable(launch.environment, "SHELL", entry.pw_shell);
}

void open_log(const std::string& path, Launch& launch) {
  // Non-blocking, since a FIFO without a reader would block; the program gets it blocking.
  launch.output.reset(::open(
      path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
  if (!launch.output)
    throw refuse("can't write the log file " + quoted(path) + ": " + std::strerror(errno) +
                 "; create its folder, allow writing there, or correct `log_file`");
  ::fcntl(launch.output.get(), F_SETFL, O_APPEND);
  struct stat found{};
  if (::fstat(launch.output.get(), &found) == 0 && S_ISREG(found.st_mode))
    launch.log_start = found.st_size;
}

// Descriptors 0 to 2 are overwritten in the child: what must survive that lies above.
UniqueFd above_standard(UniqueFd fd) {
  if (!fd || fd.get() > 2) return fd;
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
}

struct Channel {
  UniqueFd read;
  UniqueFd write;
};

// A socket pair, because a write to it need not raise SIGPIPE.
Channel make_channel() {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw refuse(std::string("can't start the program: socketpair: ") + std::strerror(errno) +
                 "; raise the limit of open files");
  Channel pipe{above_standard(UniqueFd(ends[0])), above_standard(UniqueFd(ends[1]))};
  if (!pipe.read || !pipe.write)
    throw refuse(std::string("can't start the program: fcntl: ") + std::strerror(errno) +
                 "; raise the limit of open files");
  return pipe;
}

enum class Step : int { output, user, parent_death, folder, exec };

struct ExecFailure {
  Step step;
  int error;
};

// All that the child uses between fork and exec, where nothing may allocate or lock.
struct ChildPlan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* folder;  // or null
  bool switch_user;
  uid_t uid;
  gid_t gid;
  const gid_t* groups;
  std::size_t group_count;
  int input;
  int output;  // -1: the node's
  int gate_read;
  int gate_write;
  int result_write;
  pid_t parent;
  rlimit open_files;
};

[[noreturn]] void fail_child(const ChildPlan& plan, Step step) {
  ExecFailure failure{step, errno};
  [[maybe_unused]] auto n = ::write(plan.result_write, &failure, sizeof failure);
  ::_exit(127);
}

// Runs in the child: system calls only.
[[noreturn]] void run_child(const ChildPlan& plan) {
  ::setpgid(0, 0);
  ::close(plan.gate_write);
  char go = 0;
  ssize_t n = 0;
  do n = ::read(plan.gate_read, &go, 1);
  while (n < 0 && errno == EINTR);
  if (n != 1) ::_exit(127);  // the parent is gone, or gave up

  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &standard, nullptr);

  if (::dup2(plan.input, 0) < 0) fail_child(plan, Step::output);
  if (plan.output >= 0 && (::dup2(plan.output, 1) < 0 || ::dup2(plan.output, 2) < 0))
    fail_child(plan, Step::output);

  // The plain system calls: the C library's wrappers would talk to threads that do not exist here.
  if (plan.switch_user && (::syscall(SYS_setgroups, plan.group_count, plan.groups) != 0 ||
                           ::syscall(SYS_setresgid, plan.gid, plan.gid, plan.gid) != 0 ||
                           ::syscall(SYS_setresuid, plan.uid, plan.uid, plan.uid) != 0))
    fail_child(plan, Step::user);

  // After the change of user, which clears it. The parent may have died just before.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail_child(plan, Step::parent_death);
  if (::getppid() != plan.parent) ::_exit(127);

  if (plan.folder && ::chdir(plan.folder) != 0) fail_child(plan, Step::folder);
  if (::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    for (int fd = 3; fd < 65536; ++fd)
      if (int flags = ::fcntl(fd, F_GETFD); flags >= 0) ::fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  }
  // To lower a soft limit is always allowed.
  ::setrlimit(RLIMIT_NOFILE, &plan.open_files);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(plan.program, plan.arguments, plan.environment);
  fail_child(plan, Step::exec);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> list;
  list.reserve(strings.size() + 1);
  for (const auto& string : strings) list.push_back(const_cast<char*>(string.c_str()));
  list.push_back(nullptr);
  return list;
}

void give_up_child(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::string explain(const ExecFailure& failure, const Launch& launch) {
  std::string why = std::strerror(failure.error);
  switch (failure.step) {
    case Step::output: return "can't set up its output: " + why;
    case Step::user:
      return "can't switch to user " + quoted(launch.user) + ": " + why + "; run the node as root";
    case Step::parent_death: return "can't tie it to the node's life: " + why;
    case Step::folder:
      return "can't enter its folder " + quoted(launch.folder) + ": " + why +
             "; create it, allow its user to enter it, or correct `folder`";
    case Step::exec: break;
  }
  std::string text = "can't execute " + quoted(launch.program) + ": " + why;
  if (failure.error == ENOEXEC)
    return text + "; if it is a script, its first line must name the shell (#!/bin/sh)";
  if (failure.error == EACCES) return text + "; make it executable for its user (chmod +x)";
  if (failure.error == ENOENT)
    return text +
           "; correct `command`, or, if the file is there, install what its first line (#!) or its "
           "loader names";
  if (failure.error == E2BIG) return text + "; shorten its arguments or its environment";
  return text;
}

}  // namespace

std::vector<std::string> node_environment() {
  std::vector<std::string> entries;
  for (char** one = environ; one && *one; ++one) {
    std::string_view entry = *one;
    auto is = [&](std::string_view name) { return entry.substr(0, entry.find('=')) == name; };
    if (is("NOTIFY_SOCKET") || is("WATCHDOG_PID") || is("WATCHDOG_USEC") || is("LISTEN_PID") ||
        is("LISTEN_FDS") || is("LISTEN_FDNAMES"))
      continue;
    entries.emplace_back(entry);
  }
  return entries;
}

Launch prepare_launch(const Process& process, const std::vector<std::string>& environment,
                      const std::vector<std::string>& extra) {
  Launch launch;
  if (process.command.empty() || process.command.front().empty())
    throw refuse("`command` is empty: give the program and its arguments");
  launch.environment = environment;
  if (!process.user.empty()) look_up_user(process.user, launch);
  for (const auto& [name, value] : process.environment)
    set_variable(launch.environment, name, value);
  for (const auto& entry : extra) {
    auto at = entry.find('=');
    set_variable(launch.environment, entry.substr(0, at), entry.substr(at + 1));
  }
  launch.program = find_program(process.command.front(), launch.environment);
  launch.arguments = process.command;
  launch.folder = process.folder;
  launch.input = above_standard(UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)));
  if (!launch.input) throw refuse(std::string("can't open /dev/null: ") + std::strerror(errno));
  if (!process.log_file.empty()) open_log(process.log_file, launch);
  launch.output = above_standard(std::move(launch.output));
  return launch;
}

Child spawn(const Launch& launch) {
  Channel gate = make_channel();
  Channel result = make_channel();
  ::fcntl(result.read.get(), F_SETFL, O_NONBLOCK);
  auto arguments = pointers(launch.arguments);
  auto environment = pointers(launch.environment);
  ChildPlan plan{.program = launch.program.c_str(),
                 .arguments = arguments.data(),
                 .environment = environment.data(),
                 .folder = launch.folder.empty() ? nullptr : launch.folder.c_str(),
                 .switch_user = !launch.user.empty(),
                 .uid = launch.uid,
                 .gid = launch.gid,
                 .groups = launch.groups.data(),
                 .group_count = launch.groups.size(),
                 .input = launch.input.get(),
                 .output = launch.output.get(),
                 .gate_read = gate.read.get(),
                 .gate_write = gate.write.get(),
                 .result_write = result.write.get(),
                 .parent = ::getpid(),
                 .open_files = open_files_of_children()};

  // No handler of the node's may run in the child.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = ::fork();
  if (pid == 0) run_child(plan);
  int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0)
    throw refuse(std::string("can't start the program: fork: ") + std::strerror(error) +
                 "; free memory, or raise the limit of processes");
  ::setpgid(pid, pid);
  Child child{.pid = pid, .pidfd = UniqueFd(open_pidfd(pid)), .gate = {}, .exec_result = {}};
  if (!child.pidfd) {
    error = errno;
    give_up_child(pid);
    throw refuse(std::string("can't start the program: pidfd_open: ") + std::strerror(error) +
                 "; raise the limit of open files (Linux 5.3 or newer is needed)");
  }
  child.gate = std::move(gate.write);
  child.exec_result = std::move(result.read);
  return child;
}

void open_gate(Child& child) {
  // A child that died meanwhile (SIGKILL) has closed the other end: its exit tells.
  char go = 1;
  [[maybe_unused]] auto n = ::send(child.gate.get(), &go, 1, MSG_NOSIGNAL);
  child.gate.reset();
}

ExecState exec_state(const Child& child, const Launch& launch, std::string& why) {
  ExecFailure failure{};
  ssize_t n = ::read(child.exec_result.get(), &failure, sizeof failure);
  if (n == 0)
    return ExecState::done;  // exec closed it, or the child ended without a word: its exit tells
  if (n < 0) return ExecState::pending;
  why = explain(failure, launch);
  return ExecState::failed;
}

}  // namespace cluster
