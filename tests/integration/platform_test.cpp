// A whole platform in this process, against a real server: what its calls and hooks promise.
#include "cluster/platform.h"

#include <atomic>
#include <csignal>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include <nats/nats.h>
#include <nlohmann/json.hpp>

#include "cluster/error.h"
#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;
using testing::eventually;
using testing::kSoon;
using testing::NatsServers;
using testing::Node;
using testing::TemporaryFolder;

/// What hooks did, in order.
class Story {
 public:
  void add(const std::string& what) {
    std::lock_guard lock(mutex_);
    lines_.push_back(what);
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }
  int count(const std::string& what) const {
    const auto all = lines();
    return static_cast<int>(std::count(all.begin(), all.end(), what));
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

class PlatformTest : public ::testing::Test {
 protected:
  void hooks(App& app) {
    app.on_start([this](std::stop_token) { story.add("start"); });
    app.on_active([this](std::stop_token) { story.add("active"); });
    app.on_passive([this](std::stop_token) { story.add("passive"); });
    app.on_stop([this](std::stop_token) { story.add("stop"); });
  }
  /// Two nodes of the app "db", the first of them the one that leads.
  struct Pair {
    std::unique_ptr<Node> first, second;
    App *leader, *other;
  };
  /// They start together: so one leads soon, though both keep their sessions on a busy machine.
  Pair start_two() {
    Pair pair;
    for (auto* node : {&pair.first, &pair.second}) {
      auto options =
          Node::options(servers, folder.path(), node == &pair.first ? "node-1" : "node-2", 30s);
      options.timing = testing::patient_timing(testing::kSteady);
      *node = std::make_unique<Node>(options);
    }
    pair.leader = &pair.first->platform->add_app({.name = "db"});
    pair.other = &pair.second->platform->add_app({.name = "db"});
    pair.first->run();
    pair.second->run();
    EXPECT_TRUE(eventually(
        [&] { return pair.leader->election().is_leader() || pair.other->election().is_leader(); }));
    if (pair.other->election().is_leader()) {
      std::swap(pair.first, pair.second);
      std::swap(pair.leader, pair.other);
    }
    for (const auto* node : {&pair.first, &pair.second})
      EXPECT_TRUE(eventually([&] { return (*node)->platform->members().size() == 2; }));
    return pair;
  }

  TemporaryFolder folder;
  NatsServers servers;
  Story story;
};

TEST_F(PlatformTest, TheNodeStaysUntilTheLastAppsOnStopHasReturned) {
  Node node(servers, folder.path());
  App& slow = node.platform->add_app({.name = "slow", .mode = Spread{}});
  node.platform->add_app({.name = "quick", .mode = Spread{}});
  std::promise<void> begun, go;
  slow.on_stop([&](std::stop_token) {
    begun.set_value();
    go.get_future().wait();
  });
  node.run();
  ASSERT_TRUE(eventually([&] { return slow.role() == Role::active; }));
  node.platform->stop();
  ASSERT_EQ(begun.get_future().wait_for(kSoon), std::future_status::ready);
  EXPECT_EQ(node.over.wait_for(300ms), std::future_status::timeout);
  EXPECT_EQ(node.platform->members().size(), 1U) << "it has left";
  go.set_value();
  EXPECT_EQ(node.over.wait_for(kSoon), std::future_status::ready);
}

TEST_F(PlatformTest, ItsGuardianEndsWithItAndTheNodeCanStartAgainInTheSameProcess) {
  for (int i = 0; i < 3; ++i) {
    Node node(servers, folder.path());
    App& app = node.platform->add_app({.name = "db"});
    node.run();
    ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
    const pid_t guardian = Json::parse(testing::status_of(*node.platform)).at("guardian").at("pid");
    ASSERT_GT(guardian, 0);
    node.stop();
    node.platform.reset();
    EXPECT_EQ(::kill(guardian, 0), -1) << "guardian " << guardian << " is there still, or a zombie";
  }
}

TEST_F(PlatformTest, TheLoadThatTheProgramTellsIsInItsRecord) {
  auto options = Node::options(servers, folder.path(), "node-1", 30s);
  options.load = [] { return 42.5; };
  Node node(options);
  node.run();
  EXPECT_TRUE(eventually([&] {
    const auto members = node.platform->members();
    return !members.empty() && members.front().load == 42.5;
  }));
}

TEST_F(PlatformTest, ALoadThatThrowsOrDoesNotReturnHarmsNothing) {
  std::atomic<bool> release{false};
  std::atomic<int> asked{0};
  auto options = Node::options(servers, folder.path(), "node-1", 30s);
  options.timing.session_timeout = 200ms;
  options.timing.stop_margin = 20ms;
  options.timing.lease_ttl = 5s;  // a record each second
  options.load = [&]() -> double {
    if (++asked < 3) throw std::runtime_error("no load to be had");
    while (!release) std::this_thread::sleep_for(1ms);
    return 1;
  };
  Node node(options);
  const testing::SetAtTheEnd let_go{release};
  App& app = node.platform->add_app({.name = "db"});
  hooks(app);
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  ASSERT_TRUE(eventually([&] { return asked == 3; }));
  // It goes on with its record all the same, by which it keeps its session.
  Loop loop;
  nats::Connection client(loop, servers.options());
  ASSERT_TRUE(testing::connect(client));
  nats::JetStream js(client, kSoon);
  nats::KeyValue members(js, "test_members");
  std::set<std::uint64_t> revisions;
  const Time end = BootClock::now() + kSoon * slowness();
  while (revisions.size() < 5) {
    ASSERT_LT(BootClock::now(), end)
        << "its record was written only so often: " << revisions.size();
    const auto entry =
        nats::await<nats::KvEntry>(loop, kSoon, [&](auto done) { members.get("node-1", done); });
    ASSERT_TRUE(entry) << entry.error().what();
    revisions.insert(entry.value().revision);
    ASSERT_TRUE(app.election().is_leader());
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_TRUE(app.election().is_leader());
  EXPECT_EQ(app.epoch(), 1u);
  EXPECT_EQ(story.count("passive"), 0);
  release = true;
  node.stop();
}

TEST_F(PlatformTest, HooksRunInOrderAndRunEndsWithStop) {
  Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "db"});
  hooks(app);
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  EXPECT_TRUE(app.election().is_leader());
  EXPECT_EQ(app.role(), Role::active);
  EXPECT_EQ(app.epoch(), 1u);
  node.stop();
  EXPECT_EQ(story.lines(), (std::vector<std::string>{"start", "active", "passive", "stop"}));
  EXPECT_FALSE(app.election().is_leader());
}

TEST_F(PlatformTest, AnOnStartThatDoesNotReturnIsToldToAndStopGoesOn) {
  std::atomic<bool> begun{false};
  std::atomic<bool> go{false};
  Node node(servers, folder.path(), "node-1", 500ms);
  const testing::SetAtTheEnd let_go{go};
  App& app = node.platform->add_app({.name = "db"});
  app.on_start([&](std::stop_token stop) {
    begun = true;
    while (!go) std::this_thread::sleep_for(1ms);
    story.add(stop.stop_requested() ? "told" : "not told");
  });
  app.on_stop([&](std::stop_token) { story.add("stop"); });
  node.run();
  ASSERT_TRUE(eventually([&] { return begun.load(); }));
  node.stop();  // run() has returned although the hook has not
  EXPECT_TRUE(story.lines().empty());
  go = true;
  node.platform.reset();  // waits for the hook
  EXPECT_EQ(story.lines(), std::vector<std::string>{"told"});
}

TEST_F(PlatformTest, APlatformThatRunsElsewhereCanBeDestroyed) {
  Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "db"});
  hooks(app);
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  node.platform.reset();
  EXPECT_EQ(story.lines(), (std::vector<std::string>{"start", "active", "passive", "stop"}));
}

TEST_F(PlatformTest, WhoWaitsForLeadershipIsToldThatThePlatformHasStopped) {
  const Pair pair = start_two();
  Node& second = *pair.second;
  App& waiting = *pair.other;
  ASSERT_TRUE(eventually([&] { return waiting.election().leader().has_value(); }));
  EXPECT_FALSE(waiting.election().wait_for_leadership(10ms));
  auto answer =
      std::async(std::launch::async, [&] { return waiting.election().wait_for_leadership(kSoon); });
  second.platform->stop();
  try {
    answer.get();
    ADD_FAILURE() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::shutting_down) << error.what();
  }
  second.stop();
  try {
    waiting.election().step_down();
    ADD_FAILURE() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::shutting_down) << error.what();
  }
}

TEST_F(PlatformTest, AnOnActiveThatThrowsIsUndoneAndTriedAgainAfterTheCooldown) {
  Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "db"});
  app.on_active([&](std::stop_token) {
    story.add("active");
    if (story.count("active") == 1) throw std::runtime_error("not yet");
  });
  app.on_passive([&](std::stop_token) { story.add("passive"); });
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  EXPECT_EQ(story.lines(), (std::vector<std::string>{"active", "passive", "active"}));
  EXPECT_EQ(app.epoch(), 2u);
}

TEST_F(PlatformTest, SteppingDownFromAHookOfTheAppIsRefused) {
  Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "db"});
  app.on_active([&](std::stop_token) {
    try {
      app.election().step_down();
    } catch (const Error& error) {
      if (error.errc() == Errc::invalid_argument) story.add("refused");
    }
  });
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  EXPECT_EQ(story.lines(), std::vector<std::string>{"refused"});
}

TEST_F(PlatformTest, SteppingDownGivesTheLeadToTheTarget) {
  const Pair pair = start_two();
  App& app = *pair.leader;
  App& other = *pair.other;
  try {
    app.election().step_down("node-3");
    ADD_FAILURE() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::node_not_found) << error.what();
  }
  EXPECT_TRUE(app.election().is_leader());
  app.election().step_down(pair.second->platform->node());
  EXPECT_FALSE(app.election().is_leader());
  ASSERT_TRUE(other.election().wait_for_leadership(kSoon));
  EXPECT_EQ(other.epoch(), 2u);
}

TEST_F(PlatformTest, ARequestToStepDownIsAnsweredWhenItsTimeIsUp) {
  std::atomic<bool> go{false};
  Node node(servers, folder.path());
  const testing::SetAtTheEnd let_go{go};
  App& app = node.platform->add_app({.name = "db"});
  app.on_passive([&](std::stop_token) {
    while (!go) std::this_thread::sleep_for(1ms);
  });
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));

  Loop loop;
  nats::Connection client(loop, servers.options());
  ASSERT_TRUE(testing::connect(client));
  auto ask = [&](const Json& body) {
    nats::Message request;
    request.subject = "test._.node.node-1.stepdown";
    request.data = body.dump();
    return nats::await<nats::Message>(
               loop, kSoon, [&](auto done) { client.request(std::move(request), kSoon, done); })
        .value();
  };
  auto code = [](const nats::Message& m) {
    for (const auto& [key, value] : m.headers)
      if (key == "Nats-Service-Error-Code") return value;
    return std::string();
  };
  EXPECT_EQ(code(ask({{"v", 1}, {"app", "db"}, {"timeout_ms", "soon"}})), "400");
  EXPECT_TRUE(app.election().is_leader());
  EXPECT_EQ(code(ask({{"v", 1}, {"app", "db"}, {"force", 1}})), "400");
  EXPECT_EQ(code(ask({{"v", 1}, {"app", "db"}, {"timeout_ms", 100}})), "500")
      << "there is no other node";
  EXPECT_TRUE(app.election().is_leader());
  EXPECT_EQ(code(ask({{"v", 1}, {"app", "db"}, {"timeout_ms", 100}, {"force", true}})), "408");
  go = true;
  ASSERT_TRUE(eventually([&] { return !app.election().is_leader(); }));
}

// With the NATS project's own client, and nothing of ours.
TEST_F(PlatformTest, AnyNatsClientSeesNodesAndRecords) {
  Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "db"});
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));

  natsConnection* connection = nullptr;
  ASSERT_EQ(natsConnection_ConnectTo(&connection, servers.urls().front().c_str()), NATS_OK);
  jsCtx* js = nullptr;
  ASSERT_EQ(natsConnection_JetStream(&js, connection, nullptr), NATS_OK);
  auto record = [&](const char* bucket, const char* key) {
    kvStore* store = nullptr;
    kvEntry* entry = nullptr;
    EXPECT_EQ(js_KeyValue(&store, js, bucket), NATS_OK);
    EXPECT_EQ(kvStore_Get(&entry, store, key), NATS_OK);
    Json found = entry != nullptr ? Json::parse(kvEntry_ValueString(entry)) : Json();
    kvEntry_Destroy(entry);
    kvStore_Destroy(store);
    return found;
  };
  const Json member = record("test_members", "node-1");
  EXPECT_EQ(member["v"], 1);
  EXPECT_EQ(member["state"], "live");
  EXPECT_EQ(member["apps"], Json::array({"db"}));
  const Json lease = record("test_leases", "db");
  EXPECT_EQ(lease["holder"], "node-1");
  EXPECT_EQ(lease["session"], member["session"]);
  EXPECT_EQ(lease["epoch"], 1);

  // What `nats micro ls` asks.
  natsMsg* answer = nullptr;
  ASSERT_EQ(natsConnection_RequestString(&answer, connection, "$SRV.PING", "", 10'000), NATS_OK);
  const Json service = Json::parse(std::string(natsMsg_GetData(answer)));
  EXPECT_EQ(service["type"], "io.nats.micro.v1.ping_response");
  EXPECT_EQ(service["name"], "test");
  EXPECT_EQ(service["metadata"]["node"], "node-1");
  natsMsg_Destroy(answer);
  jsCtx_Destroy(js);
  natsConnection_Destroy(connection);
}

TEST_F(PlatformTest, ANatsServerOfTheNodesOwnIsStartedAgainWhenItDies) {
  PlatformOptions o = Node::options(servers, folder.path(), "node-1", 30s);
  o.nats.servers.clear();
  o.nats.embedded.push_back({.host = "127.0.0.1", .port = 0});
  Node node(std::move(o));
  App& app = node.platform->add_app({.name = "db"});
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  auto url = [&] { return Json::parse(testing::status_of(*node.platform))["nats"]; };
  ASSERT_EQ(url()["sync"], "always");
  const std::uint64_t epoch = app.epoch();
  const std::string name = folder / "node-1/nats";
  const auto find_server = [&] {
    pid_t server = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline");
      std::string line;
      std::getline(file, line);
      if (line.find("nats-server") != std::string::npos && line.find(name) != std::string::npos)
        server = std::stoi(entry.path().filename());
    }
    return server;
  };
  const pid_t server = find_server();
  ASSERT_GT(server, 0);
  ::kill(server, SIGKILL);
  // By its process: it may be back before anybody has looked at the state.
  ASSERT_TRUE(eventually([&] {
    const pid_t now = find_server();
    return now > 0 && now != server;
  }));
  // What is stored now, the new one has stored.
  ASSERT_TRUE(
      eventually([&] { return testing::errc_of([&] { app.kv().put("k", "v"); }) == Errc{}; }));
  ASSERT_TRUE(eventually([&] { return url()["state"] == "connected"; }));
  ASSERT_TRUE(eventually([&] { return app.election().is_leader(); }));
  EXPECT_GE(app.epoch(), epoch);
}

}  // namespace
}  // namespace cluster
