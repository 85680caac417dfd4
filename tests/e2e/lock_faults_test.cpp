// Keys and locks under faults: what clients were told of them is written down, and must be what one
// thing at a time could have told (tests/linearizability.h).
#include <algorithm>
#include <csignal>
#include <iostream>
#include <thread>

#include "e2e/workload.h"
#include "outage.h"

namespace cluster::e2e {
namespace {

std::int64_t now_ns() { return BootClock::now().time_since_epoch().count(); }

TEST(LocksAndKeys, SurviveTheDeathOfTheirOnlyServer) {
  CLUSTER_SKIP_HEAVY_LOAD();
  // Longer than calls take to fail, and the server to come back, on a busy machine.
  Workload work({.session_timeout = milliseconds(8000)});
  work.start(3);
  if (testing::Test::HasFailure()) return;
  const milliseconds session_timeout(
      work.c.node_options("node-1").at("session_timeout_ms").get<int>());
  Duration longest{0};
  for (int round = 0; round < 3; ++round) {
    const auto troubled = work.keys_troubled();
    const Time killed = BootClock::now();
    work.c.server(0).kill_hard();
    EXPECT_TRUE(
        work.c.wait_for("calls that fail", [&] { return work.keys_troubled() >= troubled + 5; }));
    work.c.server(0).start_again();
    work.c.server(0).wait_ready(seconds(60) * slowness());
    longest = std::max(longest, BootClock::now() - killed);
    EXPECT_TRUE(work.wait_more("update", "done", 100));
    EXPECT_TRUE(work.wait_more("acquire", "done", 100));
    // Each session is heard of again before the next outage begins.
    EXPECT_TRUE(work.c.wait_watched({"node-1", "node-2", "node-3"}));
  }
  work.finish();
  // A machine on which it takes longer may hold heartbeats up for as long.
  if (longest < session_timeout / 2) {
    EXPECT_TRUE(work.noted("lost").empty()) << "sessions outlast it";
  } else {
    std::cerr << "an outage took too long to say whether sessions outlast it\n";
  }
  EXPECT_GE(work.keys_troubled(), 15u);
  EXPECT_GT(work.count("update", "refused"), 10u);
  EXPECT_GT(work.count("acquire", "refused"), 10u);
}

TEST(LocksAndKeys, SurviveAServerThatStoresWhatWasGivenUp) {
  CLUSTER_SKIP_HEAVY_LOAD();
  Workload work;
  work.start(3);
  if (testing::Test::HasFailure()) return;
  for (int round = 0; round < 3; ++round) {
    const auto troubled = work.keys_troubled();
    stop_and_wait(work.c.server(0).pid());
    const auto given_up = work.count("acquire", "unknown");
    EXPECT_TRUE(work.c.wait_for("writes that are given up", [&] {
      return work.keys_troubled() >= troubled + 5 &&
             work.count("acquire", "unknown") >= given_up + 2;
    }));
    ::kill(work.c.server(0).pid(), SIGCONT);
    EXPECT_TRUE(work.wait_more("update", "done", 100));
    EXPECT_TRUE(work.wait_more("acquire", "done", 50));
  }
  work.finish();
  EXPECT_GE(work.keys_troubled(), 15u);
  EXPECT_GT(work.count("acquire", "unknown"), 3u);
}

TEST(LocksAndKeys, SurviveTheDeathOfEachNatsServer) {
  CLUSTER_SKIP_HEAVY_LOAD();
  Workload work({.servers = 3, .session_timeout = milliseconds(1500)});
  // What is written to a key during an election, or two, is less than its history keeps.
  work.options["pace_ms"] = 100;
  for (const char* more : {"key.e", "key.f", "key.g", "key.h"})
    work.options["keys"].push_back(more);
  work.start(3);
  if (testing::Test::HasFailure()) return;
  faults::Outage outage(work.c.all_servers());
  // The one that leads the keys' stream dies first: so at least one death is felt for certain.
  const auto first = work.c.stream_leader("KV_" + work.c.platform() + "_work").value_or(0);
  for (std::size_t n = 0; n < work.c.servers(); ++n) {
    const std::size_t i = (first + n) % work.c.servers();
    ASSERT_TRUE(outage.wait_whole());
    outage.kill(i);
    const auto updates = work.count("update", "done");
    const auto acquires = work.count("acquire", "done");
    ASSERT_TRUE(outage.outlast([&] {
      std::this_thread::sleep_for(milliseconds(100));
      return work.count("update", "done") >= updates + 15 &&
             work.count("acquire", "done") >= acquires + 30;
    }));
    ASSERT_TRUE(outage.end());
  }
  work.end();
  ASSERT_TRUE(outage.compare("KV_" + work.c.platform() + "_work"));
  CLUSTER_END_LOST(outage);
  if (const auto twice = work.contradiction(); !twice.empty())
    FAIL() << "the servers lose what they acknowledge: " << twice;
  work.finish();
  EXPECT_GT(work.keys_troubled(), 3u);
  EXPECT_GT(work.count("update", "refused"), 10u);
}

// node-4 keeps the lock "first", which the others want, too; returns its token.
std::uint64_t start_with_keeper(Workload& work) {
  work.start(3);
  work.start("node-4", {{"hold", "first"}});
  EXPECT_TRUE(work.c.wait_watched({"node-1", "node-2", "node-3", "node-4"}));
  EXPECT_TRUE(work.c.wait_for("its lock", [&] { return !work.noted("kept").empty(); }));
  // What its watch has told until it dies is checked at the end.
  const pid_t pid = work.c.node("node-4").pid();
  EXPECT_TRUE(work.c.wait_for("its watch to tell of some writes", [&] {
    const auto& told = work.noted("watched");
    return std::count_if(told.begin(), told.end(),
                         [&](const json& line) { return line.at("pid") == pid; }) > 300;
  }));
  return work.noted("kept").empty() ? 0
                                    : work.noted("kept").front().at("token").get<std::uint64_t>();
}

testing::AssertionResult wait_next_holder(Workload& work, std::uint64_t token) {
  return work.c.wait_for("the next holder",
                         [&] { return !work.next_holder("first", token).is_null(); });
}

// Of the fenced writes with that token, the last.
json last_fenced(Workload& work, std::uint64_t token) {
  json last;
  for (const auto& line : work.noted("fenced"))
    if (line.at("lock") == "first" && line.at("token") == token) last = line;
  return last;
}

TEST(LocksAndKeys, AKilledHoldersLockGoesToTheNext) {
  CLUSTER_SKIP_HEAVY_LOAD();
  Workload work(kPatient);
  const auto token = start_with_keeper(work);
  if (testing::Test::HasFailure()) return;
  EXPECT_TRUE(work.wait_more("acquire", "refused", 3));
  EXPECT_TRUE(work.wait_more("acquire", "unknown", 5)) << "who waits too long gives up";
  EXPECT_TRUE(work.next_holder("first", token).is_null());
  const pid_t pid = work.c.node("node-4").pid();
  const std::int64_t killed = now_ns();
  work.harmed(pid, killed);
  kill_and_wait(pid);
  ASSERT_TRUE(wait_next_holder(work, token));
  EXPECT_GT(work.next_holder("first", token).at("ns"), killed);
  EXPECT_TRUE(work.wait_more("acquire", "done", 100));
  work.finish();
  EXPECT_GT(work.count("acquire", "refused"), 10u);
}

TEST(LocksAndKeys, AStoppedHolderHearsTheTruthWhenItWakesAndItsTokenIsRefused) {
  CLUSTER_SKIP_HEAVY_LOAD();
  Workload work(kPatient);  // a busy machine must not end the holder's session before this does
  const auto token = start_with_keeper(work);
  if (testing::Test::HasFailure()) return;
  const pid_t pid = work.c.node("node-4").pid();
  const std::int64_t stopped = now_ns();
  work.harmed(pid, stopped);
  stop_and_wait(pid);
  ASSERT_TRUE(wait_next_holder(work, token));
  EXPECT_GT(work.next_holder("first", token).at("ns"), stopped);
  EXPECT_TRUE(work.c.wait_for("a fenced write by a later holder", [&] {
    const auto& all = work.noted("fenced");
    return std::any_of(all.begin(), all.end(), [&](const json& line) {
      return line.at("lock") == "first" && line.at("outcome") == "done" && line.at("token") > token;
    });
  }));
  const std::int64_t woken = now_ns();
  ::kill(pid, SIGCONT);
  const auto of_token = [&](const json& line) { return line.at("token") == token; };
  EXPECT_TRUE(work.c.wait_for("its holder to hear that it is lost", [&] {
    const auto &not_held = work.noted("not_held"), &lost = work.noted("lost");
    return !not_held.empty() && std::any_of(lost.begin(), lost.end(), of_token);
  }));
  EXPECT_TRUE(work.c.wait_for("its late write to be refused", [&] {
    const json last = last_fenced(work, token);
    return !last.is_null() && last.at("ns") > woken && last.at("outcome") != "failed";
  }));
  EXPECT_EQ(last_fenced(work, token).at("outcome"), "refused");
  EXPECT_TRUE(work.wait_more("acquire", "done", 100));
  work.finish();
  EXPECT_EQ(work.held_after(token, woken), 0u) << "it thought so when it woke";
}

}  // namespace
}  // namespace cluster::e2e
