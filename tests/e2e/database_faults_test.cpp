// A replicated database, and one fault a test: processes that die or are stopped, NATS that goes,
// networks that are cut. A client writes numbered rows all the while; see databases.h for what must
// hold afterwards.
#include <csignal>
#include <map>
#include <string>

#include "built.h"
#include "e2e/databases.h"
#include "e2e/network.h"
#include "outage.h"
#include "sqlite/handle.h"
#include "sqlite/set_aside.h"

namespace cluster::e2e {
namespace {

constexpr std::size_t kSome = 50;  // rows

// ---- processes that die

class DatabaseFaultsByCommit : public ByCommit {};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseFaultsByCommit, both_commits(), commit_name);

TEST_P(DatabaseFaultsByCommit, AMachineThatDiesLosesNoMoreThanIsReported) {
  Databases d(kSteady);
  d.commit = GetParam();
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const auto epoch = d.c.epoch();
  d.kill_all_of(leader);
  d.c.wait_leader("db", leader, epoch);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  d.restart(leader);
  ASSERT_TRUE(d.wait_ready(leader));
  d.check(allowed());
}

TEST(DatabaseFaults, AStandbyThatIsKilledCatchesUp) {
  Databases d(kPatient);
  const std::string leader = d.start_watched(3);
  const auto epoch = d.c.epoch();
  const std::string standby = d.c.other_nodes(leader).front();
  ASSERT_TRUE(d.wait_for_rows(kSome));
  for (int i = 0; i < 3; ++i) {
    kill_and_wait(d.c.node(standby).pid());
    ASSERT_TRUE(d.wait_for_rows(kSome));
    d.restart(standby);
    ASSERT_TRUE(d.wait_ready(standby));
  }
  EXPECT_EQ(d.c.epoch(), epoch);
  d.check();
  EXPECT_TRUE(sqlite::those_set_aside(d.file(standby)).empty());
  EXPECT_EQ(d.c.logged(standby, {"database_had_anew"}), 0);
}

TEST(DatabaseFaults, ABackendThatIsKilledIsStartedAgainAndNothingIsLost) {
  Databases d(kPatient);
  d.adjust = [](const std::string&, json& options, Child::Options&) {
    options["apps"][0]["backend"]["backoff_ms"] = 50;
  };
  const std::string leader = d.start_watched(2);
  const auto epoch = d.c.epoch();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(d.wait_for_rows(kSome));
    kill_and_wait(d.c.backend_pid(leader));
    ASSERT_TRUE(d.c.wait_for("the backend", [&] { return d.c.backend_pid(leader) != 0; }));
  }
  ASSERT_TRUE(d.wait_for_rows(kSome));
  EXPECT_EQ(d.c.epoch(), epoch);
  EXPECT_EQ(d.c.wait_leader(), leader);
  d.check();
}

// ---- NATS

// Until that many more rows are committed, as long as that has to do with the servers.
testing::AssertionResult outlast_rows(Databases& d, faults::Outage& outage, std::size_t more) {
  const std::size_t before = d.logged("committed").size();
  return outage.outlast([&] {
    return bool(d.c.wait_for(
        "rows", [&] { return d.logged("committed").size() >= before + more; }, seconds(1)));
  });
}

void kill_all_servers(int servers) {
  Databases d({.servers = servers, .session_timeout = kPatient.session_timeout});
  faults::Outage outage(d.c.all_servers());
  d.start_watched(3);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(d.wait_for_rows(kSome));
    ASSERT_TRUE(outage.wait_whole());
    for (auto* server : d.c.all_servers()) server->kill_hard();
    for (auto* server : d.c.all_servers()) server->start_again();
    for (auto* server : d.c.all_servers()) faults::wait_until_ready(*server, outage.deadline());
    ASSERT_TRUE(outlast_rows(d, outage, kSome));
  }
  CLUSTER_END_LOST(outage);
  d.check(Loss::reported);
}

TEST(DatabaseFaults, WhenTheOnlyNatsServerDiesAllGoesOnByItself) { kill_all_servers(1); }

TEST(DatabaseFaults, WhenAllThreeNatsServersDieAllGoesOnByItself) {
  CLUSTER_SKIP_LONG_WAITS();
  kill_all_servers(3);
}

double metric(int port, const std::string& name) {
  const std::string text = http_get(port, "/metrics");
  const std::string line = "\n" + name + R"({app="db"} )";
  const auto at = text.find(line);
  return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size()));
}

TEST(DatabaseFaults, ALeaderTellsHowOldTheOldestIsThatJetStreamDoesNotHave) {
  // A node alone has no voters: what counts is lease_ttl, ten times this.
  Databases d;
  const int port = free_port();
  d.adjust = [port](const std::string&, json& options, Child::Options&) {
    options["http"] = "127.0.0.1:" + std::to_string(port);
  };
  d.start(1);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const pid_t server = d.c.server(0).pid();
  stop_and_wait(server);
  EXPECT_TRUE(d.c.wait_for("a lag of half a second",
                           [&] { return metric(port, "cluster_database_lag_seconds") > 0.5; }));
  EXPECT_GT(metric(port, "cluster_database_lag_transactions"), 0);
  ::kill(server, SIGCONT);
  EXPECT_TRUE(d.hush());
  EXPECT_TRUE(d.c.wait_for("all to be stored", [&] {
    return metric(port, "cluster_database_lag_seconds") == 0 &&
           metric(port, "cluster_database_lag_transactions") == 0;
  }));
  d.check();
}

// It reads no more when much waits already: what it has not read counts all the same.
TEST(DatabaseFaults, AStandbyThatCantApplyShowsAllThatItLacks) {
  constexpr std::uint64_t kMoreThanIsRead = 600;  // records; it reads 512
  constexpr seconds kUntilThen(240);              // a busy machine commits some ten rows a second
  Databases d(kPatient);
  d.adjust = [&](const std::string& node, json&, Child::Options& how) {
    how.environment = {std::string("LD_PRELOAD=") + built::kHeldFiles, "CLUSTER_HELD_FILES=-wal",
                       "CLUSTER_HELD_FILES_WHILE=" + d.c.path("hold-" + node),
                       "ASAN_OPTIONS=verify_asan_link_order=0"};
  };
  const std::string leader = d.start_watched(2);
  const std::string standby = d.c.other_nodes(leader).front();
  ASSERT_TRUE(d.wait_for_rows(kSome));
  write_file(d.c.path("hold-" + standby), "");
  json now;
  ASSERT_TRUE(d.c.wait_for(
      "it to lack much",
      [&] {
        now = d.status(standby);
        return now.value("lag", json::object()).value("records", 0U) > kMoreThanIsRead;
      },
      kUntilThen))
      << now;
  ASSERT_TRUE(d.hush());
  EXPECT_TRUE(d.c.wait_for("all that it lacks", [&] {
    // The leader itself may not have seen the last rows yet.
    const auto txid = d.status(leader).value("txid", std::uint64_t{0});
    now = d.status(standby);
    const json lag = now.value("lag", json::object());
    return lag.value("transactions", std::uint64_t{0}) + now.value("txid", std::uint64_t{0}) ==
               txid &&
           lag.value("ms", 0) > 0;
  })) << now;
  std::filesystem::remove(d.c.path("hold-" + standby));
  d.resume();
  d.check();
}

// Nor does it cost the leader its lead, unless the servers elect for longer than leases last. A
// server that has just come back may take seconds until it passes on what nodes say to each other.
TEST(DatabaseFaults, EachNatsServerOfThreeThatDiesLosesNothing) {
  CLUSTER_SKIP_LONG_WAITS();
  constexpr seconds kElection(120);  // lease_ttl is 200 s, and a record may be 40 s old
  Databases d({.servers = 3, .session_timeout = seconds(20)});
  faults::Outage outage(d.c.all_servers());
  d.commit = Commit::replicated;
  const std::string leader = d.start_watched(3);
  const auto epoch = d.c.epoch();
  bool in_time = true;
  const auto stays = [&] { return in_time || d.c.epoch() == epoch; };
  for (std::size_t s = 0; s < d.c.servers() && stays(); ++s) {
    ASSERT_TRUE(d.wait_for_rows(kSome));
    ASSERT_TRUE(outage.wait_whole());
    outage.kill(s);
    const Time begun = BootClock::now();
    ASSERT_TRUE(outlast_rows(d, outage, kSome));
    in_time = in_time && BootClock::now() - begun <= kElection;
    const auto committed = d.status(leader).value("txid", 0ULL);
    ASSERT_TRUE(d.c.wait_for("that to be stored without it", [&] {
      const json now = d.status(leader);
      const auto lag = now.value("lag", json::object()).value("transactions", ~0ULL);
      return !stays() || (committed > 0 && now.value("txid", 0ULL) >= committed + lag);
    }));
    ASSERT_TRUE(outage.end());
    in_time = in_time && BootClock::now() - begun <= kElection;
  }
  const std::string now = d.c.wait_leader();
  if (stays()) {
    EXPECT_EQ(now, leader);
    EXPECT_EQ(d.c.epoch(), epoch);
  }
  CLUSTER_END_LOST(outage);
  d.check();
}

// ---- clocks

TEST(DatabaseFaults, AWallClockThatIsSetBackAnHourLosesNothing) {
  Databases d(kPatient);
  write_file(d.c.path("clock"), "0\n");
  d.adjust = [&](const std::string&, json&, Child::Options& how) {
    how.environment = {std::string("LD_PRELOAD=") + built::kWallClock,
                       "CLUSTER_WALL_CLOCK=" + d.c.path("clock"),
                       "ASAN_OPTIONS=verify_asan_link_order=0"};
  };
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const auto epoch = d.c.epoch();
  write_file(d.c.path("clock"), "-3600\n");
  ASSERT_TRUE(d.wait_for_rows(kSome));
  for (const auto& node : d.nodes) ASSERT_TRUE(d.wait_ready(node));
  EXPECT_EQ(d.c.epoch(), epoch);
  // What is written after is behind what was written before, whatever it is stamped with.
  d.kill_all_of(leader);
  d.c.wait_leader("db", leader, epoch);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  d.restart(leader);
  ASSERT_TRUE(d.wait_ready(leader));
  d.check(Loss::reported);
}

// ---- processes that are stopped

// Of rows that were written while the leader was stopped or cut off, none is in the history. Where
// commits wait, none of them was acknowledged.
void expect_lost(Databases& d, const std::string& leader, std::size_t least) {
  EXPECT_GE(d.lost, static_cast<int>(least));
  EXPECT_GE(sqlite::those_set_aside(d.file(leader)).size(), 1u);
}

TEST_P(DatabaseFaultsByCommit, WhatIsWrittenWhileTheNodeIsStoppedIsKeptAside) {
  Databases d(kSteady);
  d.commit = GetParam();
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const auto epoch = d.c.epoch();
  const pid_t backend = d.c.backend_pid(leader);
  const pid_t node = d.c.node(leader).pid();
  stop_and_wait(node);
  if (!replicated()) {
    ASSERT_TRUE(d.wait_for_rows(5));
  }
  d.c.wait_lease_moves(leader, epoch);
  EXPECT_TRUE(d.c.wait_for("its guardian to end it", [&] { return !alive(backend); }));
  ASSERT_TRUE(d.wait_for_rows(kSome));
  ::kill(node, SIGCONT);
  d.c.wait_leader("db", leader, epoch);
  ASSERT_TRUE(d.c.wait_for("it to follow", [&] {
    return (replicated() || d.status(leader).value("divergences", 0) > 0) && d.ready(leader);
  }));
  EXPECT_TRUE(d.c.node(leader).running());
  EXPECT_TRUE(d.c.wait_for("audit entries", [&] { return d.audited("primary") >= 2; }));
  if (!replicated()) {
    EXPECT_TRUE(d.c.wait_for("audit entries", [&] { return d.audited("diverged") == 1; }));
  }
  d.check(allowed());
  if (!replicated()) expect_lost(d, leader, 5);
}

// With its guardian stopped as well, nobody ends the backend: two write at the same time.
TEST(DatabaseFaults, WhatIsWrittenOnBesideTheNextLeaderNeverReachesTheHistory) {
  Databases d(kSteady);
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const auto epoch = d.c.epoch();
  const pid_t backend = d.c.backend_pid(leader);
  const pid_t node = d.c.node(leader).pid(), guardian = d.c.guardian(leader);
  d.c.allow_overlap(backend);
  ASSERT_NE(guardian, 0);
  stop_and_wait(guardian);
  stop_and_wait(node);
  d.c.wait_lease_moves(leader, epoch);
  EXPECT_TRUE(alive(backend));
  std::size_t before = 0;
  auto count = [&](bool newer) {
    std::size_t rows = 0;
    for (const auto& row : d.logged("committed")) rows += (row.first > epoch) == newer;
    return rows;
  };
  before = count(false);
  ASSERT_TRUE(d.c.wait_for("both to write",
                           [&] { return count(false) >= before + kSome && count(true) >= kSome; }));
  ::kill(node, SIGCONT);
  ::kill(guardian, SIGCONT);
  d.c.wait_leader("db", leader, epoch);
  ASSERT_TRUE(d.c.wait_for("the divergence to be seen", [&] {
    return d.status(leader).value("divergences", 0) > 0 && d.ready(leader);
  }));
  d.check(Loss::reported);
  expect_lost(d, leader, kSome);
}

TEST(DatabaseFaults, AStandbyThatWasStoppedCatchesUp) {
  Databases d(kPatient);
  const std::string leader = d.start_watched(3);
  const std::string standby = d.c.other_nodes(leader).front();
  const pid_t node = d.c.node(standby).pid();
  stop_and_wait(node);
  ASSERT_TRUE(d.c.wait_for("the end of its session", [&] {
    const auto record = d.c.member(standby);
    return record && record->value("state", "") == "expired";
  }));
  ASSERT_TRUE(d.wait_for_rows(kSome));
  ::kill(node, SIGCONT);
  ASSERT_TRUE(d.c.wait_members({standby}));
  d.check();
}

// ---- networks

// Nodes on hosts of their own, with a NATS server that all of them reach.
struct DatabaseHosts {
  Network network{};  // entered first, left last
  Databases d;
  std::map<std::string, std::size_t> numbers{};

  DatabaseHosts(Commit commit, milliseconds session_timeout)
      : d({.servers = 0, .session_timeout = session_timeout}) {
    d.commit = commit;
    const int port = free_port();
    d.c.use({d.c.start_server("listen: \"0.0.0.0:PORT\"\njetstream { store_dir: \"FOLDER\" }\n",
                              port)});
    d.adjust = [this, port](const std::string& node, json& options, Child::Options& how) {
      if (!numbers.contains(node)) numbers[node] = network.add_host();
      options["nats"] = {std::string("nats://") + Network::kAddress + ":" + std::to_string(port)};
      how.network_of = network.path(numbers[node]);
    };
  }
};

TEST_P(DatabaseFaultsByCommit, WhatIsWrittenWhileTheLeaderIsCutOffIsKeptAside) {
  if (const std::string reason = Network::missing(); !reason.empty()) GTEST_SKIP() << reason;
  DatabaseHosts hosts(GetParam(), kSteady.session_timeout);
  auto& [network, d, numbers] = hosts;
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  const auto epoch = d.c.epoch();
  network.cut(numbers[leader]);
  if (!replicated()) {
    ASSERT_TRUE(d.wait_for_rows(5));
  }
  d.c.wait_lease_moves(leader, epoch);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  EXPECT_GT(network.vanished(numbers[leader]), 0u);
  network.heal(numbers[leader]);
  // A question that is sent before it has connected again would be waited for.
  if (!replicated()) {
    ASSERT_TRUE(d.c.wait_logged(leader, {" database_diverged "}));
  }
  ASSERT_TRUE(d.c.wait_members({leader}));
  ASSERT_TRUE(d.wait_ready(leader));
  const std::string now = d.c.wait_leader("db", leader);
  const auto lease = d.c.lease();
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(now, lease->value("holder", ""));
  d.check(allowed());
  if (!replicated()) expect_lost(d, leader, 5);
}

// A round trip of 200 ms, and one packet in 20 is lost, each way.
TEST(DatabaseFaults, OverASlowAndLossyNetworkAllArrivesAndTheLeadCanBeHandedOver) {
  if (const std::string reason = Network::missing(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr Network::Direction kFarAway{.cut = false, .delay = milliseconds(100), .loss = 0.05};
  DatabaseHosts hosts(Commit::replicated, milliseconds(6000));
  auto& [network, d, numbers] = hosts;
  const std::string leader = d.start_watched(2);
  ASSERT_TRUE(d.wait_for_rows(kSome));
  for (const auto& [node, host] : numbers) network.set(host, kFarAway, kFarAway);
  const auto epoch = d.c.epoch();
  ASSERT_TRUE(d.wait_for_rows(5));
  ASSERT_TRUE(d.c.wait_for("something to be lost on the way",
                           [&] { return network.vanished(numbers[leader]) > 0; }));
  ASSERT_TRUE(d.settle());
  EXPECT_EQ(d.c.epoch(), epoch);
  d.resume();
  ASSERT_TRUE(d.wait_for_rows(3));
  EXPECT_EQ(d.c.ask(leader, "stepdown", {{"app", "db"}}).value("error", ""), "");
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  ASSERT_TRUE(d.wait_for_rows(3));
  d.check();
}

}  // namespace
}  // namespace cluster::e2e
