#include "cli/snapshot.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace cluster::cli {
namespace {

using nlohmann::json;

std::string member(const std::string& node, const std::string& session, const std::string& state) {
  return json{{"v", 1},
              {"node", node},
              {"session", session},
              {"state", state},
              {"voters", json::array()},
              {"labels", {{"zone", "a"}}},
              {"host", "host-of-" + node},
              {"boot", "b"},
              {"folder", "f"},
              {"version", "0.1.0"},
              {"apps", {"database"}},
              {"load", 0.25},
              {"started", "2026-01-02T03:04:05Z"},
              {"ended_by", state == "live" ? "" : "itself"}}
      .dump();
}

std::string lease(const std::string& app, const std::string& holder, const std::string& session,
                  std::uint64_t session_rev, const std::string& state = "held") {
  return json{{"v", 1},
              {"app", app},
              {"epoch", 42},
              {"state", state},
              {"holder", holder},
              {"session", session},
              {"session_rev", session_rev},
              {"target", ""}}
      .dump();
}

Snapshot snapshot() {
  Snapshot s{.platform = "shop", .nats_url = "nats://127.0.0.1:4222", .nats_version = "2.10.27"};
  s.members = {read_member("node-1", 10, member("node-1", "S1", "live")),
               read_member("node-2", 11, member("node-2", "S2", "live")),
               read_member("node-3", 12, member("node-3", "S3", "expired"))};
  s.leases = {read_lease("_coordinator", 2, lease("_coordinator", "node-2", "S2", 7)),
              read_lease("database", 1, lease("database", "node-1", "S1", 5))};
  s.answers["node-1"] = {
      json{{"v", 1},
           {"node", "node-1"},
           {"state", "running"},
           {"apps",
            {{{"name", "database"},
              {"mode", "singleton"},
              {"role", "active"},
              {"phase", "active"},
              {"epoch", 42},
              {"leader", "node-1"},
              {"last_error", "boom"},
              {"backend", {{"state", "running"}, {"pid", 77}, {"restarts", 2}}}}}}}
          .dump(),
      ""};
  s.answers["node-2"] = {"", "no answer"};
  return s;
}

TEST(Snapshot, TheHolderLeadsWhileItsSessionStands) {
  Snapshot s = snapshot();
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "node-1");
}

TEST(Snapshot, NobodyLeadsWhenTheHoldersSessionHasEnded) {
  Snapshot s = snapshot();
  s.members[0] = read_member("node-1", 20, member("node-1", "S1", "expired"));
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "");
  s.members[0] = read_member("node-1", 20, member("node-1", "S9", "live"));
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "");
}

TEST(Snapshot, ASessionThatHasYetToBeSeenHasNotEnded) {
  Snapshot s = snapshot();
  // The members were read at revision 10, the lease refers to a session begun at 15.
  s.leases[1] = read_lease("database", 3, lease("database", "node-1", "S9", 15));
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "node-1");
  s.members.clear();
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "node-1");
}

TEST(Snapshot, NobodyLeadsByAReleasedLease) {
  Snapshot s = snapshot();
  s.leases[1] = read_lease("database", 3, lease("database", "node-1", "S1", 5, "released"));
  EXPECT_EQ(leader_of(s, *find_lease(s, "database")), "");
}

TEST(Snapshot, PeopleSeeNodesAppsLeadersAndWhoDoesNotAnswer) {
  const std::string text = status_text(snapshot(), false);
  EXPECT_NE(text.find("Coordinator  node-2  epoch 42"), std::string::npos) << text;
  EXPECT_NE(text.find("no answer"), std::string::npos) << text;
  EXPECT_NE(text.find("database  singleton  node-1  42     node-1 active, node-2 ?"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("node-1 running pid 77, restarts 2"), std::string::npos) << text;
  EXPECT_NE(text.find("node-1, database: boom"), std::string::npos) << text;
  EXPECT_NE(nodes_text(snapshot(), false).find("itself"), std::string::npos);
}

TEST(Snapshot, ProgramsGetTheSame) {
  const json out = json::parse(status_json(snapshot(), true));
  EXPECT_EQ(out["coordinator"], "node-2");
  ASSERT_EQ(out["nodes"].size(), 3u);
  EXPECT_EQ(out["nodes"][0]["answered"], true);
  EXPECT_EQ(out["nodes"][0]["status"]["state"], "running");
  EXPECT_EQ(out["nodes"][1]["answered"], false);
  EXPECT_EQ(out["nodes"][1]["problem"], "no answer");
  EXPECT_EQ(out["nodes"][2]["state"], "expired");
  ASSERT_EQ(out["apps"].size(), 1u);
  EXPECT_EQ(out["apps"][0]["leader"], "node-1");
  EXPECT_EQ(out["apps"][0]["epoch"], 42);
}

TEST(Snapshot, ARecordOfANewerVersionIsShownAsIncompatible) {
  Snapshot s = snapshot();
  s.members[1] = read_member("node-2", 11, R"({"v":2,"node":"node-2"})");
  s.leases[1] = read_lease("database", 1, R"({"v":2})");
  const std::string text = status_text(s, false);
  EXPECT_NE(text.find("incompatible"), std::string::npos) << text;
  EXPECT_NE(nodes_text(s, false).find("unreadable"), std::string::npos);
  const json out = json::parse(status_json(s, true));
  EXPECT_EQ(out["nodes"][1]["state"], "unreadable");
  EXPECT_EQ(out["apps"][0]["leader"], nullptr);
}

TEST(Snapshot, AnAnswerThatIsNotWhatItShouldBeIsSaidSo) {
  for (const char* text : {"", "[]", "7", "{\"v\":2}", "{\"v\":\"x\"}", "{}",
                           R"({"v":1,"apps":[7,{"name":7}],"session":[],"nats":"x","state":{}})"}) {
    Snapshot s = snapshot();
    s.answers["node-1"] = {text, ""};
    EXPECT_NE(status_text(s, true), "") << text;
    EXPECT_NE(node_text(s, s.members[0], true), "") << text;
    EXPECT_TRUE(json::accept(status_json(s, false))) << text;
  }
}

}  // namespace
}  // namespace cluster::cli
