// A node's duty as a voter for the sessions of others: acknowledge heartbeats, withdraw when they
// stop (docs/protocols.md, "A voter"). Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coord/session_messages.h"
#include "coord/session_timing.h"
#include "coord/session_view.h"

namespace cluster::coord {

class SessionVoter {
 public:
  /// An acknowledgement, unless this voter has withdrawn at the stated revision or a later one.
  /// Call only while the own session, `self`, is in force.
  std::optional<HeartbeatAck> on_heartbeat(const Heartbeat& heartbeat, const SessionId& self,
                                           Time now);

  /// The withdrawals that are due for the sessions that list `self` as a voter; only while the own
  /// session is in force. Lowers `due` to the time of the next.
  std::vector<Withdrawal> tick(const SessionView& view, const SessionId& self, Time now,
                               const SessionTiming& timing, Time* due);

  /// The node was itself stopped for a while: silence counts from now.
  void count_from(Time now) { counting_since_ = now; }

  /// For the mutant that loses its memory.
  void forget() { watched_.clear(); }

 private:
  struct Watched {
    Time last_arrival{};
    Revision withdrawn = 0;  ///< up to here nothing is acknowledged
    Time last_broadcast{};
    Revision broadcast_rev = 0;
  };
  std::map<std::string, Watched> watched_;  // by node; as many as the platform has nodes
  Time counting_since_{};
};

}  // namespace cluster::coord
