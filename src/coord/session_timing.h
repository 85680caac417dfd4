// The time limits of sessions and what follows from them (docs/protocols.md, Sessions).
#pragma once

#include <cstdint>

#include "cluster/clock.h"
#include "coord/mutation.h"

namespace cluster::coord {

struct SessionTiming {
  Duration session_timeout = std::chrono::milliseconds(700);
  Duration lease_ttl = std::chrono::seconds(15);
  Duration stop_margin = std::chrono::milliseconds(100);
  double drift = 0.02;
  Duration rank_delay =
      std::chrono::milliseconds(20);  ///< a candidate waits this long for each one before it
  Duration settle_in =
      std::chrono::seconds(1);  ///< a node acknowledges this long before it becomes a voter

  Duration heartbeat_period() const { return session_timeout / 4; }
  Duration rewrite_period() const { return lease_ttl / 5; }
  Duration write_retry() const { return session_timeout / 4; }
  Duration silence() const { return session_timeout / 2; }
  Duration late() const { return session_timeout / 4; }
  /// How long the owner counts on an acknowledgement (rule 2) and on a write (rule 1).
  Duration owner_session_timeout() const { return shortened(session_timeout); }
  Duration owner_lease_ttl() const { return shortened(lease_ttl); }

 private:
  Duration shortened(Duration d) const {
    if (mutant(Mutation::no_drift_margin)) return d;
    return Duration(static_cast<std::int64_t>(static_cast<double>(d.count()) * (1.0 - drift)));
  }
};

}  // namespace cluster::coord
