// Processes that are killed, and processes that stop for a while and wake.
#include <algorithm>
#include <csignal>
#include <map>
#include <string>
#include <vector>

#include "built.h"
#include "e2e/harness.h"

namespace cluster::e2e {
namespace {

std::string session_of(Cluster& c, const std::string& node) {
  const auto record = c.member(node);
  return record ? record->value("session", "") : "";
}

TEST(Processes, TheLeadMovesWhenTheLeaderIsKilled) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  ASSERT_GT(backend, 0);
  kill_and_wait(c.node(leader).pid());
  const std::string next = c.wait_leader("db", leader, epoch);
  EXPECT_NE(next, leader);
  EXPECT_FALSE(alive(backend));
  EXPECT_EQ(c.member_state(leader), "left");  // its guardian said so: no timeout was waited for
  EXPECT_TRUE(c.wait_for("the next backend", [&] { return c.backend_pid(next) != 0; }));
}

// Of each node and in order: category and action.
std::vector<std::string> audited(const std::vector<json>& entries, const std::string& node) {
  std::vector<std::string> all;
  for (const auto& entry : entries)
    if (entry.value("node", "") == node && entry.value("app", "") == "db")
      all.push_back(entry.value("category", "") + "." + entry.value("action", ""));
  return all;
}

double metric(const std::string& text, const std::string& line) {
  const auto at = text.find("\n" + line + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
}

TEST(Processes, WhatAFailoverDidIsInTheAuditLogAndInTheMetrics) {
  Cluster c(kPatient);
  std::map<std::string, int> ports;
  for (const char* name : {"node-1", "node-2"}) {
    json options = c.node_options(name);
    ports[name] = free_port();
    options["http"] = "127.0.0.1:" + std::to_string(ports[name]);
    c.start(options);
  }
  const std::string leader = c.wait_leader();
  const std::string next = c.other_nodes(leader).front();
  const auto epoch = c.epoch();
  EXPECT_TRUE(c.wait_members({"node-1", "node-2"}));
  // What it has not written yet dies with it.
  EXPECT_TRUE(c.wait_for("the entry of the leader's promotion", [&] {
    const auto all = audited(c.audit_log(), leader);
    return std::count(all.begin(), all.end(), "transition.active") > 0;
  }));
  kill_and_wait(c.node(leader).pid());
  ASSERT_EQ(c.wait_leader("db", leader, epoch), next);
  const auto answer = c.ask(next, "stepdown", {{"app", "db"}, {"force", true}});
  EXPECT_EQ(answer.value("error", ""), "");
  std::vector<json> entries;
  const std::vector<std::string> wanted{
      "lease.taken",       "transition.promoting", "backend.started",    "backend.ready",
      "transition.active", "transition.step_down", "transition.demoting"};
  EXPECT_TRUE(c.wait_for("the entry of the demotion's end", [&] {
    entries = c.audit_log();
    const auto all = audited(entries, next);
    return std::count(all.begin(), all.end(), "lease.released") > 0;
  }));
  auto all = audited(entries, next);
  ASSERT_GE(all.size(), wanted.size());
  EXPECT_EQ(std::vector<std::string>(all.begin(), all.begin() + static_cast<long>(wanted.size())),
            wanted);
  for (const char* action : {"backend.exited", "backend.stopped", "transition.standby"})
    EXPECT_EQ(std::count(all.begin(), all.end(), action), 1) << action;
  all = audited(entries, leader);
  EXPECT_EQ(std::count(all.begin(), all.end(), "transition.active"), 1);
  std::vector<std::string> ends;
  for (const auto& entry : entries)
    if (entry.value("category", "") == "member" && entry["fields"].value("member", "") == leader &&
        entry.value("action", "") != "joined")
      ends.push_back(entry.value("action", "") + ", " + entry["fields"].value("by", ""));
  EXPECT_EQ(ends, (std::vector{"left, " + leader + ": guardian: the process has ended"}));
  // It may lead again meanwhile, in another epoch.
  std::map<std::string, json> fields;
  for (const auto& entry : entries)
    if (entry.value("node", "") == next &&
        entry["fields"].value("epoch", "") == std::to_string(epoch + 1))
      fields[entry.value("action", "")] = entry["fields"];
  for (const char* step : {"ms", "backend_up_ms", "hook_up_ms"})
    EXPECT_TRUE(fields["active"].contains(step)) << step << ": " << fields["active"];
  for (const char* step : {"ms", "backend_down_ms", "hook_down_ms"})
    EXPECT_TRUE(fields["standby"].contains(step)) << step << ": " << fields["standby"];
  EXPECT_EQ(fields["standby"].value("why", ""), "stepped down");
  const std::string metrics = http_get(ports[next], "/metrics");
  for (const char* step : {"backend", "hook"})
    for (const char* direction : {"up", "down"}) {
      const std::string labels =
          std::string(R"({app="db",step=")") + step + R"(",direction=")" + direction + "\"}";
      EXPECT_GE(metric(metrics, "cluster_transition_seconds_count" + labels), 1) << metrics;
      EXPECT_EQ(metric(metrics, "cluster_transition_failures_total" + labels), 0) << metrics;
    }
}

TEST(Processes, NothingMovesWhenAStandbyIsKilled) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  const std::string standby = c.other_nodes(leader).front();
  kill_and_wait(c.node(standby).pid());
  EXPECT_TRUE(
      c.wait_for("the end of its session", [&] { return c.member_state(standby) == "left"; }));
  c.start(standby);
  EXPECT_TRUE(c.wait_members({standby}));
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
}

TEST(Processes, CoordinationMovesWhenTheCoordinatorIsKilled) {
  Cluster c(kPatient);
  c.start_nodes(3);
  const auto coordinator = [&] {
    const auto record = c.lease("_coordinator");
    return record && record->value("state", "") == "held" ? record->value("holder", "")
                                                          : std::string();
  };
  ASSERT_TRUE(c.wait_for("a coordinator", [&] { return !coordinator().empty(); }));
  const std::string old = coordinator();
  const auto epoch = c.epoch("_coordinator");
  kill_and_wait(c.node(old).pid());
  EXPECT_TRUE(c.wait_for("another coordinator", [&] {
    return !coordinator().empty() && coordinator() != old && c.epoch("_coordinator") > epoch;
  }));
  c.wait_leader();
}

TEST(Processes, AKilledNodeStartsAgainUnderItsNameAtOnce) {
  Cluster c;
  const std::string leader = c.start_nodes(1);
  const auto epoch = c.epoch();
  const std::string session = session_of(c, leader);
  kill_and_wait(c.node(leader).pid());
  c.start(leader);
  EXPECT_TRUE(c.wait_for("its new session", [&] {
    return session_of(c, leader) != session && c.member_state(leader) == "live";
  }));
  EXPECT_EQ(c.wait_leader("db", "", epoch), leader);
  EXPECT_EQ(c.logged(leader, {"name_in_use"}), 0);
}

// All nodes with an option of their app "db".
std::string start_with(Cluster& c, const char* key, const json& value) {
  std::vector<std::string> names{"node-1", "node-2", "node-3"};
  for (const auto& name : names) {
    json options = c.node_options(name);
    options["apps"][0][key] = value;
    c.start(options);
  }
  EXPECT_TRUE(c.wait_watched(names));
  return c.wait_leader();
}

// Its guardian kills what it has started some time before another may start, a sixth of that: what
// is killed has to be run to die.
constexpr Settings kTimeToDie{.session_timeout = milliseconds(6000)};

TEST(Processes, WhatAStoppedLeadersBackendHasStartedIsEndedWhereverItHides) {
  Cluster c(kTimeToDie);
  const std::string leader = start_with(c, "backend", c.backend({"--grandchild"}));
  const auto epoch = c.epoch();
  ASSERT_TRUE(c.wait_for("the grandchild",
                         [&] { return !c.events(leader, "db", "grandchild_begin").empty(); }));
  const pid_t hidden = c.events(leader, "db", "grandchild_begin").back().pid;
  const pid_t process = c.node(leader).pid();
  stop_and_wait(process);
  c.wait_lease_moves(leader, epoch);
  EXPECT_FALSE(alive(hidden)) << "its guardian has not ended it";
  ::kill(process, SIGCONT);
  EXPECT_TRUE(c.wait_members({leader}));
}

TEST(Processes, AfterASecondSigtermNothingIsWaitedFor) {
  Cluster c;
  json options = c.node_options("node-1");
  options["apps"][0]["backend"] = c.backend({"--stubborn"});
  options["apps"][0]["backend"]["stop_timeout_ms"] = 600'000;
  c.start(options);
  ASSERT_EQ(c.wait_leader(), "node-1");
  const pid_t backend = c.backend_pid("node-1");
  c.node("node-1").signal(SIGTERM);
  ASSERT_TRUE(c.wait_logged("node-1", {"stopping"}));
  EXPECT_TRUE(alive(backend));
  c.node("node-1").signal(SIGTERM);
  EXPECT_TRUE(c.wait_for("its end", [&] { return !c.node("node-1").running(); }));
  EXPECT_EQ(c.node("node-1").status(), 0);
  // It was killed, but its end is the kernel's.
  EXPECT_TRUE(c.wait_for("the end of its backend", [&] { return !alive(backend); }));
  EXPECT_TRUE(c.wait_for("the end of its guardian", [&] { return c.guardian("node-1") == 0; }));
}

TEST(Processes, AStoppedLeadersBackendIsEndedBeforeAnotherStarts) {
  Cluster c(kTimeToDie);
  // On_passive is still at work when the others' epoch is known.
  const std::string leader = start_with(c, "passive", {{"slow_ms", 1000}});
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  const pid_t process = c.node(leader).pid();
  stop_and_wait(process);
  const std::string next = c.wait_lease_moves(leader, epoch);
  EXPECT_FALSE(alive(backend)) << "its guardian has not ended it";
  const auto begun = c.events(next, "db", "backend_begin");
  ASSERT_FALSE(begun.empty());
  for (const auto& e : c.events(leader, "db", "alive"))
    if (e.pid == backend) {
      EXPECT_LT(e.ns, begun.back().ns);
    }
  ::kill(process, SIGCONT);
  // It finds out, stops in order, and comes back as a standby.
  EXPECT_TRUE(c.wait_for("its on_passive",
                         [&] { return c.events(leader, "db", "passive_end").size() == 1; }));
  EXPECT_EQ(c.events(leader, "db", "passive_end").front().epoch, epoch)
      << "another's fencing token";
  EXPECT_TRUE(c.wait_for("its next session", [&] { return c.member_state(leader) == "live"; }));
  EXPECT_EQ(c.wait_leader("db", leader), next);
  EXPECT_GE(c.logged(leader, {"session_ended"}), 1);
}

TEST(Processes, WhoAskedForAStepDownIsAnsweredThoughTheSessionEnds) {
  Cluster c(kSteady);
  const std::string leader = start_with(c, "passive", {{"slow_ms", 1000}});
  const auto epoch = c.epoch();
  const pid_t process = c.node(leader).pid();
  Child asked({.command = {built::kProgram, "stepdown", "db", "--nats", c.urls().front(),
                           "--platform", c.platform(), "--timeout", "120s"},
               .environment = c.marks(),
               .output = c.path("stepdown.log")});
  ASSERT_TRUE(c.wait_for("its on_passive",
                         [&] { return !c.events(leader, "db", "passive_begin").empty(); }));
  stop_and_wait(process);
  c.wait_lease_moves(leader, epoch);
  ::kill(process, SIGCONT);
  EXPECT_TRUE(c.wait_for("the answer", [&] { return !asked.running(); }));
  EXPECT_EQ(asked.status(), 0) << read_file(c.path("stepdown.log"));
}

TEST(Processes, AMachineThatWasPausedEndsItsBackendWhenItWakes) {
  Cluster c(kSteady);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  const pid_t process = c.node(leader).pid();
  const pid_t guardian = c.guardian(leader);
  ASSERT_GT(guardian, 0);
  for (const pid_t pid : {process, guardian, backend}) stop_and_wait(pid);
  const std::string next = c.wait_lease_moves(leader, epoch);
  EXPECT_TRUE(c.wait_for("the next backend to work",
                         [&] { return !c.events(next, "db", "alive").empty(); }));
  for (const pid_t pid : {backend, process, guardian}) ::kill(pid, SIGCONT);
  EXPECT_TRUE(c.wait_for("the end of the old backend", [&] { return !alive(backend); }));
  EXPECT_TRUE(c.wait_for("its on_passive",
                         [&] { return !c.events(leader, "db", "passive_begin").empty(); }));
  // It could act for an instant: what it asked checks epochs (the fence), so nothing came of it. It
  // is ended before anything else is done about the lost session.
  std::int64_t last = 0;
  for (const char* what : {"alive", "refused"})
    for (const auto& e : c.events(leader, "db", what))
      if (e.pid == backend) last = std::max(last, e.ns);
  const auto passive = c.events(leader, "db", "passive_begin");
  ASSERT_FALSE(passive.empty());
  EXPECT_EQ(passive.front().epoch, epoch);
  EXPECT_LT(last, passive.front().ns);
  EXPECT_TRUE(c.wait_for("its next session", [&] { return c.member_state(leader) == "live"; }));
  EXPECT_EQ(c.wait_leader("db", leader), next);
}

TEST(Processes, AGuardianThatIsKilledIsReplacedAndNothingMoves) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(2);
  const auto epoch = c.epoch();
  const pid_t first = c.guardian(leader);
  ASSERT_GT(first, 0);
  kill_and_wait(first);
  EXPECT_TRUE(c.wait_for("another guardian", [&] {
    const pid_t now = c.guardian(leader);
    return now != 0 && now != first;
  }));
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
  // The new one does its work.
  const pid_t backend = c.backend_pid(leader);
  kill_and_wait(c.node(leader).pid());
  EXPECT_NE(c.wait_leader("db", leader, epoch), "");
  EXPECT_FALSE(alive(backend));
  EXPECT_EQ(c.member_state(leader), "left");
}

TEST(Processes, WhatALostMachineLeftBehindIsEndedAtTheNextStart) {
  Cluster c;
  json options = c.node_options("node-1");
  options["apps"][0]["backend"] = c.backend({"--grandchild"});
  c.start(options);
  ASSERT_EQ(c.wait_leader(), "node-1");
  ASSERT_TRUE(c.wait_for("the grandchild",
                         [&] { return !c.events("node-1", "db", "grandchild_begin").empty(); }));
  const pid_t left_behind = c.events("node-1", "db", "grandchild_begin").front().pid;
  // Nobody can clean up: the guardian dies first, as it does where a machine loses its memory.
  const pid_t guardian = c.guardian("node-1");
  stop_and_wait(guardian);
  kill_and_wait(c.node("node-1").pid());
  kill_and_wait(guardian);
  ASSERT_TRUE(alive(left_behind));
  c.start(options);
  ASSERT_EQ(c.wait_leader("db", "", 1), "node-1");
  EXPECT_FALSE(alive(left_behind));
  EXPECT_GE(c.logged("node-1", {"leftover_ended", std::to_string(left_behind)}), 1);
}

TEST(Processes, OnSigtermALeaderStopsInOrderAndHandsOver) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  const pid_t pid = c.node(leader).pid();
  c.node(leader).signal(SIGTERM);
  EXPECT_TRUE(c.wait_for("its end", [&] { return !c.node(leader).running(); }));
  EXPECT_EQ(c.node(leader).status(), 0);
  EXPECT_FALSE(alive(backend));
  const std::string next = c.wait_leader("db", leader, epoch);
  EXPECT_EQ(c.epoch(), epoch + 1);
  EXPECT_EQ(c.member_state(leader), "left");
  std::vector<std::string> order;
  for (const auto& e : c.journal())
    if (e.node == leader && (e.pid == pid || e.pid == backend) && e.what.ends_with("_begin") &&
        e.what != "leads_begin" && e.what != "backend_begin")
      order.push_back(e.what);
    else if (e.pid == backend && e.what == "backend_end")
      order.push_back(e.what);
  EXPECT_EQ(order, (std::vector<std::string>{"start_begin", "active_begin", "passive_begin",
                                             "backend_end", "stop_begin"}));
}

TEST(Processes, ABackendThatDiesIsStartedAgainWhereItWas) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(2);
  const auto epoch = c.epoch();
  const pid_t first = c.backend_pid(leader);
  kill_and_wait(first);
  EXPECT_TRUE(c.wait_for("the next backend", [&] {
    const pid_t now = c.backend_pid(leader);
    return now != 0 && now != first;
  }));
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
}

}  // namespace
}  // namespace cluster::e2e
