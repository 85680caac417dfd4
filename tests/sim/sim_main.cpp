// Long runs: `cluster-sim --seeds N [--from S]` on all cores, `cluster-sim --replay S` with the
// last events of one seed.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/number_text.h"
#include "sim/scenario.h"
#include "sim/stream_world.h"

using namespace cluster;

namespace {

sim::Outcome stream(std::uint64_t seed, bool trace) {
  auto outcome = sim::stream_chaos(seed, trace);
  return {outcome.violation, outcome.steps, outcome.digest, sim::kStreamSeconds, outcome.trace};
}

int usage() {
  std::fprintf(stderr,
               "usage: cluster-sim [--seeds N] [--from SEED] [--jobs N] [--mutant NUMBER] | "
               "--replay SEED\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t seeds = 1000;
  std::uint64_t from = 1;
  std::uint64_t replay = 0;
  auto mutation = coord::Mutation::none;
  unsigned jobs = std::thread::hardware_concurrency();
  if (argc % 2 == 0) return usage();
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const auto number = number_from(argv[i + 1]);
    if (!number || (*number == 0 && flag != "--mutant")) return usage();
    const std::uint64_t value = *number;
    if (flag == "--seeds")
      seeds = value;
    else if (flag == "--from")
      from = value;
    else if (flag == "--replay")
      replay = value;
    else if (flag == "--mutant")
      mutation = static_cast<coord::Mutation>(value);
    else if (flag == "--jobs")
      jobs = static_cast<unsigned>(value);
    else
      return usage();
  }
  auto run = [](std::uint64_t seed, bool trace) {
    switch (seed % 8) {
      case 3:
      case 4: return sim::lock_chaos(seed, trace);
      case 5: return stream(seed, trace);
      case 6: return sim::store_outage(seed, trace);
      case 7: return sim::machine_loss(seed, trace).outcome;
      default: return sim::chaos(seed, trace);
    }
  };
  if (replay) {
    coord::active_mutation = mutation;
    auto outcome = run(replay, true);
    std::printf("%sseed %llu: %s\n", outcome.trace.c_str(), static_cast<unsigned long long>(replay),
                outcome.violation.empty() ? "all invariants held" : outcome.violation.c_str());
    return outcome.violation.empty() ? 0 : 1;
  }
  std::atomic<std::uint64_t> next{from};
  std::atomic<std::uint64_t> steps{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> virtual_ms{0};
  std::mutex output;
  auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> workers;
  for (unsigned w = 0; w < jobs; ++w) {
    workers.emplace_back([&] {
      coord::active_mutation = mutation;
      for (std::uint64_t seed = next++; seed < from + seeds; seed = next++) {
        auto outcome = run(seed, false);
        steps += outcome.steps;
        virtual_ms += static_cast<std::uint64_t>(outcome.virtual_seconds * 1000);
        if (!outcome.violation.empty()) {
          ++failed;
          std::lock_guard lock(output);
          std::printf("seed %llu: %s\n  see it with: cluster-sim --replay %llu\n",
                      static_cast<unsigned long long>(seed), outcome.violation.c_str(),
                      static_cast<unsigned long long>(seed));
        }
      }
    });
  }
  for (auto& worker : workers) worker.join();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf(
      "%llu seeds, %llu failed, %.1f million steps, %.0f virtual seconds, %.1f s, %.1f million "
      "steps a minute and core\n",
      static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(failed.load()),
      static_cast<double>(steps.load()) / 1e6, static_cast<double>(virtual_ms.load()) / 1e3,
      seconds, static_cast<double>(steps.load()) / 1e6 * 60 / seconds / jobs);
  return failed ? 1 : 0;
}
