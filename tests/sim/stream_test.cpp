// The WAL stream under the simulator: one history for every seed, and deliberate mutants are
// caught.
#include "sim/stream_world.h"

#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "sqlite/mutants.h"

namespace cluster::sim {
namespace {

using sqlite::StreamMutation;

constexpr std::uint64_t kSeeds = 200;

TEST(StreamSimulation, TheStreamIsOneHistoryAndNothingAcknowledgedIsLost) {
  std::uint64_t acknowledged = 0, promotions = 0, divergences = 0, mistaken = 0, emptied = 0,
                foreign = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const auto outcome = stream_chaos(seed);
    ASSERT_EQ(outcome.violation, "") << "seed " << seed << "\n" << stream_chaos(seed, true).trace;
    acknowledged += outcome.acknowledged;
    promotions += outcome.promotions;
    divergences += outcome.divergences;
    mistaken += outcome.mistaken;
    emptied += outcome.emptied;
    foreign += outcome.foreign;
  }
  // It was not for want of anything happening.
  EXPECT_GT(acknowledged, kSeeds * 100);
  EXPECT_GT(promotions, kSeeds * 4);
  EXPECT_GT(divergences, kSeeds);
  EXPECT_LT(mistaken, promotions / 100);
  EXPECT_GT(emptied, kSeeds / 4);
  EXPECT_GT(foreign, kSeeds);
}

TEST(StreamSimulation, ASeedReplaysExactly) {
  for (std::uint64_t seed : {3U, 77U}) {
    const auto once = stream_chaos(seed), again = stream_chaos(seed, true);
    EXPECT_EQ(once.digest, again.digest);
    EXPECT_EQ(once.steps, again.steps);
  }
}

struct Mutant {
  const char* name;
  StreamMutation mutation;
  std::uint64_t seeds;  // within which it must be caught
};

std::ostream& operator<<(std::ostream& out, const Mutant& mutant) { return out << mutant.name; }

class StreamMutants : public ::testing::TestWithParam<Mutant> {};

TEST_P(StreamMutants, AreCaught) {
  sqlite::active_stream_mutation = GetParam().mutation;
  std::uint64_t seed = 1;
  while (seed <= GetParam().seeds && stream_chaos(seed).violation.empty()) ++seed;
  sqlite::active_stream_mutation = StreamMutation::none;
  EXPECT_LE(seed, GetParam().seeds) << "was not caught";
  RecordProperty("seed", std::to_string(seed));
}

INSTANTIATE_TEST_SUITE_P(
    All, StreamMutants,
    ::testing::Values(Mutant{"SkipFence", StreamMutation::skip_fence, 20},
                      Mutant{"ExpectNothing", StreamMutation::expect_nothing, 20},
                      Mutant{"SequencesOnly", StreamMutation::sequences_only, 50},
                      Mutant{"UnknownIsStored", StreamMutation::unknown_is_stored, 20},
                      Mutant{"IgnoreEpoch", StreamMutation::ignore_epoch, 20},
                      Mutant{"LeadBeforeFence", StreamMutation::lead_before_fence, 50},
                      Mutant{"KeepDivergence", StreamMutation::keep_divergence, 20},
                      Mutant{"SkipHash", StreamMutation::skip_hash, 600},
                      Mutant{"InheritAcrossEpochs", StreamMutation::inherit_across_epochs, 3'000},
                      Mutant{"AcceptGap", StreamMutation::accept_gap, 600},
                      Mutant{"UnfinishedCounts", StreamMutation::unfinished_counts, 100},
                      Mutant{"PartWithoutOthers", StreamMutation::part_without_others, 600},
                      Mutant{"TrustAnyCopy", StreamMutation::trust_any_copy, 600},
                      Mutant{"ExpectRecord", StreamMutation::expect_record, 20},
                      Mutant{"LookBehindOwn", StreamMutation::look_behind_own, 600}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace cluster::sim
