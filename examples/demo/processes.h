// The demo's processes: nodes that it starts and kills, and what runs below them.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace demo {

/// A process as /proc shows it.
struct Seen {
  pid_t pid = 0;
  pid_t parent = 0;
  std::string name{};  ///< the kernel's, 15 characters at most
};

/// Processes whose parent, or parent's parent and so on, is `root`; nearest first.
std::vector<Seen> descendants(pid_t root);

/// Makes orphans of our children ours, so that none is lost when a node dies.
void adopt_orphans();

/// SIGTERM to all that runs below us, SIGKILL after `seconds`; returns when all are gone.
void end_descendants(int seconds);

/// A program with its output in a log file. It is killed when the demo dies.
class Program {
 public:
  /// Starts it; throws Error{system}.
  Program(std::vector<std::string> command, std::string log_file);
  /// Kills it if it still runs.
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const noexcept { return pid_; }
  const std::string& log_file() const noexcept { return log_file_; }
  /// False once it has ended; `how` then says how.
  bool running(std::string* how = nullptr);
  /// Kills it, with those of its descendants that are given: guardians first, so that none of them
  /// has time to act.
  void kill_hard(const std::vector<Seen>& with = {});

 private:
  pid_t pid_ = 0;
  int status_ = 0;
  bool reaped_ = false;
  std::string log_file_;
};

/// Keeps a free port of loopback from all others until it is destroyed. A program that sets
/// SO_REUSEADDR can listen on it.
class ReservedPort {
 public:
  ReservedPort();
  ~ReservedPort();
  ReservedPort(const ReservedPort&) = delete;
  ReservedPort& operator=(const ReservedPort&) = delete;
  int port() const noexcept { return port_; }

 private:
  int socket_ = -1;
  int port_ = 0;
};

/// A new folder below the system's temporary one.
std::string make_temporary_folder();

}  // namespace demo
