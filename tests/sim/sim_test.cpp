// Sessions and leases under the simulator: the invariants hold for every seed, and deliberate
// mutants of the protocols are caught.
#include "sim/scenario.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace cluster::sim {
namespace {

using coord::Mutation;

// Sanitizers make the simulator ten times slower; they look for other faults than its invariants
// do.
#ifdef CLUSTER_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
constexpr std::uint64_t kSeeds = kSanitized ? 60 : 1'000;

class Mutated {
 public:
  explicit Mutated(Mutation m) { coord::active_mutation = m; }
  ~Mutated() { coord::active_mutation = Mutation::none; }
};

std::string replay(std::uint64_t seed) { return "seed " + std::to_string(seed) + "\n"; }

TEST(Simulation, InvariantsHoldUnderChaos) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    auto outcome = chaos(seed);
    ASSERT_EQ(outcome.violation, "") << replay(seed) << chaos(seed, true).trace;
  }
}

TEST(Simulation, LocksAreNeverHeldByTooManyAndAlwaysBecomeFree) {
  std::uint64_t grants = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    auto outcome = lock_chaos(seed);
    ASSERT_EQ(outcome.violation, "") << replay(seed) << lock_chaos(seed, true).trace;
    grants += outcome.grants;
  }
  EXPECT_GT(grants, kSeeds * 10) << "hardly anybody had a lock";
}

TEST(Simulation, AStoreOutageOfNineSecondsEndsNoHealthySession) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    auto outcome = store_outage(seed);
    ASSERT_EQ(outcome.violation, "") << replay(seed) << store_outage(seed, true).trace;
  }
}

TEST(Simulation, ALostMachineIsReplacedSoonAfterSessionTimeout) {
  std::vector<Nanos> gaps;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    auto failover = machine_loss(seed);
    ASSERT_EQ(failover.outcome.violation, "")
        << replay(seed) << machine_loss(seed, true).outcome.trace;
    gaps.push_back(failover.gap);
  }
  std::sort(gaps.begin(), gaps.end());
  // The sum of session_timeout by the slowest clock, a message each way, and the ranks of
  // candidates.
  EXPECT_LT(gaps.back(), 800 * kMillisecond);
  RecordProperty("p50_us", static_cast<int>(gaps[gaps.size() / 2] / 1000));
  RecordProperty("max_us", static_cast<int>(gaps.back() / 1000));
}

TEST(Simulation, TheTargetOfAStepDownBecomesTheLeader) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    auto outcome = hand_over(seed);
    ASSERT_EQ(outcome.violation, "") << replay(seed) << hand_over(seed, true).trace;
  }
}

TEST(Simulation, OneSeedIsOneHistory) {
  for (std::uint64_t seed : {1, 7, 99, 12345}) {
    auto first = chaos(seed);
    auto again = chaos(seed, true);
    EXPECT_EQ(first.digest, again.digest);
    EXPECT_EQ(first.steps, again.steps);
  }
  EXPECT_NE(chaos(1).digest, chaos(2).digest);
}

// They are hunted without sanitizers only: it takes tens of thousands of seeds.
#ifndef CLUSTER_SANITIZED

struct Mutant {
  Mutation mutation;
  const char* name;
  Outcome (*run)(std::uint64_t seed, bool keep_trace) = chaos;
  std::uint64_t known = 1;  ///< a seed that has shown it: the rare ones take minutes to find
};
void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }

class Mutants : public testing::TestWithParam<Mutant> {};

TEST_P(Mutants, AreCaught) {
  constexpr std::uint64_t kMost = 40'000;
  std::atomic<std::uint64_t> next{1};
  std::atomic<std::uint64_t> caught{0};
  const auto shows = [](std::uint64_t seed) {
    Mutated mutated(GetParam().mutation);
    return !GetParam().run(seed, false).violation.empty();
  };
  if (shows(GetParam().known)) return;
  auto hunt = [&] {
    Mutated mutated(GetParam().mutation);
    for (std::uint64_t seed = next++; seed <= kMost && caught.load() == 0; seed = next++)
      if (!(GetParam().run)(seed, false).violation.empty()) caught.store(seed);
  };
  std::thread other(hunt);
  hunt();
  other.join();
  EXPECT_NE(caught.load(), 0u) << "no seed up to " << kMost << " shows what is wrong with "
                               << GetParam().name;
  RecordProperty("seed", static_cast<int>(caught.load()));
}

INSTANTIATE_TEST_SUITE_P(
    OfTheProtocols, Mutants,
    testing::Values(Mutant{Mutation::count_from_ack_arrival, "count_from_ack_arrival"},
                    Mutant{Mutation::no_drift_margin, "no_drift_margin"},
                    Mutant{Mutation::withdrawals_of_any_revision, "withdrawals_of_any_revision"},
                    Mutant{Mutation::ack_after_withdrawing, "ack_after_withdrawing"},
                    Mutant{Mutation::quorum_one_less, "quorum_one_less"},
                    Mutant{Mutation::acks_one_less, "acks_one_less"},
                    Mutant{Mutation::forget_withdrawals, "forget_withdrawals"},
                    Mutant{Mutation::only_new_voters, "only_new_voters"},
                    Mutant{Mutation::settle_by_read, "settle_by_read"},
                    Mutant{Mutation::count_from_repeat, "count_from_repeat", chaos, 672},
                    Mutant{Mutation::lease_without_session_rev, "lease_without_session_rev", chaos,
                           390},
                    Mutant{Mutation::release_without_revision, "release_without_revision"},
                    Mutant{Mutation::expire_without_revision, "expire_without_revision"},
                    Mutant{Mutation::act_before_settled, "act_before_settled"},
                    Mutant{Mutation::keep_epoch, "keep_epoch"}),
    [](const auto& param_info) { return param_info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    OfLocks, Mutants,
    testing::Values(
        Mutant{Mutation::lease_without_session_rev, "without_session_rev", lock_chaos, 103},
        Mutant{Mutation::lock_act_before_settled, "act_before_settled", lock_chaos},
        Mutant{Mutation::lock_settle_by_read, "settle_by_read", lock_chaos, 7866},
        Mutant{Mutation::lock_keep_token, "keep_token", lock_chaos},
        Mutant{Mutation::lock_outlives_session, "outlives_session", lock_chaos, 32},
        Mutant{Mutation::lock_release_without_revision, "release_without_revision", lock_chaos},
        Mutant{Mutation::lock_believe_old_news, "believe_old_news", lock_chaos, 171}),
    [](const auto& param_info) { return param_info.param.name; });

#endif

}  // namespace
}  // namespace cluster::sim
