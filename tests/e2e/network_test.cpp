// Networks that are cut, one way or both, slow, lossy and unsteady, between nodes and NATS.
#include <csignal>
#include <cstdlib>
#include <random>

#include "built.h"
#include "e2e/harness.h"
#include "e2e/network.h"

namespace cluster::e2e {
namespace {

constexpr const char* kServer = R"(
listen: "0.0.0.0:PORT"
jetstream { store_dir: "FOLDER" }
)";

// Nodes on hosts of their own; NATS and the test sit where all wires meet.
class Hosts {
 public:
  explicit Hosts(milliseconds session_timeout)
      : cluster_(Settings{.servers = 0, .session_timeout = session_timeout}) {
    const int port = free_port();
    cluster_.use({cluster_.start_server(kServer, port)});
    url_ = std::string("nats://") + Network::kAddress + ":" + std::to_string(port);
  }

  Cluster& cluster() { return cluster_; }
  Network& network() { return network_; }

  std::string start_nodes(int count) {
    std::vector<std::string> names;
    for (int i = 1; i <= count; ++i) names.push_back("node-" + std::to_string(i));
    for (const auto& name : names) {
      const std::size_t host = network_.add_host();
      json options = cluster_.node_options(name);
      options["nats"] = {url_};
      cluster_.start(options, {.command = {},
                               .environment = {},
                               .output = {},
                               .network_of = network_.path(host),
                               .input = -1});
    }
    EXPECT_TRUE(cluster_.wait_watched(names));
    return cluster_.wait_leader();
  }
  // "node-1" is on host 0.
  static std::size_t host(const std::string& node) {
    return static_cast<std::size_t>(std::stoi(node.substr(5)) - 1);
  }
  void heal_all() {
    for (int i = 1; i <= 3; ++i) network_.heal(host("node-" + std::to_string(i)));
  }
  void pass(milliseconds span) {
    const Time end = BootClock::now() + span;
    EXPECT_TRUE(cluster_.wait_for("time to pass", [&] { return BootClock::now() >= end; }));
  }
  int sessions_ended() const {
    int ended = 0;
    for (int i = 1; i <= 3; ++i)
      ended += cluster_.logged("node-" + std::to_string(i), {"session_ended"});
    return ended;
  }

 private:
  Network network_;  // entered first, left last
  Cluster cluster_;
  std::string url_;
};

class Networks : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = Network::missing(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

// It stops before another starts (check_history says so for every instant), and comes back.
void cut_the_leader_off(Network::Direction from_it, Network::Direction to_it) {
  Hosts hosts(kSteady.session_timeout);
  Cluster& c = hosts.cluster();
  const std::string leader = hosts.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  const std::size_t host = Hosts::host(leader);
  hosts.network().set(host, from_it, to_it);
  const std::string next = c.wait_lease_moves(leader, epoch);
  EXPECT_FALSE(alive(backend));
  const auto begun = c.events(next, "db", "backend_begin");
  ASSERT_FALSE(begun.empty());
  for (const auto& e : c.events(leader, "db", "alive")) EXPECT_LT(e.ns, begun.front().ns);
  EXPECT_TRUE(c.wait_for("its on_passive",
                         [&] { return c.events(leader, "db", "passive_end").size() == 1; }));
  EXPECT_TRUE(c.node(leader).running());
  EXPECT_GT(hosts.network().vanished(host), 0u);
  EXPECT_EQ(c.member_state(leader), "expired");
  hosts.network().heal(host);
  EXPECT_TRUE(c.wait_for("its next session", [&] { return c.member_state(leader) == "live"; }));
  EXPECT_EQ(c.wait_leader("db", leader), next);
  EXPECT_EQ(c.epoch(), epoch + 1);
}

TEST_F(Networks, ALeaderThatIsCutOffStopsAndComesBackAsAStandby) {
  cut_the_leader_off({.cut = true}, {.cut = true});
}

TEST_F(Networks, ALeaderThatCantBeHeardStopsThoughItHears) {
  cut_the_leader_off({.cut = true}, {});
}

TEST_F(Networks, ALeaderThatCantHearStops) { cut_the_leader_off({}, {.cut = true}); }

TEST_F(Networks, NothingMovesWhenAStandbyIsCutOff) {
  Hosts hosts(kPatient.session_timeout);
  Cluster& c = hosts.cluster();
  const std::string leader = hosts.start_nodes(3);
  const auto epoch = c.epoch();
  const std::string standby = c.other_nodes(leader).front();
  hosts.network().cut(Hosts::host(standby));
  EXPECT_TRUE(
      c.wait_for("the end of its session", [&] { return c.member_state(standby) == "expired"; }));
  hosts.network().heal(Hosts::host(standby));
  EXPECT_TRUE(c.wait_members({standby}));
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
  EXPECT_EQ(c.logged(leader, {"session_ended"}), 0);
}

TEST_F(Networks, WhenNoneReachesNatsNobodyActsAndServiceComesBack) {
  Hosts hosts(milliseconds(1000));
  Cluster& c = hosts.cluster();
  const std::string leader = hosts.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  for (std::size_t host = 0; host < 3; ++host) hosts.network().cut(host);
  EXPECT_TRUE(c.wait_for("the leader to stop", [&] {
    return !alive(backend) && !c.events(leader, "db", "passive_end").empty();
  }));
  EXPECT_TRUE(c.active("db").empty());
  EXPECT_EQ(c.running_nodes().size(), 3u);
  hosts.heal_all();
  c.wait_leader("db", "", epoch);
  EXPECT_TRUE(c.wait_members({"node-1", "node-2", "node-3"}));
}

TEST_F(Networks, AStallThatIsShorterThanTheTimeoutMovesNothing) {
  // This process, which heals the network, may stand still as well.
  Hosts hosts(milliseconds(10'000));
  Cluster& c = hosts.cluster();
  const std::string leader = hosts.start_nodes(3);
  const auto epoch = c.epoch();
  for (int i = 0; i < 3; ++i) {
    hosts.network().cut(Hosts::host(leader));
    hosts.pass(milliseconds(800));
    hosts.network().heal(Hosts::host(leader));
    // What waited behind the cut has arrived once this has been answered.
    EXPECT_TRUE(
        c.wait_for("an answer", [&] { return !c.ask(leader, "status").contains("error"); }));
  }
  EXPECT_GT(hosts.network().vanished(Hosts::host(leader)), 0u);
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
  EXPECT_EQ(hosts.sessions_ended(), 0);
}

// A round trip of 200 ms, and one packet in 20 is lost, each way.
constexpr Network::Direction kFarAway{.cut = false, .delay = milliseconds(100), .loss = 0.05};

TEST_F(Networks, OverASlowAndLossyOneSessionsLastAndTheLeadMovesWhenItShould) {
  Hosts hosts(milliseconds(6000));
  Cluster& c = hosts.cluster();
  std::string first = hosts.start_nodes(3);
  const milliseconds session_timeout(c.node_options("node-1").at("session_timeout_ms").get<int>());
  for (std::size_t host = 0; host < 3; ++host) hosts.network().set(host, kFarAway, kFarAway);
  // A packet may be lost four or five times in a row, by chance, and hold its connection up until a
  // session ends; but not each time.
  constexpr int kTries = 3;
  int ended = 0;
  for (int i = 0; i < kTries && !HasFailure(); ++i) {
    const int before = hosts.sessions_ended();
    hosts.pass(session_timeout * 4 / 3);  // longer than one lasts of which nothing is heard
    EXPECT_TRUE(c.wait_for("something to be lost on each way", [&] {
      return hosts.network().vanished(0) > 2 && hosts.network().vanished(1) > 2 &&
             hosts.network().vanished(2) > 2;
    }));
    ended = hosts.sessions_ended() - before;
    if (ended == 0) break;
    EXPECT_TRUE(c.wait_watched({"node-1", "node-2", "node-3"}));
    first = c.wait_leader();
  }
  EXPECT_EQ(ended, 0) << "each time";
  EXPECT_EQ(c.wait_leader(), first);
  // A session may end over this, too, by chance, and whoever asked is told so.
  std::uint64_t epoch = 0;
  EXPECT_TRUE(c.wait_for("a hand-over", [&] {
    first = c.wait_leader();
    epoch = c.epoch();
    return !c.ask(first, "stepdown", {{"v", 1}, {"app", "db"}}).contains("error");
  }));
  const std::string second = c.wait_leader("db", first, epoch);
  epoch = c.epoch();
  kill_and_wait(c.node(second).pid());
  c.wait_leader("db", second, epoch);
}

TEST_F(Networks, TooSlowForItsTimeoutLeadsMayMoveButNeverTwoAct) {
  Hosts hosts(milliseconds(500));
  Cluster& c = hosts.cluster();
  hosts.start_nodes(3);
  for (int i = 0; i < 3; ++i) {
    // Heartbeats and their acknowledgements cross four wires.
    const Network::Direction slow{
        .cut = false, .delay = milliseconds(90 + 30 * i) * slowness(), .loss = 0.02};
    for (std::size_t host = 0; host < 3; ++host) hosts.network().set(host, slow, slow);
    hosts.pass(seconds(5) * slowness());
  }
  EXPECT_GT(hosts.sessions_ended(), 0) << "this network was not too slow";
  hosts.heal_all();
  EXPECT_TRUE(c.wait_members({"node-1", "node-2", "node-3"}));
  c.wait_leader();
}

TEST_F(Networks, WiresThatComeAndGoNeverMakeTwoLeaders) {
  Hosts hosts(milliseconds(1000));
  Cluster& c = hosts.cluster();
  hosts.start_nodes(3);
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
  auto direction = [&] {
    return Network::Direction{.cut = chance(40),
                              .delay = milliseconds(chance(30) ? random() % 300 : 0),
                              .loss = chance(30) ? 0.2 : 0};
  };
  for (int i = 0; i < 20; ++i) {
    const std::size_t host = random() % 3;
    if (chance(40))
      hosts.network().heal(host);
    else
      hosts.network().set(host, direction(), direction());
    hosts.pass(milliseconds(100 + random() % 1900));
  }
  hosts.heal_all();
  EXPECT_TRUE(c.wait_members({"node-1", "node-2", "node-3"}));
  c.wait_leader();
}

// `cpp-cluster run` on three machines that need nothing else: each brings a NATS server along.
class ThreeHosts {
 public:
  /// `late`: so many of them come long after the others.
  void start(std::size_t late);
  /// Waits until somebody leads in a later epoch than that.
  testing::AssertionResult wait_led(std::uint64_t above);
  /// Until ctest would end the test without a word.
  seconds left() const {
    return std::chrono::duration_cast<seconds>(
        std::max<Duration>(seconds(1), deadline - BootClock::now()));
  }
  void stop();

  Network network;
  Cluster c;
  std::vector<std::string> urls;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Child>> nodes;
  std::string leader;
  const Time deadline = BootClock::now() + seconds(380);

  explicit ThreeHosts(milliseconds session_timeout = kPatient.session_timeout)
      : c({.servers = 0, .session_timeout = session_timeout}) {}
};

void ThreeHosts::start(std::size_t late) {
  std::vector<std::string> routes;
  for (std::size_t host = 0; host < 3; ++host) {
    network.add_host();
    routes.push_back("nats://" + Network::address(host) + ":6222");
    urls.push_back("nats://" + Network::address(host) + ":4222");
  }
  for (std::size_t host = 0; host < 3; ++host) {
    const std::string name = "node-" + std::to_string(host + 1);
    // One server finds no leader, two can't hold three replicas: no restart can help.
    if (host == 3 - late) {
      ASSERT_TRUE(c.wait_logged("node-1", {" waiting_for_nats ", "JetStream says: "}));
      // Longer than the patience that they would have if a majority were there.
      const Time long_after = BootClock::now() + seconds(late == 2 ? 35 : 20);
      EXPECT_TRUE(c.wait_for("time to pass", [&] { return BootClock::now() >= long_after; }));
      for (const auto& node : names)
        EXPECT_EQ(c.logged(node, {" nats_server_restarted ",
                                  late == 2 ? "has no leader" : "places no replicas"}),
                  0);
    }
    const json options = c.node_options(name);
    const auto ms = [&](const char* key) {
      return std::to_string(options.at(key).get<int>()) + "ms";
    };
    const json configuration{
        {"platform", c.platform()},
        {"node", name},
        {"folder", options.at("folder")},
        {"http", ""},
        {"nats", {{"embedded", {{"host", Network::address(host)}, {"routes", routes}}}}},
        {"timing",
         {{"session_timeout", ms("session_timeout_ms")},
          {"lease_ttl", ms("lease_ttl_ms")},
          {"stop_margin", ms("stop_margin_ms")}}},
        {"apps", {{"db", {{"process", {{"command", c.backend().at("command")}}}}}}}};
    write_file(c.path(name + ".yaml"), configuration.dump());
    auto environment = c.marks();
    environment.push_back(std::string("PATH=") + std::getenv("PATH") + ":/usr/sbin");
    nodes.push_back(std::make_unique<Child>(
        Child::Options{.command = {built::kProgram, "run", "--config", c.path(name + ".yaml")},
                       .environment = std::move(environment),
                       .output = c.path(name + ".log"),
                       .network_of = network.path(host),
                       .input = -1}));
    names.push_back(name);
  }
  c.use(urls);
  // Servers may hang from the very beginning, and are started again then.
  EXPECT_TRUE(c.wait_watched(names, left()));
}

testing::AssertionResult ThreeHosts::wait_led(std::uint64_t above) {
  const auto led = [&] {
    const auto lease = c.lease();
    if (!lease || lease->value("state", "") != "held" || lease->value("epoch", 0u) <= above)
      return false;
    leader = lease->value("holder", "");
    const auto begun = c.events(leader, "db", "backend_begin");
    return !begun.empty() && begun.back().epoch == lease->value("epoch", 0u);
  };
  return c.wait_for("a leader behind epoch " + std::to_string(above), led, left());
}

void ThreeHosts::stop() {
  for (auto& node : nodes) node->signal(SIGTERM);
  for (auto& node : nodes) {
    EXPECT_TRUE(c.wait_for("its end", [&] { return !node->running(); }));
    EXPECT_EQ(node->status(), 0) << node->output();
  }
}

void lose_one_of_three_hosts(std::size_t late) {
  ThreeHosts hosts;
  hosts.start(late);
  if (testing::Test::HasFatalFailure()) return;
  Cluster& c = hosts.c;
  ASSERT_TRUE(hosts.wait_led(0));

  const std::string lost = hosts.leader;
  const auto epoch = c.epoch();
  const std::size_t host = Hosts::host(lost);
  hosts.network.cut(host);
  hosts.urls.erase(hosts.urls.begin() + static_cast<std::ptrdiff_t>(host));
  c.use(hosts.urls);
  // NATS elects anew for streams first. Where a server hangs its node restarts it, twice lease_ttl
  // later.
  ASSERT_TRUE(hosts.wait_led(epoch));
  EXPECT_NE(hosts.leader, lost);
  EXPECT_TRUE(hosts.nodes[host]->running());

  hosts.network.heal(host);
  EXPECT_TRUE(c.wait_members(hosts.names, hosts.left()));
  // Its server's return may cost a stream its leader once more.
  const std::string next = hosts.leader;
  EXPECT_TRUE(hosts.wait_led(epoch));
  EXPECT_EQ(hosts.leader, next);
  hosts.stop();
}

TEST_F(Networks, ThreeHostsWithServersOfTheirOwnOutliveTheLossOfOne) {
  CLUSTER_SKIP_LONG_WAITS();
  lose_one_of_three_hosts(0);
}

TEST_F(Networks, AHostMayComeLongAfterTheOtherTwo) {
  CLUSTER_SKIP_LONG_WAITS();
  lose_one_of_three_hosts(1);
}

TEST_F(Networks, TwoHostsMayComeLongAfterTheFirst) {
  CLUSTER_SKIP_LONG_WAITS();
  lose_one_of_three_hosts(2);
}

// Their connections stay, and nobody hears anything: only who has started them can help.
TEST_F(Networks, ServersThatHangAreStartedAgainByTheirNodes) {
  CLUSTER_SKIP_LONG_WAITS();
  ThreeHosts hosts(milliseconds(2000));
  hosts.start(0);
  ASSERT_TRUE(hosts.wait_led(0));
  const auto epoch = hosts.c.epoch();
  for (const std::string name : {"node-2", "node-3"}) {
    const auto folder = hosts.c.node_options(name).at("folder").get<std::string>();
    const pid_t server = std::stoi(read_file(folder + "/nats/lock"));
    ASSERT_EQ(::kill(server, SIGSTOP), 0);
  }
  ASSERT_TRUE(hosts.wait_led(epoch));
  // With one of them there is a majority again.
  EXPECT_GT(hosts.c.logged("node-2", {" nats_server_restarted "}) +
                hosts.c.logged("node-3", {" nats_server_restarted "}),
            0);
  EXPECT_TRUE(hosts.c.wait_members(hosts.names, hosts.left()));
  hosts.stop();
}

}  // namespace
}  // namespace cluster::e2e
