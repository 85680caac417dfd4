// NATS servers that take smaller messages than usual, or than the one before: databases, snapshots
// and what nodes say of themselves go through all the same.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "e2e/databases.h"
#include "sqlite/handle.h"

namespace cluster::e2e {
namespace {

class SmallPayload : public ::testing::TestWithParam<int> {
 protected:
  SmallPayload() { d.row_bytes = 3'000; }

  void serve(int max_payload) {
    const std::string configuration = "listen: \"127.0.0.1:PORT\"\njetstream { store_dir: \"" +
                                      d.c.path("jetstream") + "\" }\npid_file: \"" +
                                      d.c.path("nats.pid") +
                                      "\"\nmax_payload: " + std::to_string(max_payload) + "\n";
    d.c.use({d.c.start_server(configuration, port_)});
  }
  void kill_server() {
    const pid_t pid = std::atoi(read_file(d.c.path("nats.pid")).c_str());
    ASSERT_GT(pid, 0);
    kill_and_wait(pid);
    std::filesystem::remove(d.c.path("nats.pid"));
  }
  /// One transaction that no message has room for. Half of it can't be compressed.
  void insert_much(const std::string& node) {
    auto db = sqlite::Handle(d.file(node), sqlite::Handle::Access::read_write);
    sqlite::wait_for_locks(db.get(), 60'000);
    db.exec("CREATE TABLE IF NOT EXISTS much(v)");
    db.exec("INSERT INTO much VALUES(randomblob(3000000))");
  }
  void take_snapshot(const std::string& leader) {
    json request{{"v", 1}, {"app", "db"}};
    json answer;
    EXPECT_TRUE(d.c.wait_for("a snapshot", [&] {
      answer = d.c.ask(leader, "snapshot", request);
      request["id"] = answer.value("id", "");
      return answer.contains("snapshot") && answer["snapshot"].is_object();
    })) << answer;
  }

  Databases d{Settings{.servers = 0, .session_timeout = milliseconds(5'000)}};
  const int port_ = free_port();
};

INSTANTIATE_TEST_SUITE_P(Limits, SmallPayload, ::testing::Values(4'096, 8'192, 65'536));

TEST_P(SmallPayload, ADatabaseGoesThroughIt) {
  serve(GetParam());
  const std::string leader = d.start(2);
  ASSERT_TRUE(d.wait_for_rows(20));
  insert_much(leader);
  ASSERT_TRUE(d.hush());
  take_snapshot(leader);
  const json purged =
      d.c.request("$JS.API.STREAM.PURGE." + d.c.platform() + "_db_wal", {{"keep", 1}});
  ASSERT_TRUE(purged.value("success", false)) << purged;
  // It begins with the snapshot.
  d.nodes.push_back("node-3");
  d.restart("node-3");
  ASSERT_TRUE(d.wait_ready("node-3"));
  d.resume();
  ASSERT_TRUE(d.wait_for_rows(20));
  EXPECT_EQ(d.c.command("snapshot restore db --to " + d.c.path("restored.db")).status, 0);
  d.check();
}

class OtherServers : public SmallPayload {};
INSTANTIATE_TEST_SUITE_P(Limits, OtherServers, ::testing::Values(8'192));

TEST_P(OtherServers, WhatTheNextOneTakesIsWhatIsSentToIt) {
  serve(1'000'000);
  const std::string leader = d.start(2);
  ASSERT_TRUE(d.wait_for_rows(20));
  insert_much(leader);
  ASSERT_TRUE(d.settle());
  const auto epoch = d.c.epoch();
  for (const int limit : {GetParam(), 200'000}) {
    ASSERT_NO_FATAL_FAILURE(kill_server());
    serve(limit);
    d.resume();
    ASSERT_TRUE(d.wait_for_rows(20));
    insert_much(leader);
    take_snapshot(leader);
    ASSERT_TRUE(d.settle());
  }
  EXPECT_EQ(d.c.epoch(), epoch) << "the lead is not to be lost over that";
  d.check();
}

}  // namespace
}  // namespace cluster::e2e
