// Hooks and backends that fail: the lead goes elsewhere, and nothing spins.
#include <csignal>

#include "e2e/harness.h"

namespace cluster::e2e {
namespace {

// Starts `bad` and waits for the first event of that name, then starts the others.
void start_with(Cluster& c, json bad, const std::string& event, int others) {
  c.start(bad);
  EXPECT_TRUE(c.wait_for(event, [&] { return !c.events(bad.at("node"), "db", event).empty(); }));
  for (int i = 0; i < others; ++i) c.start("node-" + std::to_string(i + 2));
}

TEST(Failures, AnOnActiveThatThrowsGivesTheLeadToAnother) {
  Cluster c;
  json bad = c.node_options("node-1");
  bad["apps"][0]["active"] = {{"throw", 1000}};
  start_with(c, bad, "active_threw", 1);
  EXPECT_EQ(c.wait_leader(), "node-2");
  EXPECT_GE(c.events("node-1", "db", "active_threw").size(), 1u);
  EXPECT_TRUE(c.wait_logged("node-1", {"cooldown", "as the test wants it"}));
  EXPECT_EQ(c.backend_pid("node-1"), 0);
}

TEST(Failures, AnOnActiveThatNeverReturnsGivesTheLeadToAnother) {
  Cluster c({.stop_in_order = false});
  json bad = c.node_options("node-1");
  bad["apps"][0]["active"] = {{"block", true}};
  bad["hook_timeout_ms"] = 500;
  start_with(c, bad, "active_begin", 1);
  EXPECT_EQ(c.wait_leader(), "node-2");
  const auto epoch = c.epoch();
  // The one whose hook hangs does not lead again, even where nobody else could.
  kill_and_wait(c.node("node-2").pid());
  EXPECT_TRUE(c.wait_for("the end of the other's session",
                         [&] { return c.member_state("node-2") != "live"; }));
  c.start("node-2");
  EXPECT_EQ(c.wait_leader("db", "", epoch), "node-2");
  EXPECT_EQ(c.events("node-1", "db", "active_begin").size(), 1u);
}

TEST(Failures, AnOnPassiveThatNeverReturnsDoesNotKeepTheLead) {
  Cluster c({.session_timeout = kSteady.session_timeout, .stop_in_order = false});
  json bad = c.node_options("node-1");
  bad["apps"][0]["passive"] = {{"block", true}};
  bad["hook_timeout_ms"] = 500;
  c.start(bad);
  ASSERT_EQ(c.wait_leader(), "node-1");
  const auto epoch = c.epoch();
  c.start("node-2");
  EXPECT_TRUE(c.wait_members({"node-2"}));
  const json answer = c.ask("node-1", "stepdown", {{"v", 1}, {"app", "db"}});
  EXPECT_EQ(answer.value("error", ""), "");
  EXPECT_EQ(c.wait_lease_moves("node-1", epoch), "node-2");
  EXPECT_EQ(c.backend_pid("node-1"), 0);
}

TEST(Failures, ABackendThatCantStartGivesTheLeadToAnother) {
  Cluster c;
  json bad = c.node_options("node-1");
  bad["apps"][0]["backend"] = c.backend({"--exit"});
  bad["apps"][0]["backend"]["restart"] = "never";
  bad["apps"][0]["backend"]["ready_port"] = free_port();
  start_with(c, bad, "backend_exits", 1);
  EXPECT_EQ(c.wait_leader(), "node-2");
  EXPECT_GE(c.events("node-1", "db", "backend_exits").size(), 1u);
  EXPECT_TRUE(c.wait_logged("node-1", {"cooldown"}));
  EXPECT_EQ(c.events("node-1", "db", "active_begin").size(), 0u);
}

TEST(Failures, WhereNobodysBackendStartsAttemptsKeepTheirDistance) {
  constexpr milliseconds kCooldown(400);
  Cluster c;
  for (const char* name : {"node-1", "node-2"}) {
    json options = c.node_options(name);
    options["cooldown_ms"] = kCooldown.count();
    options["apps"][0]["backend"] = c.backend({"--exit"});
    options["apps"][0]["backend"]["restart"] = "never";
    c.start(options);
  }
  EXPECT_TRUE(c.wait_for("three attempts on each node", [&] {
    return c.events("node-1", "db", "backend_exits").size() >= 3 &&
           c.events("node-2", "db", "backend_exits").size() >= 3;
  }));
  for (const char* name : {"node-1", "node-2"}) {
    const auto attempts = c.events(name, "db", "backend_exits");
    for (std::size_t i = 1; i < attempts.size(); ++i)
      EXPECT_GE(attempts[i].ns - attempts[i - 1].ns, std::chrono::nanoseconds(kCooldown).count())
          << name << " tried again before its cooldown";
  }
}

TEST(Failures, ABackendThatIgnoresSigtermIsKilledAndTheLeadGoesOn) {
  Cluster c(kPatient);
  for (const char* name : {"node-1", "node-2"}) {
    json options = c.node_options(name);
    options["apps"][0]["backend"] = c.backend({"--stubborn"});
    options["apps"][0]["backend"]["stop_timeout_ms"] = 300;
    c.start(options);
  }
  const std::string leader = c.wait_leader();
  const pid_t backend = c.backend_pid(leader);
  const auto epoch = c.epoch();
  EXPECT_EQ(c.ask(leader, "stepdown", {{"v", 1}, {"app", "db"}}).value("error", ""), "");
  EXPECT_FALSE(alive(backend));
  c.wait_leader("db", leader, epoch);
}

TEST(Failures, WhatABackendStartedGoesWithItWhereverItHides) {
  Cluster c(kPatient);
  for (const char* name : {"node-1", "node-2"}) {
    json options = c.node_options(name);
    options["apps"][0]["backend"] = c.backend({"--grandchild"});
    c.start(options);
  }
  const std::string leader = c.wait_leader();
  ASSERT_TRUE(c.wait_for("the grandchild",
                         [&] { return !c.events(leader, "db", "grandchild_begin").empty(); }));
  const pid_t hidden = c.events(leader, "db", "grandchild_begin").front().pid;
  const auto epoch = c.epoch();
  kill_and_wait(c.node(leader).pid());
  c.wait_leader("db", leader, epoch);
  EXPECT_TRUE(c.wait_for("the grandchild's end", [&] { return !alive(hidden); }));
}

}  // namespace
}  // namespace cluster::e2e
