// What sessions say to each other over core NATS.
#pragma once

#include <string>

#include "cluster/clock.h"
#include "coord/records.h"

namespace cluster::coord {

/// Owner to voter, or to a node that it would add.
struct Heartbeat {
  std::string to{};
  SessionId owner{};
  Revision rev = 0;  ///< newest revision of its record that the owner knows
  Time sent{};       ///< by the owner's clock
};

/// The voter's answer.
struct HeartbeatAck {
  SessionId owner{};  ///< to whom
  SessionId voter{};  ///< from whom
  Time sent{};        ///< echoed from the heartbeat
};

/// To all: `voter` will not acknowledge heartbeats of the owner's that state `rev` or less.
struct Withdrawal {
  SessionId owner{};
  Revision rev = 0;
  SessionId voter{};
};

}  // namespace cluster::coord
