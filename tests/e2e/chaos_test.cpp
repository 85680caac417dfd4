// Random faults in a row over three nodes with a replicated database and a NATS server, while a
// client writes numbered rows: `make chaos`. The environment's CHAOS_SEED fixes which faults come
// (not what the machine makes of them), CHAOS_CYCLES how many cycles.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/number_text.h"
#include "e2e/databases.h"

namespace cluster::e2e {
namespace {

constexpr std::uint64_t kSeed = 1;
constexpr int kCycles = 5;
constexpr milliseconds kSessionTimeout(1000);

std::uint64_t setting(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return fallback;
  const auto value = number_from(text);
  if (!value || *value == 0)
    throw std::invalid_argument(std::string(name) + "=" + text + ": a number from 1 on is wanted");
  return *value;
}

class Chaos {
 public:
  Chaos(std::uint64_t seed, Commit commit)
      : d_({.session_timeout = kSessionTimeout}),
        loss_(commit == Commit::replicated ? Loss::none : Loss::reported),
        random_(seed) {
    d_.row_bytes = 20;
    d_.commit = commit;
    d_.separate = below(2) == 0;
    std::printf("replicas %s\n", d_.separate ? "in files of their own" : "in the database's place");
    d_.start_watched(3);
  }

  /// One to three faults, some of them while the last one is being got over.
  void cycle(int number) {
    const auto begin = BootClock::now();
    std::string what;
    const std::size_t faults = below(3) == 0 ? 2 + below(2) : 1;
    for (std::size_t i = 0; i < faults; ++i) {
      pass(milliseconds(below(200)));
      what += (i > 0 ? "; " : "") + fault();
    }
    for (auto& mend : std::exchange(later_, {})) {
      pass(milliseconds(below(3) == 0 ? below(2000) : below(200)));
      mend();
    }
    const int lost_before = d_.lost;
    check();
    const auto ms = std::chrono::duration_cast<milliseconds>(BootClock::now() - begin).count();
    std::printf("cycle %3d: %s -> epoch %llu, %zu rows committed, %d lost and reported, %lld ms\n",
                number, what.c_str(), static_cast<unsigned long long>(d_.c.epoch()),
                d_.logged("committed").size(), d_.lost - lost_before, static_cast<long long>(ms));
    std::fflush(stdout);
    d_.resume();
  }

  void finish() { d_.check(loss_); }

 private:
  std::size_t below(std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_);
  }
  void pass(milliseconds span) {
    const Time end = BootClock::now() + span;
    EXPECT_TRUE(d_.c.wait_for("time to pass", [&] { return BootClock::now() >= end; }));
  }
  std::string leader() {
    const auto record = d_.c.lease();
    return record ? record->value("holder", d_.nodes.front()) : d_.nodes.front();
  }
  std::string standby() {
    const std::string leads = leader();
    std::vector<std::string> others;
    for (const auto& node : d_.nodes)
      if (node != leads) others.push_back(node);
    return others[below(others.size())];
  }
  bool runs(const std::string& node) { return d_.c.node(node).running(); }
  void start_later(const std::string& node) {
    later_.push_back([this, node] {
      if (!runs(node)) d_.restart(node);
    });
  }

  std::string kill_node(const std::string& node) {
    if (!runs(node)) return "nothing (" + node + " is dead)";
    ::kill(d_.c.node(node).pid(), SIGCONT);
    start_later(node);
    const bool all = below(3) == 0;
    all ? d_.kill_all_of(node) : kill_and_wait(d_.c.node(node).pid());
    // Its threads may end after it.
    EXPECT_TRUE(d_.c.wait_for(node + " to end", [&] { return !runs(node); }));
    return (all ? "power off " : "kill ") + node;
  }

  std::string stop_node(const std::string& node) {
    if (!runs(node)) return "nothing (" + node + " is dead)";
    std::vector<pid_t> processes{d_.c.node(node).pid()};
    const pid_t guardian = d_.c.guardian(node);
    const bool both = guardian != 0 && below(3) == 0;
    if (both) {
      // Its backend goes on by itself, beside the next leader's.
      if (const pid_t backend = d_.c.backend_pid(node); backend != 0) d_.c.allow_overlap(backend);
      processes.insert(processes.begin(), guardian);
    }
    for (const pid_t pid : processes) stop_and_wait(pid);
    later_.push_back([processes] {
      for (const pid_t pid : processes) ::kill(pid, SIGCONT);
    });
    if (below(2) == 0) pass(kSessionTimeout * 2 * slowness());
    return "stop " + node + (both ? " and its guardian" : "");
  }

  std::string kill_backend() {
    const pid_t backend = d_.c.backend_pid(leader());
    if (backend == 0) return "nothing (no backend runs)";
    kill_and_wait(backend);
    return "kill the backend";
  }

  std::string kill_nats() {
    d_.c.server(0).kill_hard();
    pass(milliseconds(below(4) == 0 ? 2000 : below(500)));
    d_.c.server(0).start_again();
    d_.c.server(0).wait_ready(seconds(60) * slowness());
    return "kill NATS";
  }

  std::string hand_over() {
    const std::string from = leader();
    if (!runs(from) || !later_.empty()) return "nothing (no hand-over amid other faults)";
    d_.c.ask(from, "stepdown", {{"app", "db"}});
    return "hand over from " + from;
  }

  std::string fault() {
    switch (below(10)) {
      case 0:
      case 1:
      case 2: return "leader: " + kill_node(leader());
      case 3: return "standby: " + kill_node(standby());
      case 4: return kill_backend();
      case 5: return kill_nats();
      case 6: return "leader: " + stop_node(leader());
      case 7: return "standby: " + stop_node(standby());
      case 8: {
        std::string all;
        for (const auto& node : d_.nodes) all += kill_node(node) + ", ";
        return all + "which are all";
      }
      default: return hand_over();
    }
  }

  void check() {
    ASSERT_TRUE(d_.c.wait_for("all nodes to run",
                              [&] { return d_.c.running_nodes().size() == d_.nodes.size(); }));
    // A question to a node that is not connected yet would be waited for.
    ASSERT_TRUE(d_.c.wait_members(d_.nodes));
    const std::string leads = d_.c.wait_leader();
    ASSERT_FALSE(leads.empty());
    ASSERT_TRUE(d_.wait_for_rows(10));
    for (const auto& node : d_.nodes) ASSERT_TRUE(d_.wait_ready(node)) << node;
    const auto rows = d_.check_copies();
    d_.check_rows(rows, loss_);
  }

  Databases d_;
  const Loss loss_;
  std::mt19937_64 random_;
  std::vector<std::function<void()>> later_;  // what ends the faults of this cycle
};

void run(Commit commit) {
  const std::uint64_t seed = setting("CHAOS_SEED", kSeed);
  const int cycles = static_cast<int>(setting("CHAOS_CYCLES", kCycles));
  const std::string again = "make chaos SEED=" + std::to_string(seed) +
                            " CYCLES=" + std::to_string(cycles) +
                            " COMMIT=" + (commit == Commit::replicated ? "replicated" : "async");
  std::printf("%s\n", again.c_str());
  Chaos chaos(seed, commit);
  for (int i = 1; i <= cycles && !testing::Test::HasFailure(); ++i) chaos.cycle(i);
  if (!testing::Test::HasFailure()) chaos.finish();
  if (testing::Test::HasFailure()) std::printf("to repeat it: %s\n", again.c_str());
}

TEST(Chaos, NothingUnreportedIsLostUnderAsync) { run(Commit::async); }
TEST(Chaos, NothingAcknowledgedIsLostUnderReplicated) { run(Commit::replicated); }

}  // namespace
}  // namespace cluster::e2e
