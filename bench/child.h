// Processes that the benchmarks start, and what /proc says of any process.
#pragma once

#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/types.h>

#include "cluster/clock.h"

namespace bench {

/// A program with its output appended to a log file. It is killed when the benchmark dies.
class Child {
 public:
  /// `journal`: a descriptor that becomes its descriptor 3; -1: none. Throws Error{system}.
  Child(std::vector<std::string> command, const std::string& log_file, int journal = -1);
  /// Kills it if it still runs.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const noexcept { return pid_; }
  /// False once it has ended; `how` then says how.
  bool running(std::string* how = nullptr);
  /// The most memory that it had resident, in KiB; once it has ended.
  std::int64_t most_memory_kib() const noexcept { return usage_.ru_maxrss; }
  /// SIGKILL, and waits for its end.
  void kill_hard();

 private:
  pid_t pid_ = 0;
  int status_ = 0;
  rusage usage_{};
  bool reaped_ = false;
};

/// The processor time that all threads of a process, those that have ended too, have used so far.
/// Throws Error{system} when there is no such process.
cluster::Duration cpu_time(pid_t pid);

/// A line of /proc/<pid>/status in KiB, for example "VmRSS"; 0 if there is none.
std::int64_t status_kib(pid_t pid, const std::string& name);

/// Keeps a free port of loopback from all others; a program that sets SO_REUSEADDR can listen on
/// it.
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

}  // namespace bench
