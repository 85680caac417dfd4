// Runs an app's program as a child of the node, ties it to the node's life, watches its health and
// restarts it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "cluster/backend.h"
#include "cluster/error.h"
#include "cluster/sqlite.h"
#include "core/audit.h"
#include "core/journal.h"
#include "core/loop.h"
#include "core/strand.h"
#include "ops/probe.h"
#include "ops/spawn.h"

namespace cluster {

/// Whose backend it is.
struct BackendContext {
  std::string platform;
  std::string app;
  std::string node;
  std::string marker;  ///< the node folder's id: CPP_CLUSTER_INSTANCE of all that the node starts
  std::string database{};  ///< the app's replicated database: CPP_CLUSTER_DATABASE; empty: none
  Commit commit{};         ///< of the database: CPP_CLUSTER_COMMIT
  std::chrono::milliseconds commit_timeout{};    ///< CPP_CLUSTER_COMMIT_TIMEOUT
  std::function<std::string()> commit_folder{};  ///< CPP_CLUSTER_COMMIT_FOLDER; empty: not set
  AuditSink audit{};                             ///< what happens to it, in category "backend"
};

/// What is wrong with the options, each line with its path below `path`; empty when nothing is.
std::vector<std::string> check_process(const Process& process, const std::string& path);

/// All methods on the loop's thread, which must be the one that lives as long as the node: the
/// kernel kills the program when it ends. Nothing blocks: what may block runs on a strand of the
/// pool, which must end before the loop. Callbacks come from the loop, never from within the method
/// that they were given to, and may call any method or destroy the backend.
class ProcessBackend {
 public:
  enum class State { stopped, starting, ready, backing_off, stopping, failed };

  struct Status {
    State state = State::stopped;
    Time since{};             ///< of the state
    pid_t pid = 0;            ///< 0: none runs
    uint64_t restarts = 0;    ///< since start()
    std::string last_exit;    ///< "exited with status 3"; empty: none yet
    std::string last_health;  ///< the last check's result; empty: none yet
  };

  ProcessBackend(Loop& loop, StrandPool& pool, BackendContext context, Process process);
  /// Kills what runs (SIGKILL to the group) and waits up to a second for it. Calls no callback but
  /// on_process_group.
  ~ProcessBackend();
  ProcessBackend(const ProcessBackend&) = delete;
  ProcessBackend& operator=(const ProcessBackend&) = delete;

  /// Called with the process group that begins, before the program runs its first instruction, and
  /// with 0 once all of it is gone. May throw: then the program does not start.
  void on_process_group(std::function<void(pid_t)> callback) {
    process_group_ = std::move(callback);
  }
  /// Called when a program that had been ready has ended for good, by the restart policy.
  /// Everything of it is gone then. `cooldown`: this node should not try again at once.
  void on_failed(std::function<void(const Error&, bool cooldown)> callback) {
    failed_ = std::move(callback);
  }

  /// Starts the program; `done` gets nothing once it is ready, or why the start has failed
  /// (backend_failed; shutting_down after a stop()): all of it is gone then. Only when state is
  /// stopped or failed.
  void start(uint64_t epoch, std::string role, std::function<void(std::optional<Error>)> done);
  /// SIGTERM to the group, SIGKILL after stop_timeout; `done` once all of the group, and what has
  /// left the group but carries our mark, is gone. In any state, any number of times. Restarts end.
  void stop(std::function<void()> done);
  /// SIGKILL to the group before it returns; then as stop().
  void kill_now();

  Status status() const;
  static const char* name(State state);

 private:
  enum class Phase { idle, preparing, launching, probing, running, ending, clearing, backing_off };
  struct Cleared;

  void set_state(State state);
  void begin_attempt();
  void prepared(std::optional<Launch> launch, std::optional<ProbeTarget> target,
                const std::string& error);
  void launch_when_free();
  void launch();
  void exec_reported();
  void probe_ready();
  void became_ready();
  void not_ready_in_time();
  void check_health();
  void exited();
  void end_attempt(Duration grace);
  void kill_group();
  void clear();
  void cleared(const Cleared& result);
  void conclude();
  void finish_stop();
  void restart_or_give_up();
  void give_up(bool cooldown);
  void fail_attempt(std::string why);
  void reap();
  void forget_group();
  std::string described(const std::string& what) const;
  std::vector<std::string> marks() const;
  void on_strand(std::function<std::function<void()>()> work);

  Loop& loop_;
  std::unique_ptr<Strand> strand_;
  const BackendContext context_;
  const Journal journal_;
  const Process process_;
  const std::vector<std::string> node_environment_;
  std::function<void(pid_t)> process_group_;
  std::function<void(const Error&, bool)> failed_;

  State state_ = State::stopped;
  Time since_ = BootClock::now();
  Phase phase_ = Phase::idle;
  uint64_t epoch_ = 0;
  std::string role_;
  std::function<void(std::optional<Error>)>
      start_done_;  // until the first start is ready or has failed
  std::vector<std::function<void()>> stop_done_;
  bool stop_wanted_ = false;

  // One attempt: from the preparation to the end of all its processes.
  uint64_t attempt_ = 0;
  std::optional<Launch> launch_;
  std::optional<ProbeTarget> target_;
  std::optional<Child> child_;
  std::string failure_;  // why the attempt is being ended
  bool clean_exit_ = false;
  bool leader_gone_ = false;
  bool killed_ = false;  // by kill_now()
  Time attempt_began_{};
  Time grace_until_{};
  Time next_warning_{};
  Duration pause_{};  // before the next probe or look
  int health_failures_ = 0;

  uint64_t restarts_ = 0;
  std::deque<Time> recent_restarts_;
  std::string last_exit_;
  std::string last_health_;

  Probe probe_;
  LoopSource exit_;
  LoopSource exec_;
  LoopSource limit_;  // ready_timeout, stop_timeout
  LoopSource timer_;  // the next probe, look or attempt
  LoopSource soon_;   // an end of stop() that needs nothing done
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace cluster
