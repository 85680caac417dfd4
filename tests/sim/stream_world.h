// A simulated WAL stream: nodes with a database each, of which some lead, one after the other or at
// the same time without knowing of each other, and a stream that behaves as JetStream at its worst.
// Who leads is drawn from the seed: the stream must be one history whatever sessions and leases do.
#pragma once

#include <cstdint>
#include <string>

namespace cluster::sim {

/// Virtual time of a run.
constexpr double kStreamSeconds = 100;

struct StreamOutcome {
  std::string violation;  ///< empty: all held
  std::uint64_t steps = 0;
  std::uint64_t digest = 0;
  std::uint64_t acknowledged = 0;  ///< transactions
  std::uint64_t promotions = 0;    ///< that were completed
  std::uint64_t divergences = 0;   ///< databases that were set aside
  std::uint64_t mistaken = 0;      ///< leads that were given up for a stream that had lost nothing
  std::uint64_t emptied = 0;       ///< ends of a purged stream that were read to fence it
  std::uint64_t foreign = 0;       ///< messages in the stream that are none of ours
  std::string trace;
};

/// Promotions, crashes, pauses, messages of others, a stream that is away, loses answers, lands
/// appends late and shows old ends; then all heals, and every database must be the stream's
/// history.
StreamOutcome stream_chaos(std::uint64_t seed, bool keep_trace = false);

}  // namespace cluster::sim
