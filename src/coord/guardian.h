// A node's side of its guardian: starts it, starts a new one when it dies, tells it what it needs
// (docs/protocols.md).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cluster/options.h"
#include "coord/guardian_state.h"
#include "core/loop.h"

namespace cluster::coord {

class Guardian {
 public:
  struct Options {
    std::string
        program{};  ///< empty: looked for beside this program and where cpp-cluster is installed
    std::string platform{};
    std::string node{};
    std::string marker{};  ///< the node folder's id, which the environment of all that runs for the
                           ///< node bears
    Nats nats{};           ///< servers as they are reached now
    int lock_fd = -1;      ///< the node folder's lock
    Duration give_up{};    ///< so long it tries to write `left`
  };

  Guardian(Loop& loop, Options options);
  /// Tells it that the node is over, and waits until it has ended, for a second at most: when NATS
  /// is away it goes on without this process.
  ~Guardian();
  Guardian(const Guardian&) = delete;
  Guardian& operator=(const Guardian&) = delete;

  /// Starts it. Where there is none to be had, warns and goes on without.
  void start();
  bool running() const noexcept { return pid_ > 0; }
  pid_t pid() const noexcept { return pid_; }
  GuardianMemory& memory() noexcept { return memory_; }
  /// As GuardianMemory::set_limit; one that comes sooner than the last is heard of at once.
  void set_limit(Time limit, Duration margin);

 private:
  void spawn();
  void ended();
  void wake() const;

  Loop& loop_;
  Options options_;
  GuardianMemory memory_;
  std::string path_;
  pid_t pid_ = 0;
  int pidfd_ = -1;
  int self_pidfd_ = -1;
  int wake_fd_ = -1;
  Time limit_{};
  LoopSource exit_;
  LoopSource retry_;
  Duration backoff_{};
};

/// The guardian program: `program` if it can be executed, else $CPP_CLUSTER_GUARDIAN, one beside
/// this program, the installed one; empty when there is none.
std::string find_guardian(const std::string& program);

/// What the guardian program is started with, as JSON over an inherited descriptor (it holds
/// credentials: never in arguments).
struct GuardianJob {
  std::string platform{};
  std::string node{};
  std::string marker{};
  Nats nats{};
  Duration give_up{};
};
std::string to_json(const GuardianJob& job);
GuardianJob guardian_job_from(const std::string& json);

}  // namespace cluster::coord
