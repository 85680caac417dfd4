// Who a node is: names, folders, copies of folders; and who leads by wish.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>

#include "built.h"
#include "e2e/harness.h"

namespace cluster::e2e {
namespace {

TEST(Names, OneThatIsInUseIsRefusedAndItsOwnerGoesOn) {
  Cluster c;
  const std::string leader = c.start_nodes(1);
  const auto epoch = c.epoch();
  json options = c.node_options(leader);
  options["folder"] = c.path("another-folder");
  auto second = c.make(options, {.output = c.path("second.log")});
  EXPECT_TRUE(c.wait_for("the second's end", [&] { return !second->running(); }));
  EXPECT_EQ(second->status(), ended_with(Errc::node_already_present)) << second->output();
  for (const char* part : {"runs already", "host", "since"})
    EXPECT_NE(second->output().find(part), std::string::npos) << second->output();
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
}

TEST(Names, AFolderThatIsInUseIsRefused) {
  Cluster c;
  const std::string leader = c.start_nodes(1);
  json options = c.node_options("node-2");
  options["folder"] = c.path("folder-node-1");
  auto second = c.make(options, {.output = c.path("second.log")});
  EXPECT_TRUE(c.wait_for("the second's end", [&] { return !second->running(); }));
  EXPECT_EQ(second->status(), ended_with(Errc::node_already_present)) << second->output();
  EXPECT_NE(second->output().find(c.path("folder-node-1")), std::string::npos);
  EXPECT_EQ(c.wait_leader(), leader);
}

TEST(Names, ACopiedFolderIsNotTakenForTheNodeItself) {
  // The copy has to be up before the session ends.
  Cluster c({.session_timeout = milliseconds(8000)});
  const std::string leader = c.start_nodes(3);
  std::filesystem::copy(c.path("folder-" + leader), c.path("copy"),
                        std::filesystem::copy_options::recursive);
  json options = c.node_options(leader);
  options["folder"] = c.path("copy");
  auto second = c.make(options, {.output = c.path("second.log")});
  EXPECT_TRUE(c.wait_for("the second's end", [&] { return !second->running(); }));
  EXPECT_EQ(second->status(), ended_with(Errc::node_already_present)) << second->output();
  // While the first is stopped it does not answer; its session must still end before the copy's
  // begins.
  const pid_t guardian = c.guardian(leader);
  const pid_t backend = c.backend_pid(leader);
  const pid_t first = c.node(leader).pid();
  ASSERT_GT(guardian, 0);
  ASSERT_GT(backend, 0);
  const auto record = c.member(leader);
  ASSERT_TRUE(record.has_value());
  const std::string session = record->value("session", "");
  const auto epoch = c.epoch();
  for (const pid_t pid : {first, guardian}) stop_and_wait(pid);
  kill_and_wait(backend);
  auto third = c.make(options, {.output = c.path("third.log")});
  EXPECT_TRUE(c.wait_for("the copy to see that the name is in use", [&] {
    return third->output().find("name_in_use") != std::string::npos || !third->running();
  }));
  EXPECT_TRUE(c.wait_for("the copy's session", [&] {
    const auto now = c.member(leader);
    return now && now->value("session", "") != session && now->value("state", "") == "live";
  }));
  const std::string next = c.wait_lease_moves("", epoch);
  EXPECT_FALSE(next.empty());
  EXPECT_TRUE(third->running()) << third->output();
  ::kill(guardian, SIGKILL);
  kill_and_wait(first);
  third->signal(SIGTERM);
  EXPECT_TRUE(c.wait_for("the copy's end", [&] { return !third->running(); }));
  EXPECT_EQ(third->status(), 0) << third->output();
}

TEST(Lead, ItCanBeHandedOn) {
  Cluster c(kPatient);
  const std::string leader = c.start_nodes(3);
  auto epoch = c.epoch();
  json answer = c.ask(leader, "stepdown", {{"v", 1}, {"app", "db"}});
  EXPECT_EQ(answer.value("error", ""), "");
  const std::string second = c.wait_leader("db", leader, epoch);
  epoch = c.epoch();
  const std::string target = c.other_nodes(second).back();
  answer = c.ask(second, "stepdown", {{"v", 1}, {"app", "db"}, {"target", target}});
  EXPECT_EQ(answer.value("error", ""), "");
  EXPECT_EQ(c.wait_leader("db", second, epoch), target);
  EXPECT_EQ(c.epoch(), epoch + 1);
  for (const auto& [request, words] : std::vector<std::pair<json, std::string>>{
           {{{"v", 1}, {"app", "db"}, {"target", "node-9"}}, "node-9"},
           {{{"v", 1}, {"app", "mail"}}, "mail"},
           {{{"v", 1}}, "app"}}) {
    answer = c.ask(target, "stepdown", request);
    EXPECT_NE(answer.value("error", "").find(words), std::string::npos) << answer;
  }
  answer = c.ask(second, "stepdown", {{"v", 1}, {"app", "db"}});
  EXPECT_NE(answer.value("error", "").find("does not lead"), std::string::npos) << answer;
  EXPECT_EQ(c.wait_leader(), target);
}

TEST(Lead, AnAppInModeSpreadIsActiveOnEveryNode) {
  Cluster c(kPatient);
  for (const char* name : {"node-1", "node-2", "node-3"}) {
    json options = c.node_options(name);
    options["apps"] = {{{"name", "spread"}, {"spread", true}, {"backend", c.backend()}}};
    c.start(options);
  }
  EXPECT_TRUE(c.wait_for("all three to be active", [&] { return c.active("spread").size() == 3; }));
  // Nobody tells of the end of a member that he never saw.
  for (const char* name : {"node-1", "node-3"})
    ASSERT_TRUE(c.wait_for(std::string(name) + " to see node-2", [&] {
      const auto joined = c.events(name, "-", "member_join");
      return std::any_of(joined.begin(), joined.end(),
                         [](const Event& e) { return e.detail == "node-2"; });
    }));
  kill_and_wait(c.node("node-2").pid());
  EXPECT_TRUE(c.wait_for("the others to see it", [&] {
    return c.events("node-1", "-", "member_leave").size() == 1 &&
           c.events("node-3", "-", "member_leave").size() == 1;
  }));
  EXPECT_EQ(c.active("spread"), (std::set<std::string>{"node-1", "node-3"}));
}

TEST(Lead, AWallClockThatIsSetBackAnHourChangesNothing) {
  Cluster c(kPatient);
  const std::vector<std::string> nodes{"node-1", "node-2", "node-3"};
  write_file(c.path("clock"), "0\n");
  for (const auto& name : nodes) {
    json options = c.node_options(name);
    Child::Options how;
    how.environment = {std::string("LD_PRELOAD=") + built::kWallClock,
                       "CLUSTER_WALL_CLOCK=" + c.path("clock"),
                       "ASAN_OPTIONS=verify_asan_link_order=0"};
    c.start(options, how);
  }
  EXPECT_TRUE(c.wait_watched(nodes));
  const std::string leader = c.wait_leader();
  const auto epoch = c.epoch();
  const auto before = c.member(leader);
  ASSERT_TRUE(before.has_value());
  const auto revision = [&](const std::string& node) {
    const std::string bucket = c.platform() + "_members";
    const json answer = c.request("$JS.API.STREAM.MSG.GET.KV_" + bucket,
                                  {{"last_by_subj", "$KV." + bucket + "." + node}});
    return answer.value("message", json::object()).value("seq", std::uint64_t{0});
  };
  std::map<std::string, std::uint64_t> revisions;
  for (const auto& node : nodes) {
    revisions[node] = revision(node);
    ASSERT_GT(revisions[node], 0U) << node;
  }
  write_file(c.path("clock"), "-3600\n");
  // A session lasts no longer than that by heartbeats that were acknowledged before.
  const Time end = BootClock::now() + kPatient.session_timeout * slowness();
  EXPECT_TRUE(c.wait_for("a session timeout, and each record to be rewritten", [&] {
    return BootClock::now() >= end &&
           std::all_of(nodes.begin(), nodes.end(),
                       [&](const auto& node) { return revision(node) > revisions[node]; });
  }));
  EXPECT_TRUE(c.wait_watched(nodes));
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
  const auto after = c.member(leader);
  ASSERT_TRUE(after.has_value());
  EXPECT_EQ(after->value("session", ""), before->value("session", ""));
  kill_and_wait(c.node(leader).pid());
  c.wait_leader("db", leader, epoch);
}

}  // namespace
}  // namespace cluster::e2e
