#include "demo/processes.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/error.h"

namespace demo {
namespace {

using namespace std::chrono_literals;

[[noreturn]] void fail(const std::string& what) {
  throw cluster::Error(cluster::Errc::system, what + ": " + std::strerror(errno));
}

std::vector<Seen> all_processes() {
  std::vector<Seen> all;
  std::error_code ignored;  // processes come and go while we look
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    std::ifstream file(entry.path() / "stat");
    std::string text;
    if (!std::getline(file, text)) continue;
    // "12 (a name) S 1 …": the name may hold blanks and brackets.
    const auto open = text.find('(');
    const auto close = text.rfind(") ");
    if (open == std::string::npos || close == std::string::npos || close + 4 >= text.size())
      continue;
    if (text[close + 2] == 'Z') continue;
    all.push_back({.pid = std::atoi(text.c_str()),
                   .parent = std::atoi(text.c_str() + close + 4),
                   .name = text.substr(open + 1, close - open - 1)});
  }
  return all;
}

}  // namespace

std::vector<Seen> descendants(pid_t root) {
  const std::vector<Seen> all = all_processes();
  std::vector<Seen> found;
  std::vector<pid_t> parents{root};
  for (std::size_t i = 0; i < parents.size(); ++i)
    for (const auto& process : all)
      if (process.parent == parents[i]) {
        found.push_back(process);
        parents.push_back(process.pid);
      }
  return found;
}

void adopt_orphans() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) fail("prctl(PR_SET_CHILD_SUBREAPER)");
}

void end_descendants(int seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  for (const auto& process : descendants(getpid())) kill(process.pid, SIGTERM);
  for (;;) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const auto left = descendants(getpid());
    if (left.empty()) return;
    if (std::chrono::steady_clock::now() > until)
      for (const auto& process : left) kill(process.pid, SIGKILL);
    std::this_thread::sleep_for(5ms);
  }
}

Program::Program(std::vector<std::string> command, std::string log_file)
    : log_file_(std::move(log_file)) {
  std::vector<char*> arguments;
  for (auto& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int log = open(log_file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) fail("open " + log_file_);
  const pid_t self = getpid();
  pid_ = fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0) {
    // Ctrl-C is for the demo, which then ends its nodes itself.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(127);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(arguments[0], arguments.data());
    dprintf(STDERR_FILENO, "can't run %s: %s\n", arguments[0], std::strerror(errno));
    _exit(127);
  }
  close(log);
}

Program::~Program() {
  if (running()) kill_hard();
}

bool Program::running(std::string* how) {
  // An error: end_descendants() has reaped it.
  if (!reaped_) reaped_ = waitpid(pid_, &status_, WNOHANG) != 0;
  if (!reaped_) return true;
  if (how != nullptr)
    *how = WIFSIGNALED(status_) ? "was killed by signal " + std::to_string(WTERMSIG(status_))
                                : "exited with status " + std::to_string(WEXITSTATUS(status_));
  return false;
}

void Program::kill_hard(const std::vector<Seen>& with) {
  for (const auto& process : with) kill(process.pid, SIGKILL);
  kill(pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
  reaped_ = true;
}

ReservedPort::ReservedPort() {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket_ < 0) fail("socket");
  const int yes = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  // Bound but not listening: the kernel gives it to nobody who asks for any port, and refuses
  // connections while no backend listens.
  if (setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail("reserve a port of 127.0.0.1");
  port_ = ntohs(address.sin_port);
}

ReservedPort::~ReservedPort() { close(socket_); }

std::string make_temporary_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "cpp-cluster-demo.XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) fail("mkdtemp " + name);
  return name;
}

}  // namespace demo
