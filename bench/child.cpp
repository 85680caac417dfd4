#include "bench/child.h"

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/error.h"

namespace bench {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw cluster::Error(cluster::Errc::system, what + ": " + std::strerror(errno));
}

}  // namespace

Child::Child(std::vector<std::string> command, const std::string& log_file, int journal) {
  std::vector<char*> arguments;
  for (auto& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int log = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) fail("open " + log_file);
  const pid_t self = getpid();
  pid_ = fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0) {
    // Ctrl-C is for the benchmark, which then ends its children itself.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(127);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    if (journal == 3)
      fcntl(journal, F_SETFD, 0);
    else if (journal >= 0)
      dup2(journal, 3);
    execvp(arguments[0], arguments.data());
    dprintf(STDERR_FILENO, "can't run %s: %s\n", arguments[0], std::strerror(errno));
    _exit(127);
  }
  close(log);
}

Child::~Child() { kill_hard(); }

bool Child::running(std::string* how) {
  if (!reaped_) reaped_ = wait4(pid_, &status_, WNOHANG, &usage_) != 0;
  if (!reaped_) return true;
  if (how != nullptr)
    *how = WIFSIGNALED(status_) ? "was killed by signal " + std::to_string(WTERMSIG(status_))
                                : "exited with status " + std::to_string(WEXITSTATUS(status_));
  return false;
}

void Child::kill_hard() {
  if (reaped_) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
  }
  reaped_ = true;
}

cluster::Duration cpu_time(pid_t pid) {
  clockid_t clock{};
  timespec used{};
  if (const int error = clock_getcpuclockid(pid, &clock); error != 0) {
    errno = error;
    fail("processor time of process " + std::to_string(pid));
  }
  if (clock_gettime(clock, &used) != 0) fail("processor time of process " + std::to_string(pid));
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

std::int64_t status_kib(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; file >> word;) {
    std::int64_t value = 0;
    if (word == name + ":" && file >> value) return value;
  }
  return 0;
}

ReservedPort::ReservedPort() {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket_ < 0) fail("socket");
  const int yes = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  // Bound but not listening: the kernel gives it to nobody who asks for any port.
  if (setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail("reserve a port of 127.0.0.1");
  port_ = ntohs(address.sin_port);
}

ReservedPort::~ReservedPort() { close(socket_); }

}  // namespace bench
