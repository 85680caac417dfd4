// What is done to a simulated platform: faults drawn from a seed, and what must hold at the end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sim/world.h"

namespace cluster::sim {

struct Outcome {
  std::string violation;  ///< empty: all held
  std::uint64_t steps = 0;
  std::uint64_t digest = 0;
  double virtual_seconds = 0;
  std::string trace;
  std::uint64_t grants = 0;  ///< of locks
};

/// Anything goes: partitions one-way and whole, loss, pauses, crashes, clocks at their worst, a
/// store that stalls, forgets answers and lands writes late. Afterwards all heals, and each app
/// must have one leader again, each node its session.
Outcome chaos(std::uint64_t seed, bool keep_trace = false);

/// The same with clients that claim locks, semaphores and barriers, hold them for a while and give
/// up; afterwards everybody who waits gets what it waits for.
Outcome lock_chaos(std::uint64_t seed, bool keep_trace = false);

/// JetStream without a leader for 9 s, the network intact, of three nodes or more one may die with
/// it: no other node's session ends.
Outcome store_outage(std::uint64_t seed, bool keep_trace = false);

/// The leader's machine is lost: how long until another leads, in true time; within session_timeout
/// and some.
struct Failover {
  Outcome outcome;
  Nanos gap = 0;
};
Failover machine_loss(std::uint64_t seed, bool keep_trace = false);

/// A graceful hand-over to a named target, with a working network: the target gets it.
Outcome hand_over(std::uint64_t seed, bool keep_trace = false);

}  // namespace cluster::sim
