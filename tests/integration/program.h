// The program cpp-cluster as a child of a test.
#pragma once

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "built.h"
#include "temporary_folder.h"

namespace cluster::testing {

struct Outcome {
  int status = -1;
  std::string out{};
  std::string err{};
};

inline std::string text_of(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

/// With nothing of this test's environment but PATH, what sanitizers are told, and how long new
/// platforms wait.
class Program {
 public:
  enum class Errors { to_file, to_terminal };

  Program(const TemporaryFolder& folder, std::vector<std::string> arguments,
          std::vector<std::string> environment = {}, Errors errors = Errors::to_file)
      : out_(folder / ("out" + std::to_string(++count_))), err_(out_ + ".err") {
    arguments.insert(arguments.begin(), built::kProgram);
    environment.push_back(std::string("PATH=") + getenv("PATH") + ":/usr/sbin");
    environment.push_back("HOME=" + folder.path().string());
    for (const char* name :
         {"ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "ASAN_SYMBOLIZER_PATH",
          "TSAN_SYMBOLIZER_PATH", "CPP_CLUSTER_FOUNDING_WAIT"})
      if (const char* value = getenv(name)) environment.push_back(std::string(name) + "=" + value);
    std::vector<char*> argv, envp;
    for (auto& a : arguments) argv.push_back(a.data());
    for (auto& e : environment) envp.push_back(e.data());
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    const int out = open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const int err = errors == Errors::to_terminal
                        ? open_terminal()
                        : open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const std::string where = folder.path();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(out, 1);
      dup2(err, 2);
      if (chdir(where.c_str()) != 0) _exit(126);
      execve(argv[0], argv.data(), envp.data());
      _exit(127);
    }
    close(out);
    close(err);
  }
  ~Program() {
    if (terminal_ >= 0) close(terminal_);
    if (ended_) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const { kill(pid_, signal); }
  bool ended() {
    int status = 0;
    read_terminal();
    if (!ended_ && waitpid(pid_, &status, WNOHANG) == pid_) {
      ended_ = true;
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      read_terminal();
    }
    return ended_;
  }
  int status() const { return status_; }
  std::string out() const { return text_of(out_); }
  std::string err() const { return terminal_ >= 0 ? shown_ : text_of(err_); }

 private:
  int open_terminal() {
    terminal_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal_ < 0 || grantpt(terminal_) != 0 || unlockpt(terminal_) != 0) return -1;
    fcntl(terminal_, F_SETFL, O_NONBLOCK);
    return open(ptsname(terminal_), O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  void read_terminal() {
    char text[4096];
    for (ssize_t n = 0; terminal_ >= 0 && (n = read(terminal_, text, sizeof text)) > 0;)
      shown_.append(text, static_cast<std::size_t>(n));
  }

  static inline int count_ = 0;
  std::string out_, err_;
  int terminal_ = -1;
  std::string shown_{};  // on it
  pid_t pid_ = -1;
  bool ended_ = false;
  int status_ = -1;
};

}  // namespace cluster::testing
