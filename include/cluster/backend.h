// Programs that an app starts where it is active: options of the process backend.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace cluster {

/// Ready once something accepts TCP connections there. Nothing else may do so before the start.
struct ReadyTcp {
  std::string host = "127.0.0.1";
  int port = 0;  ///< 1 to 65535
};

/// Ready once a GET of this http:// URL is answered with a status from 200 to 399.
struct ReadyHttp {
  std::string url;
};

/// Ready once the process has lived this long.
struct ReadyDelay {
  std::chrono::milliseconds delay{0};
};

using Ready = std::variant<ReadyDelay, ReadyTcp, ReadyHttp>;

/// What happens when the process ends although nobody asked it to.
enum class Restart {
  /// Start it again, with backoff; after max_restarts within restart_window the app gives up its
  /// lead
  always,
  /// As always, but an exit with status 0 gives the lead up at once, without a cooldown
  on_failure,
  never,  ///< the app gives up its lead at once
};

/// A program that runs as a child of the node, in a process group of its own. It sees the
/// environment of the node, `environment`, and CPP_CLUSTER_PLATFORM, CPP_CLUSTER_APP,
/// CPP_CLUSTER_NODE, CPP_CLUSTER_ROLE, CPP_CLUSTER_EPOCH and, with a database, CPP_CLUSTER_DATABASE
/// (its file), CPP_CLUSTER_COMMIT (async or replicated), CPP_CLUSTER_COMMIT_TIMEOUT (milliseconds)
/// and CPP_CLUSTER_COMMIT_FOLDER (where the socket for commits that wait is). It must stay in the
/// foreground. It dies with the node, and so does what it has started, as long as that stays in its
/// process group or keeps its environment (CPP_CLUSTER_INSTANCE marks it).
struct Process {
  std::vector<std::string> command{};                ///< program (looked up in PATH) and arguments
  std::string folder{};                              ///< working folder; empty: the node's
  std::map<std::string, std::string> environment{};  ///< added to the node's environment
  /// Run as this user (needs root); empty: the node's
  std::string user{};
  /// Its output is appended here; empty: the node's output
  std::string log_file{};
  /// When it counts as started, and what health checks ask
  Ready ready{ReadyDelay{}};
  std::chrono::milliseconds ready_timeout{30'000};  ///< not ready by then: the start has failed
  /// Between health checks once it is ready; 0: only its exit counts
  std::chrono::milliseconds health_interval{2'000};
  /// So many failed checks in a row count as an exit
  int health_failures = 3;
  /// After SIGTERM, before SIGKILL to its whole group
  std::chrono::milliseconds stop_timeout{10'000};
  Restart restart = Restart::always;
  /// Before the first restart; doubles each time
  std::chrono::milliseconds backoff_min{200};
  std::chrono::milliseconds backoff_max{10'000};
  /// Within restart_window; more: backend_failed
  int max_restarts = 5;
  std::chrono::milliseconds restart_window{60'000};
};

/// None, or what runs where the app is active.
using Backend = std::variant<std::monostate, Process>;

}  // namespace cluster
