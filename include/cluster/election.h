// Who leads a singleton app.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace cluster {

/// A leader and its fencing token.
struct Leader {
  std::string node{};
  std::uint64_t epoch = 0;
  bool operator==(const Leader&) const = default;
};

/// What on_leader_change is told. `leader` is empty while nobody leads.
struct LeaderChange {
  std::string app{};
  std::optional<Leader> leader{};
};

/// How to give a lead up.
struct StepDown {
  /// The node that is to lead next; empty: one that is ready to
  std::string target{};
  /// Until the app is stopped the hand-over is called off when so much time has passed
  std::chrono::milliseconds timeout{60'000};
  /// Also when no other node is ready to lead, and when what was committed can't be sent: that is
  /// quarantined on this node then
  bool force = false;
};

/// The election of one singleton app. From App::election(); lives as long as its platform. All
/// methods may be called from any thread; those that block say so.
class Election {
 public:
  /// True while this node leads *now*: its lease stands and its session's limits have not passed,
  /// by the clock at the time of the call. Becomes false before any other node can lead. Does not
  /// block.
  bool is_leader() const;
  /// Who leads, as far as this node has seen; empty when nobody does.
  std::optional<Leader> leader() const;
  /// The fencing token: the epoch of this node's lead, also once that is over; 0 before its first.
  /// Hand it to what must refuse late writers, and take it once, when the lead begins: work that
  /// goes on into the node's next lead would otherwise pass for that one's. leader() has the epochs
  /// of others.
  std::uint64_t epoch() const;
  /// Blocks until this node's promotion is complete (on_active has returned) or `timeout` has
  /// passed; tells which. Throws Error{shutting_down} when the platform stops meanwhile. Not from
  /// the loop or from hooks of this app.
  bool wait_for_leadership(std::chrono::milliseconds timeout);
  /// Hands the lead over: looks for a node that is ready to lead, sends what was committed to the
  /// database, demotes in order, releases the lease, and blocks until that is done. For the first
  /// session_timeout only that node may take it. Throws
  /// - Error{unavailable}: no other node is ready, or JetStream does not answer; Error{timeout}: it
  ///   was not done in time; Error{not_replicated}: what was committed can't be sent. This node
  ///   leads on: the program and on_active are run again if they had been stopped. Two texts say
  ///   otherwise: that it "goes on", after a timeout, and what was "left", of what others have
  ///   committed to the database at the very end;
  /// - Error{not_leader}, Error{node_not_found} for a target that is not live.
  /// Not from the loop or from hooks of this app.
  void step_down(const StepDown& how);
  void step_down(const std::string& target = {},
                 std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    step_down(StepDown{.target = target, .timeout = timeout});
  }
  /// Calls `fn` on the app's strand whenever another leader, or none, is seen. Before
  /// Platform::run() only.
  void on_leader_change(std::function<void(const LeaderChange&)> fn);

 private:
  friend class App;
  struct Core;
  explicit Election(Core& core) : core_(core) {}
  Core& core_;
};

}  // namespace cluster
