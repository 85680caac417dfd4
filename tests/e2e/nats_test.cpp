// NATS servers that die, one by one and all at once, and NATS that is not what it should be.
#include <csignal>

#include "e2e/harness.h"
#include "outage.h"

namespace cluster::e2e {
namespace {

int sessions_ended(Cluster& c, int nodes) {
  int ended = 0;
  for (int i = 1; i <= nodes; ++i)
    ended += c.logged("node-" + std::to_string(i), {"session_ended"});
  return ended;
}

// NATS elects for up to 9 s. A record may be 10 s old when that begins, and lasts ten times this
// session_timeout: for three elections with no time to write in between.
constexpr milliseconds kOutlastsElections = kPatient.session_timeout;
constexpr seconds kElection(9);

// Whether another server than the one that has just died leads the members' stream as soon as NATS
// says. What takes longer, sessions need not outlast: nats-server 2.10 on a busy machine.
bool elect_in_time(Cluster& c, std::size_t dead) {
  const Time begun = BootClock::now();
  const auto elected = c.wait_for(
      "another server to lead the members' stream",
      [&] {
        const auto leader = c.stream_leader("KV_" + c.platform() + "_members");
        return leader && *leader != dead;
      },
      seconds(90));
  const bool in_time = elected && BootClock::now() - begun <= kElection * slowness();
  EXPECT_TRUE(!elected ||
              c.wait_for("the members", [&] { return c.member("node-1").has_value(); }));
  return in_time;
}

// Tries it again, with another cluster, when it tells that the servers were too late for it. All
// tries have one deadline.
void try_until_in_time(const std::function<bool(Time)>& in_time) {
  constexpr int kTries = 3;
  const Time deadline = faults::deadline_for_servers();
  for (int i = 0; i < kTries && BootClock::now() < deadline && !testing::Test::HasFailure(); ++i)
    if (in_time(deadline)) return;
  if (!testing::Test::HasFailure()) FAIL() << "the servers elect too late, each time";
}

bool kill_in_turn(Time deadline) {
  Cluster c({.servers = 3, .session_timeout = kOutlastsElections});
  faults::Outage outage(c.all_servers(), deadline);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  bool in_time = true;
  for (std::size_t i = 0; i < c.servers(); ++i) {
    EXPECT_TRUE(outage.wait_whole());
    outage.kill(i);
    in_time = elect_in_time(c, i) && in_time;
    EXPECT_TRUE(outage.end());
    if (testing::Test::HasFailure()) return true;
  }
  if (!in_time && sessions_ended(c, 3) > 0) return false;
  EXPECT_EQ(sessions_ended(c, 3), 0);
  EXPECT_EQ(c.wait_leader(), leader);
  EXPECT_EQ(c.epoch(), epoch);
  // And all still works: the lead moves when it should.
  EXPECT_FALSE(c.ask(leader, "stepdown", {{"v", 1}, {"app", "db"}}).contains("error"));
  c.wait_leader("db", leader, epoch);
  return true;
}

TEST(NatsServers, OfThreeEachMayDieInTurnAndNoSessionEnds) {
  CLUSTER_SKIP_LONG_WAITS();
  try_until_in_time(kill_in_turn);
}

bool kill_with_a_node(Time deadline) {
  Cluster c({.servers = 3, .session_timeout = kOutlastsElections});
  faults::Outage outage(c.all_servers(), deadline);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  EXPECT_TRUE(outage.wait_whole());
  if (testing::Test::HasFailure()) return true;
  const auto server = c.stream_leader("KV_" + c.platform() + "_members");
  if (!server) return false;
  const std::string other = c.other_nodes(leader).front();
  const pid_t guardian = c.guardian(other);
  outage.kill(*server);
  // Nobody is to say that the node has left: neither this guardian nor another one that the node
  // starts in its place.
  stop_and_wait(c.node(other).pid());
  kill_and_wait(guardian);
  kill_and_wait(c.node(other).pid());
  const bool in_time = elect_in_time(c, *server);
  if (!in_time) {
    EXPECT_TRUE(outage.end());
    if (testing::Test::HasFailure()) return true;
  }
  EXPECT_TRUE(c.wait_for("the end of the dead node's session", [&] {
    const auto record = c.member(other);
    return record && record->value("state", "") == "expired";
  }));
  const std::string now = c.wait_leader();
  if (!in_time && c.epoch() != epoch) return false;
  EXPECT_EQ(now, leader);
  EXPECT_EQ(c.epoch(), epoch);
  EXPECT_EQ(c.logged(leader, {"session_ended"}), 0);
  EXPECT_TRUE(outage.end());
  return true;
}

TEST(NatsServers, TheStreamsLeaderMayDieWithANodeAndTheLeadStays) {
  try_until_in_time(kill_with_a_node);
}

TEST(NatsServers, WithoutAnyNobodyActsAndWithThemServiceComesBack) {
  CLUSTER_SKIP_LONG_WAITS();
  // Longer than lease_ttl, ten times this, and than guardians go on for, which is twice that.
  constexpr Settings kShort{.session_timeout = milliseconds(500)};
  constexpr milliseconds kLonger = 25 * kShort.session_timeout;
  Cluster c(kShort);
  const std::string leader = c.start_nodes(3);
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid(leader);
  c.server(0).kill_hard();
  EXPECT_TRUE(c.wait_for("the leader to stop", [&] {
    return !alive(backend) && !c.events(leader, "db", "passive_end").empty();
  }));
  const Time end = BootClock::now() + kLonger * slowness();
  EXPECT_TRUE(c.wait_for("time to pass", [&] { return BootClock::now() >= end; }));
  EXPECT_TRUE(c.active("db").empty());
  EXPECT_EQ(c.running_nodes().size(), 3u);
  c.server(0).start_again();
  c.server(0).wait_ready(seconds(60) * slowness());
  c.wait_leader("db", "", epoch);
  EXPECT_TRUE(c.wait_members({"node-1", "node-2", "node-3"}));
}

// Also where the node itself brings the server along, and so nothing can be written before it is
// back.
TEST(NatsServers, AKilledNodeStartsAgainAtOnceWithoutThem) {
  Cluster c;
  ASSERT_EQ(c.start_nodes(1), "node-1");
  const auto epoch = c.epoch();
  const pid_t backend = c.backend_pid("node-1");
  c.server(0).kill_hard();
  kill_and_wait(c.node("node-1").pid());
  EXPECT_TRUE(c.wait_for("the end of its backend", [&] { return !alive(backend); }));
  const pid_t guardian = c.guardian("node-1");
  c.start("node-1");
  EXPECT_TRUE(c.wait_logged("node-1", {"waiting_for_nats"}));
  EXPECT_TRUE(guardian == 0 || alive(guardian)) << "it was waited for";
  c.server(0).start_again();
  c.server(0).wait_ready(seconds(60) * slowness());
  EXPECT_EQ(c.wait_leader("db", "", epoch), "node-1");
}

constexpr const char* kConfiguration = R"(
listen: "127.0.0.1:PORT"
jetstream { store_dir: "FOLDER" }
)";

TEST(NatsServers, ANodeWaitsForOneAtItsStart) {
  Cluster c({.servers = 0});
  const int port = free_port();
  c.use({"nats://127.0.0.1:" + std::to_string(port)}, false);
  c.start("node-1");
  EXPECT_TRUE(c.wait_logged("node-1", {"waiting_for_nats"}));
  EXPECT_TRUE(c.node("node-1").running());
  c.start_server(kConfiguration, port);
  c.use({"nats://127.0.0.1:" + std::to_string(port)});
  EXPECT_EQ(c.wait_leader(), "node-1");
}

// Starts a node that can't work, and returns its last words.
std::string end_of(Cluster& c, const json& options, Errc code) {
  auto node = c.make(options, {});
  EXPECT_TRUE(c.wait_for("its end", [&] { return !node->running(); }));
  EXPECT_EQ(node->status(), ended_with(code)) << node->output();
  return node->output();
}

void expect_in(const std::string& text, const std::vector<std::string>& parts) {
  for (const auto& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in: " << text;
}

TEST(NatsServers, ANodeGivesUpWhenNoneComes) {
  Cluster c({.servers = 0});
  const std::string url = "127.0.0.1:" + std::to_string(free_port());
  c.use({"nats://" + url}, false);
  json options = c.node_options("node-1");
  options["start_timeout_ms"] = 2000 * slowness();  // it must have tried by then
  expect_in(end_of(c, options, Errc::unavailable), {"nats.start_timeout", "node-1", url});
}

TEST(NatsServers, OneWithoutJetStreamIsNamed) {
  Cluster c({.servers = 0});
  c.use({c.start_server("listen: \"127.0.0.1:PORT\"\n")});
  json options = c.node_options("node-1");
  options["start_timeout_ms"] = 4000 * slowness();  // it must have heard of that by then
  expect_in(end_of(c, options, Errc::unavailable), {"JetStream is not enabled", "-js"});
}

TEST(NatsServers, APermissionThatIsMissingIsNamed) {
  Cluster c({.servers = 0});
  const std::string url =
      c.start_server(R"(
listen: "127.0.0.1:PORT"
jetstream { store_dir: "FOLDER" }
authorization { users: [
  { user: full, password: secret }
  { user: less, password: secret, permissions: { publish: { allow: ">", deny: ")" +
                     std::string("$KV.") + c.platform() + "_members.>" + R"(" } } }
] }
)");
  c.use({url}, false);
  json options = c.node_options("node-1");
  options["user"] = "less";
  options["password"] = "secret";
  options["start_timeout_ms"] = 20'000;
  expect_in(end_of(c, options, Errc::permission_denied),
            {"$KV." + c.platform() + "_members.node-1"});
}

TEST(NatsServers, ARecordOfANewerVersionIsRefused) {
  Cluster c;
  ASSERT_EQ(c.put_member("node-2", {{"v", 2}, {"node", "node-2"}}), std::nullopt);
  expect_in(end_of(c, c.node_options("node-1"), Errc::incompatible),
            {"node-2", "version 2", "update cpp-cluster"});
}

TEST(NatsServers, OptionsThatCantBeAreAllNamed) {
  Cluster c;
  json options = c.node_options("node-1");
  options["platform"] = "My_App";
  options["lease_ttl_ms"] = 1000;
  expect_in(end_of(c, options, Errc::invalid_argument), {"My_App", "lease_ttl"});
}

}  // namespace
}  // namespace cluster::e2e
