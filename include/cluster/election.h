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
  /// Gives the lead up: demotes in order, releases the lease, and blocks until that is done. With
  /// `target`, only that node may take it until session_timeout has passed. Throws
  /// Error{not_leader}, Error{node_not_found} for a target that is not live, Error{timeout}. Not
  /// from the loop or from hooks of this app.
  void step_down(const std::string& target = {},
                 std::chrono::milliseconds timeout = std::chrono::seconds(60));
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
