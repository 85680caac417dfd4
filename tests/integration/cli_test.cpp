// The program's commands against a real NATS server, with records written by hand and nodes that
// answer as a test wants.
#include <csignal>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "built.h"
#include "integration/nats_fixture.h"
#include "integration/program.h"
#include "nats/micro_service.h"
#include "platform/lead_messages.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using testing::kSoon;
using testing::Outcome;
using testing::Program;

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access(built::kProgram, X_OK) != 0) GTEST_SKIP() << built::kProgram << " is not built";
    ASSERT_TRUE(testing::connect(connection_));
    ensure("shop_members");
    ensure("shop_leases");
  }

  void ensure(const std::string& bucket) {
    nats::KeyValue store(jetstream_, bucket);
    auto made = nats::await<bool>(loop_, kSoon, [&](Callback<bool> done) {
      store.ensure({.bucket = bucket},
                   [done](Failure failure) { failure ? done(*failure) : done(true); });
    });
    ASSERT_TRUE(made.ok()) << made.error().what();
  }

  std::uint64_t put(const std::string& bucket, const std::string& key, const std::string& value) {
    nats::KeyValue store(jetstream_, bucket);
    auto revision = nats::await<std::uint64_t>(
        loop_, kSoon, [&](Callback<std::uint64_t> done) { store.put(key, value, done); });
    return revision.value();
  }

  std::uint64_t put_member(const std::string& node, const std::string& session,
                           const std::string& state = "live") {
    return put("shop_members", node,
               Json{{"v", 1},
                    {"node", node},
                    {"session", session},
                    {"state", state},
                    {"voters", Json::array()},
                    {"labels", {{"zone", "a"}}},
                    {"host", "host-a"},
                    {"boot", "b"},
                    {"folder", "f"},
                    {"version", "0.1.0"},
                    {"apps", {"database"}},
                    {"load", 0.5},
                    {"started", "2026-01-02T03:04:05Z"},
                    {"ended_by", state == "live" ? "" : "node-1: silent"}}
                   .dump());
  }

  void put_lease(const std::string& app, const std::string& holder, const std::string& session,
                 std::uint64_t session_rev, std::uint64_t epoch,
                 const std::string& state = "held") {
    put("shop_leases", app,
        Json{{"v", 1},
             {"app", app},
             {"epoch", epoch},
             {"state", state},
             {"holder", holder},
             {"session", session},
             {"session_rev", session_rev},
             {"target", ""}}
            .dump());
  }

  // Runs it while this thread's loop goes on, so that nodes of the test can answer.
  Outcome run(std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
    environment.push_back("NATS_URL=" + servers_.urls()[0]);
    Program program(folder_, std::move(arguments), std::move(environment));
    EXPECT_TRUE(until([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }

  // Nodes that are silent for a second or two count as such. This thread, which answers for them,
  // may be held up for as long on a busy machine: asks again then.
  Outcome run_answered(const std::vector<std::string>& arguments,
                       const std::vector<std::string>& environment = {}) {
    Outcome outcome = run(arguments, environment);
    for (int tries = 0; outcome.status != 0 && tries < 10; ++tries)
      outcome = run(arguments, environment);
    return outcome;
  }

  // No event tells that a file has grown or a child has ended here: asks every few milliseconds.
  bool until(const std::function<bool()>& done) {
    const LoopSource tick = loop_.every(std::chrono::milliseconds(5), [] {});
    return loop_.run_until(done, kSoon);
  }

  testing::NatsServers servers_;
  testing::TemporaryFolder folder_;
  Loop loop_;
  nats::Connection connection_{loop_, servers_.options()};
  nats::JetStream jetstream_{connection_};
};

// Answers for a node as the platform's own service does.
class FakeNode {
 public:
  FakeNode(nats::Connection& connection, std::string node, bool in_force = true)
      : service_(connection, {.name = "shop", .version = "0.1.0"}) {
    const Json status{{"v", 1},
                      {"platform", "shop"},
                      {"node", node},
                      {"state", "running"},
                      {"session", {{"id", "S"}, {"in_force", in_force}, {"left_ms", 500}}},
                      {"apps",
                       {{{"name", "database"},
                         {"mode", "singleton"},
                         {"role", "active"},
                         {"phase", "active"},
                         {"leader", node},
                         {"epoch", 4},
                         {"last_error", ""},
                         {"backend", nullptr}}}}};
    service_.add_endpoint(
        "status", "shop._.node." + node + ".status",
        [status](nats::Message, nats::Responder responder) { responder.reply(status.dump()); });
    service_.add_endpoint("lead", "shop._.node." + node + ".lead",
                          [this](nats::Message, nats::Responder responder) {
                            responder.reply(to_text("database", lead));
                          });
    service_.add_endpoint("stepdown", "shop._.node." + node + ".stepdown",
                          [this](nats::Message request, nats::Responder responder) {
                            asked = Json::parse(request.data);
                            on_stepdown(std::move(responder));
                          });
  }

  std::optional<Json> asked{};
  std::function<void(nats::Responder)> on_stepdown{};
  LeadState lead{.phase = "standby", .ready = true};

 private:
  nats::MicroService service_;
};

TEST_F(Cli, StatusShowsNodesAppsAndWhoIsSilent) {
  const auto rev1 = put_member("node-1", "S1");
  put_member("node-2", "S2");
  put_member("node-3", "S3", "expired");
  put_lease("database", "node-1", "S1", rev1, 4);
  put_lease("_coordinator", "node-1", "S1", rev1, 2);
  FakeNode node(connection_, "node-1");
  const Outcome plain = run({"status"});
  EXPECT_EQ(plain.status, 0) << plain.err;
  EXPECT_NE(plain.out.find("Coordinator  node-1  epoch 2"), std::string::npos) << plain.out;
  EXPECT_NE(plain.out.find("no answer"), std::string::npos) << plain.out;
  EXPECT_NE(plain.out.find("node-1: silent"), std::string::npos) << plain.out;
  EXPECT_EQ(plain.out.find('\033'), std::string::npos) << plain.out;
  Json out;
  for (int tries = 0; tries < 10; ++tries) {
    out = Json::parse(run({"status", "--platform", "shop", "-o", "json"}).out);
    // Or this thread was held up for longer than an answer is waited for.
    if (out["nodes"][0]["answered"] == true) break;
  }
  EXPECT_EQ(out["nats"]["version"].get<std::string>().substr(0, 2), "2.");
  EXPECT_EQ(out["nodes"].size(), 3u);
  EXPECT_EQ(out["nodes"][0]["answered"], true);
  EXPECT_EQ(out["nodes"][1]["answered"], false);
  EXPECT_EQ(out["apps"][0]["leader"], "node-1");
  EXPECT_EQ(out["apps"][0]["epoch"], 4);
}

TEST_F(Cli, StatusOfRecordsThatCantBeReadSaysSo) {
  put("shop_members", "node-1", R"({"v":2})");
  put("shop_leases", "database", "not json");
  const Outcome outcome = run({"status"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("incompatible"), std::string::npos) << outcome.out;
}

TEST_F(Cli, WatchShowsChangesAndGoesOn) {
  put_member("node-1", "S1");
  Program program(folder_, {"node", "list", "--watch", "100ms", "-o", "json"},
                  {"NATS_URL=" + servers_.urls()[0]});
  EXPECT_TRUE(until([&] { return program.out().find("node-1") != std::string::npos; }));
  put_member("node-2", "S2");
  EXPECT_TRUE(until([&] { return program.out().find("node-2") != std::string::npos; }))
      << program.out() << program.err();
  program.send(SIGTERM);
  EXPECT_TRUE(until([&] { return program.ended(); }));
}

TEST_F(Cli, WhatIsNotThereEndsWithFour) {
  EXPECT_EQ(run({"status", "--platform", "other"}).status, 4);
  put_member("node-1", "S1");
  const Outcome node = run({"node", "status", "nod-1"});
  EXPECT_EQ(node.status, 4);
  EXPECT_NE(node.err.find("did you mean \"node-1\""), std::string::npos) << node.err;
  EXPECT_EQ(run({"stepdown", "database"}).status, 4);
}

TEST_F(Cli, SeveralPlatformsMustBeToldApart) {
  ensure("other_members");
  const Outcome outcome = run({"status"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("--platform"), std::string::npos) << outcome.err;
}

TEST_F(Cli, NoServerEndsWithThree) {
  const Outcome outcome =
      run({"status", "--nats", "nats://127.0.0.1:1", "--timeout", "300ms", "--platform", "shop"});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_NE(outcome.err.find("nats://127.0.0.1:1"), std::string::npos) << outcome.err;
}

TEST_F(Cli, NodeStatusTellsLiveSilentAndGoneApart) {
  put_member("node-1", "S1");
  put_member("node-2", "S2");
  put_member("node-3", "S3", "left");
  FakeNode node(connection_, "node-1");
  const Outcome fine = run_answered({"node", "status", "node-1"});
  EXPECT_EQ(fine.status, 0) << fine.err;
  EXPECT_NE(fine.out.find("database"), std::string::npos) << fine.out;
  EXPECT_EQ(run({"node", "status", "node-2"}).status, 6);
  EXPECT_EQ(run({"node", "status", "node-3"}).status, 5);
  EXPECT_EQ(run_answered({"node", "status"}, {"NODE_ID=node-1"}).status, 0);
}

TEST_F(Cli, HealthOverNatsFollowsTheSession) {
  FakeNode good(connection_, "node-1");
  FakeNode bad(connection_, "node-2", false);
  const std::vector<std::string> environment{"PLATFORM=shop"};
  EXPECT_EQ(run_answered({"health", "--node", "node-1"}, environment).status, 0);
  EXPECT_EQ(run({"health", "--node", "node-2"}, environment).status, 5);
  EXPECT_EQ(run({"health", "--node", "node-9"}, environment).status, 5);
}

TEST_F(Cli, HealthOverHttpWithoutANodeIsNotHealthy) {
  EXPECT_EQ(run({"health", "--http", "127.0.0.1:1"}).status, 5);
  EXPECT_EQ(run({"health", "--http", "here"}).status, 2);
}

// The lease goes from node-1 to others while the test plays their part.
class CliStepdown : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    if (IsSkipped()) return;
    for (const char* name : {"node-1", "node-2", "node-3"}) {
      revisions_[name] = put_member(name, "S");
      nodes[name] = std::make_unique<FakeNode>(connection_, name);
    }
    put_lease("database", "node-1", "S", revisions_["node-1"], 4);
    nodes["node-1"]->on_stepdown = [this](nats::Responder responder) {
      responder.reply(answer.dump());
      passes("node-2", 5);
    };
  }
  /// To that node, whose app becomes active there, or does not.
  void passes(const std::string& node, std::uint64_t epoch, bool active = true,
              const std::string& state = "held") {
    nodes[node]->lead.phase = active ? "active" : "promoting";
    nodes[node]->lead.epoch = epoch;
    nats::KeyValue(jetstream_, "shop_leases")
        .put("database",
             Json{{"v", 1},
                  {"app", "database"},
                  {"epoch", epoch},
                  {"state", state},
                  {"holder", node},
                  {"session", "S"},
                  {"session_rev", revisions_[node]},
                  {"target", ""}}
                 .dump(),
             [](Result<std::uint64_t>) {});
  }

  std::map<std::string, std::unique_ptr<FakeNode>> nodes;
  Json answer{{"v", 1},           {"app", "database"}, {"epoch", 4},
              {"next", "node-2"}, {"stopped_ms", 250}, {"left", nullptr}};

 private:
  std::map<std::string, std::uint64_t> revisions_;
};

TEST_F(CliStepdown, AsksTheHolderAndWaitsUntilTheAppIsActiveOnTheNext) {
  const Outcome outcome = run({"stepdown", "database", "--to", "node-2", "--timeout", "20s"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const std::string begin =
      "database: node-1 has stepped down (epoch 4); node-2 leads now (epoch 5), after ";
  EXPECT_EQ(outcome.out.substr(0, begin.size()), begin);
  EXPECT_NE(outcome.out.find(" ms without a leader\n"), std::string::npos) << outcome.out;
  const auto& asked = nodes["node-1"]->asked;
  ASSERT_TRUE(asked);
  EXPECT_EQ((*asked)["app"], "database");
  EXPECT_EQ((*asked)["target"], "node-2");
  EXPECT_EQ((*asked)["timeout_ms"], 20'000);
  EXPECT_EQ((*asked)["force"], false);
}

TEST_F(CliStepdown, ALeaderWhoseAppIsNotActiveIsNoSuccess) {
  nodes["node-1"]->on_stepdown = [this](nats::Responder responder) {
    responder.reply(answer.dump());
    passes("node-2", 5, false);
  };
  const Outcome outcome = run({"stepdown", "database", "--timeout", "2s"});
  EXPECT_EQ(outcome.status, 5);
  EXPECT_NE(outcome.err.find("node-2, which has the lease (epoch 5), has not become active: it is "
                             "promoting"),
            std::string::npos)
      << outcome.err;
}

TEST_F(CliStepdown, ANextLeaderThatGivesTheLeaseBackIsNamedWithItsReason) {
  LoopSource back, again;
  nodes["node-1"]->on_stepdown = [&](nats::Responder responder) {
    responder.reply(answer.dump());
    passes("node-2", 5, false);
    back = loop_.after(std::chrono::milliseconds(100), [&] {
      nodes["node-2"]->lead.last_error = "backend: it exits at once";
      passes("node-2", 5, false, "released");
      again = loop_.after(std::chrono::milliseconds(100), [&] { passes("node-1", 6); });
    });
  };
  const Outcome outcome = run({"stepdown", "database"});
  EXPECT_EQ(outcome.status, 5);
  EXPECT_NE(outcome.err.find("node-1 leads again (epoch 6)"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("node-2 could not lead: backend: it exits at once"), std::string::npos)
      << outcome.err;
}

TEST_F(CliStepdown, AnotherThanTheTargetIsNoSuccess) {
  nodes["node-1"]->on_stepdown = [this](nats::Responder responder) {
    responder.reply(answer.dump());
    passes("node-3", 5);
  };
  const Outcome outcome = run({"stepdown", "database", "--to", "node-2"});
  EXPECT_EQ(outcome.status, 5);
  EXPECT_NE(outcome.err.find("node-3 leads now"), std::string::npos) << outcome.err;
}

TEST_F(CliStepdown, SaysWhatWasLeftByForce) {
  answer["left"] = {
      {"transactions", 3}, {"first", 5}, {"last", 7}, {"bytes", 812}, {"why", "JetStream is full"}};
  const Outcome outcome = run({"stepdown", "database", "--force"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("3 transactions (5 to 7, about 812 B) were left on node-1 and are not "
                             "in JetStream: JetStream is full"),
            std::string::npos)
      << outcome.err;
  EXPECT_EQ((*nodes["node-1"]->asked)["force"], true);
}

TEST_F(CliStepdown, AsJsonToo) {
  const Outcome outcome = run({"stepdown", "database", "-o", "json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json out = Json::parse(outcome.out);
  EXPECT_EQ(out["from"], "node-1");
  EXPECT_EQ(out["leader"], "node-2");
  EXPECT_EQ(out["leader_epoch"], 5);
  EXPECT_GE(out["without_leader_ms"], 250);
  EXPECT_EQ(out["left"], nullptr);
}

TEST_F(Cli, StepdownPassesOnWhatTheNodeRefuses) {
  const auto rev1 = put_member("node-1", "S1");
  put_lease("database", "node-1", "S1", rev1, 4);
  FakeNode node(connection_, "node-1");
  const std::vector<std::pair<int, int>> codes{{404, 4}, {409, 5}, {408, 6},
                                               {422, 4}, {424, 8}, {500, 1}};
  for (const auto& [code, status] : codes) {
    node.on_stepdown = [fails_with = code](nats::Responder responder) {
      responder.fail(fails_with, "because of the test");
    };
    const Outcome outcome = run({"stepdown", "database"});
    EXPECT_EQ(outcome.status, status) << code;
    EXPECT_NE(outcome.err.find("because of the test"), std::string::npos) << outcome.err;
  }
}

TEST_F(Cli, StepdownWithoutALeaderEndsWithFive) {
  const auto rev1 = put_member("node-1", "S1");
  put_lease("database", "node-1", "S1", rev1, 4);
  put_member("node-1", "S1", "left");
  EXPECT_EQ(run({"stepdown", "database"}).status, 5);
  put_member("node-1", "S2");
  EXPECT_EQ(run({"stepdown", "database"}).status, 5);
}

TEST_F(Cli, StepdownToANodeThatIsNotLiveIsRefused) {
  const auto rev1 = put_member("node-1", "S1");
  put_member("node-2", "S2", "left");
  put_lease("database", "node-1", "S1", rev1, 4);
  EXPECT_EQ(run({"stepdown", "database", "--to", "node-2"}).status, 4);
  EXPECT_EQ(run({"stepdown", "database", "--to", "node-9"}).status, 4);
}

TEST_F(Cli, ASnapshotThatNobodyTakesEndsWithSix) {
  const auto rev1 = put_member("node-1", "S1");
  put_lease("database", "node-1", "S1", rev1, 4);
  const Outcome outcome = run({"snapshot", "create", "database"});
  EXPECT_EQ(outcome.status, 6);
  EXPECT_NE(outcome.err.find("node node-1 does not answer"), std::string::npos) << outcome.err;
}

TEST_F(Cli, CompletionKnowsNamesAndEveryCommand) {
  put_member("node-1", "S1");
  put_lease("database", "node-1", "S1", 1, 4);
  EXPECT_EQ(run({"names", "nodes"}).out, "node-1\n");
  EXPECT_EQ(run({"names", "apps"}).out, "database\n");
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = run({"completion", shell}).out;
    for (const char* word : {"stepdown", "config", "base-port", "label"})
      EXPECT_NE(script.find(word), std::string::npos) << shell << " " << word;
  }
}

TEST_F(Cli, ConfigCheckNamesAllFaults) {
  std::ofstream(folder_ / "bad.yaml") << "platfrom: a\ntiming: {lease_ttl: 500}\n";
  const Outcome bad = run({"config", "check", "bad.yaml"});
  EXPECT_EQ(bad.status, 2);
  EXPECT_NE(bad.err.find("bad.yaml:1:1: platfrom: unknown key; did you mean \"platform\"?"),
            std::string::npos)
      << bad.err;
  EXPECT_NE(bad.err.find("bad.yaml:2:21: timing.lease_ttl"), std::string::npos) << bad.err;
  std::ofstream(folder_ / "good.yaml") << "platform: shop\nnats: {user: me, password: hidden}\n";
  EXPECT_EQ(run({"config", "check", "good.yaml"}).status, 0);
  const Outcome shown =
      run({"config", "show", "--config", "good.yaml", "--set", "timing.cooldown=7s"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_NE(shown.out.find("cooldown: 7s"), std::string::npos) << shown.out;
  EXPECT_EQ(shown.out.find("hidden"), std::string::npos) << shown.out;
}

TEST_F(Cli, DevRunsAClusterUntilItIsInterrupted) {
  Program dev(folder_, {"dev", "--nodes", "2", "--http-base-port", "0", "--log-files", "--folder",
                        folder_ / "dev"});
  ASSERT_TRUE(until([&] { return dev.out().find("Ctrl-C stops") != std::string::npos; }))
      << dev.out() << dev.err();
  const std::string out = dev.out();
  const auto at = out.find("NATS_URL=") + 9;
  const std::string url = out.substr(at, out.find(' ', at) - at);
  Json status;
  EXPECT_TRUE(until([&] {
    status = Json::parse(run({"status", "--nats", url, "--platform", "dev", "-o", "json"}).out,
                         nullptr, false);
    return status.is_object() && status["nodes"].size() == 2 && status["apps"].size() == 1 &&
           status["apps"][0]["leader"].is_string();
  })) << status
      << dev.out();
  dev.send(SIGINT);
  EXPECT_TRUE(until([&] { return dev.ended(); }));
  EXPECT_EQ(dev.status(), 0) << dev.err();
  EXPECT_NE(dev.out().find("All has stopped."), std::string::npos) << dev.out();
}

TEST_F(Cli, WrongUsageEndsWithTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"statsu"},
                                             {"status", "--watch", "5"},
                                             {"status", "-o", "xml"},
                                             {"stepdown"},
                                             {"run", "--set", "timing.drift"},
                                             {"dev", "--servers", "2"}})
    EXPECT_EQ(run(arguments).status, 2) << (arguments.empty() ? "" : arguments[0]);
  EXPECT_EQ(run({"--help"}).status, 0);
  EXPECT_EQ(run({"version"}).status, 0);
  EXPECT_EQ(run({"--version"}).out, run({"version"}).out);
}

}  // namespace
}  // namespace cluster
