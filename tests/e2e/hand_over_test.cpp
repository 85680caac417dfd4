// Hand-overs and stops that tell the truth: of a database that can't be sent, of an app that can't
// be started, and of what is left.
#include <chrono>
#include <csignal>
#include <future>
#include <string>

#include "e2e/databases.h"

namespace cluster::e2e {
namespace {

using sqlite::Handle;

constexpr std::size_t kFewRows = 30;       // rows
constexpr milliseconds kDrainQuiet{1500};  // nothing of the database gets on
constexpr int kExitNotReplicated = 8, kExitUnhealthy = 5,
              kExitRefused = 1;  // exit statuses of the program

/// Nodes with a database, whose stream can be filled up.
class HandOver : public testing::Test {
 protected:
  HandOver() {
    d.adjust = [this](const std::string& node, json& options, Child::Options& how) {
      options["shutdown_timeout_ms"] = shutdown.count();
      options["apps"][0]["sqlite"]["drain_timeout_ms"] = kDrainQuiet.count();
      if (more) more(node, options, how);
    };
  }

  void start(int count) {
    leader = d.start_watched(count);
    ASSERT_TRUE(d.wait_for_rows(kFewRows));
    epoch = d.c.epoch();
  }
  json stream_config() {
    return d.c.request("$JS.API.STREAM.INFO." + stream()).value("config", json::object());
  }
  std::string stream() const { return d.c.platform() + "_db_wal"; }
  void limit_stream(std::int64_t bytes) {
    json config = stream_config();
    ASSERT_FALSE(config.empty());
    config["max_bytes"] = bytes;
    config["discard"] = "new";
    const json answer = d.c.request("$JS.API.STREAM.UPDATE." + stream(), config);
    ASSERT_FALSE(answer.contains("error")) << answer;
  }
  std::uint64_t lag(const std::string& node) {
    return d.status(node).value("lag", json::object()).value("transactions", std::uint64_t{0});
  }
  /// It takes nothing more; the leader has something that it should take.
  void fill_stream() {
    limit_stream(1);
    ASSERT_TRUE(d.c.wait_for("rows that are not stored", [&] { return lag(leader) > 0; }));
  }
  Cluster::Told stepdown(const std::string& more_arguments = {}) {
    return d.c.command("stepdown db " + more_arguments);
  }
  bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }

  Databases d{kPatient};
  milliseconds shutdown{20'000};
  std::function<void(const std::string&, json&, Child::Options&)> more;
  std::string leader;
  std::uint64_t epoch = 0;
};

TEST_F(HandOver, IsRefusedWhileJetStreamIsFullAndLosesNothing) {
  start(2);
  const pid_t backend = d.c.backend_pid(leader);
  fill_stream();
  const auto refused = stepdown();
  EXPECT_EQ(refused.status, kExitNotReplicated) << refused.out;
  for (const char* part :
       {"maximum bytes exceeded", "not in JetStream: ", "transaction", "--force"})
    EXPECT_TRUE(has(refused.out, part)) << part << ": " << refused.out;
  EXPECT_EQ(d.c.wait_leader(), leader);
  EXPECT_EQ(d.c.epoch(), epoch);
  EXPECT_EQ(d.c.backend_pid(leader), backend) << "it was not even stopped";
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  EXPECT_FALSE(d.c.audited("transition", "step_down_refused").is_null());
  EXPECT_TRUE(d.c.audited("database", "not_replicated").is_null());
  limit_stream(-1);
  const auto done = stepdown();
  EXPECT_EQ(done.status, 0) << done.out;
  EXPECT_TRUE(has(done.out, " leads now (epoch ")) << done.out;
  EXPECT_TRUE(has(done.out, " ms without a leader")) << done.out;
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  EXPECT_FALSE(d.c.audited("transition", "stepped_down").is_null());
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  d.check(Loss::none);
}

TEST_F(HandOver, ByForceSaysWhatItLeaves) {
  start(2);
  fill_stream();
  auto command = std::async(std::launch::async, [&] { return stepdown("--force"); });
  ASSERT_TRUE(d.c.wait_for("the lease to be released",
                           [&] { return d.c.logged(leader, {" lease_released "}) > 0; }));
  limit_stream(-1);
  const auto done = command.get();
  EXPECT_EQ(done.status, 0) << done.out;
  EXPECT_TRUE(has(done.out, " were left on " + leader + " and are not in JetStream")) << done.out;
  EXPECT_FALSE(d.c.audited("database", "not_replicated").is_null());
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  d.check(Loss::reported);
  EXPECT_GT(d.lost, 0);
}

// What was sent while the app ran is not all: a rest that can't be is seen when it has stopped.
TEST_F(HandOver, ARestThatCantBeSentHasTheAppStartedAgain) {
  start(2);
  const pid_t backend = d.c.backend_pid(leader);
  Handle other(d.file(leader), Handle::Access::read_write);
  sqlite::wait_for_locks(other.get(), 60'000);
  other.exec("BEGIN IMMEDIATE");
  const auto refused = stepdown();
  EXPECT_EQ(refused.status, kExitNotReplicated) << refused.out;
  EXPECT_TRUE(has(refused.out, "another process is in the middle of a write transaction"))
      << refused.out;
  other.exec("ROLLBACK");
  EXPECT_EQ(d.c.wait_leader(), leader);
  EXPECT_EQ(d.c.epoch(), epoch);
  EXPECT_NE(d.c.backend_pid(leader), backend);
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  const auto done = stepdown();
  EXPECT_EQ(done.status, 0) << done.out;
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  d.check(Loss::none);
}

TEST_F(HandOver, ATargetWhoseProgramCantStartGivesTheLeaseBack) {
  more = [](const std::string& node, json& options, Child::Options&) {
    if (node != "node-2") return;
    options["apps"][0]["backend"]["command"] = json::array({"/bin/false"});
    options["apps"][0]["backend"]["restart"] = "never";
    options["apps"][0]["backend"]["ready_port"] = free_port();
  };
  leader = d.start(1);
  d.nodes.push_back("node-2");
  d.restart("node-2");
  ASSERT_TRUE(d.wait_ready("node-2"));
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  epoch = d.c.epoch();
  const auto told = stepdown("--to node-2");
  EXPECT_EQ(told.status, kExitUnhealthy) << told.out;
  EXPECT_TRUE(has(told.out, "node-1 leads again")) << told.out;
  EXPECT_TRUE(has(told.out, "node-2 could not lead: backend: ")) << told.out;
  EXPECT_EQ(d.c.wait_leader("db", "", epoch), "node-1");
  EXPECT_FALSE(d.c.audited("transition", "step_down_ended").is_null());
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  d.check(Loss::none);
}

TEST_F(HandOver, WithoutAnotherNodeIsRefused) {
  start(1);
  const auto told = stepdown();
  EXPECT_EQ(told.status, kExitRefused) << told.out;
  EXPECT_TRUE(has(told.out, "no other live node runs the app")) << told.out;
  EXPECT_EQ(d.c.wait_leader(), leader);
  EXPECT_EQ(d.c.epoch(), epoch);
}

TEST_F(HandOver, ToANodeThatHangsIsRefused) {
  start(2);
  const std::string other = d.c.other_nodes(leader).front();
  stop_and_wait(d.c.node(other).pid());
  const auto told = stepdown();
  ::kill(d.c.node(other).pid(), SIGCONT);
  EXPECT_EQ(told.status, kExitRefused) << told.out;
  EXPECT_TRUE(has(told.out, "no node is ready to lead it")) << told.out;
  EXPECT_EQ(d.c.wait_leader(), leader);
  EXPECT_EQ(d.c.epoch(), epoch);
}

class StopOfALeader : public HandOver {
 protected:
  /// SIGTERM; waits for the end, and returns its status.
  int stopped(const std::string& node) {
    d.stop(node);
    return d.c.node(node).status();
  }
};

TEST_F(StopOfALeader, ThatCantSendSaysWhatWasNotSentAndTheNextStartSendsIt) {
  shutdown = milliseconds(4'000);
  start(1);
  fill_stream();
  EXPECT_EQ(stopped(leader), ended_with(Errc::not_replicated));
  EXPECT_EQ(d.c.logged(leader, {" stopped_not_replicated ", " first=", " last=", " bytes="}), 1);
  EXPECT_TRUE(d.c.wait_logged(leader, {"JetStream does not have all that was committed here"}));
  limit_stream(-1);
  d.restart(leader);
  EXPECT_EQ(d.c.wait_leader("db", "", epoch), leader);
  ASSERT_TRUE(d.wait_for_rows(kFewRows));
  d.check(Loss::none);
}

TEST_F(StopOfALeader, WaitsForAJetStreamThatComesBack) {
  start(1);
  fill_stream();
  d.c.node(leader).signal(SIGTERM);
  ASSERT_TRUE(d.c.wait_for("its program's end", [&] { return d.c.backend_pid(leader) == 0; }));
  // For longer than a hand-over would wait.
  const auto until = std::chrono::steady_clock::now() + 2 * kDrainQuiet;
  d.c.wait_for("time to pass", [&] { return std::chrono::steady_clock::now() > until; });
  EXPECT_TRUE(d.c.node(leader).running());
  limit_stream(-1);
  EXPECT_TRUE(d.c.wait_for("its end", [&] { return !d.c.node(leader).running(); }));
  EXPECT_EQ(d.c.node(leader).status(), 0);
  d.restart(leader);
  EXPECT_EQ(d.c.wait_leader("db", "", epoch), leader);
  d.check(Loss::none);
}

TEST_F(StopOfALeader, WithAJetStreamThatCantBeReachedEndsWithinItsTimeAndSaysWhatWasNotSent) {
  shutdown = milliseconds(6'000);
  start(1);
  stop_and_wait(d.c.server(0).pid());
  // Some of what is committed from now on is not stored.
  const bool more_rows = static_cast<bool>(d.wait_for_rows(kFewRows));
  d.c.node(leader).signal(SIGTERM);
  const bool ended =
      static_cast<bool>(d.c.wait_for("its end", [&] { return !d.c.node(leader).running(); }));
  ::kill(d.c.server(0).pid(), SIGCONT);
  ASSERT_TRUE(more_rows);
  ASSERT_TRUE(ended);
  EXPECT_EQ(d.c.node(leader).status(), ended_with(Errc::not_replicated));
  EXPECT_EQ(d.c.logged(leader, {" stopped_not_replicated "}), 1);
  d.restart(leader);
  EXPECT_EQ(d.c.wait_leader("db", "", epoch), leader);
  d.check(Loss::none);
}

TEST(StopInTime, WhatDoesNotEndIsEndedByForceAndNamed) {
  Cluster c(kPatient);
  json options = c.node_options("node-1");
  options["shutdown_timeout_ms"] = 2'000;
  options["apps"][0]["passive"] = {{"slow_ms", 600'000}};
  c.start(options);
  ASSERT_EQ(c.wait_leader(), "node-1");
  c.node("node-1").signal(SIGTERM);
  ASSERT_TRUE(c.wait_for("its end", [&] { return !c.node("node-1").running(); }));
  EXPECT_EQ(c.node("node-1").status(), ended_with(Errc::timeout));
  EXPECT_EQ(c.logged("node-1", {" stop_not_complete ", "db: its step hook has not"}), 1);
  c.start("node-1");
  c.wait_leader();
}

}  // namespace
}  // namespace cluster::e2e
