// cpp-cluster snapshot as a command, against two nodes and a real server: what it prints, what it
// ends with (docs/commands.md), and what is there then.
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "built.h"
#include "cluster/cluster.h"
#include "integration/platform_fixture.h"
#include "integration/program.h"
#include "nats/stored_message.h"
#include "sqlite/handle.h"

namespace cluster {
namespace {

using nlohmann::json;
using sqlite::Handle;
using testing::DatabaseNode;
using testing::eventually;
using testing::kSoon;
using testing::Outcome;
using testing::Program;

class SnapshotCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access(built::kProgram, X_OK) != 0) GTEST_SKIP() << built::kProgram << " is not built";
    // The lead is to last, also when the machine stands still for a second or two.
    const auto patience = testing::patience() + std::chrono::milliseconds(1'500);
    first.emplace(servers, folder.path(), "node-1", Sqlite{}, patience);
    first->run();
    ASSERT_TRUE(first->app->election().wait_for_leadership(kSoon));
    second.emplace(servers, folder.path(), "node-2", Sqlite{}, patience);
    second->run();
    ASSERT_TRUE(eventually([&] { return first->platform->members().size() == 2; }));
    {
      auto db = first->database().open();
      db.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    }
    // It has a copy, and with it the lock of the database's path, some time after its session.
    const auto position = first->database().sync(kSoon);
    ASSERT_TRUE(eventually([&] {
      return testing::errc_of([&] { second->database().wait_for(position, kSoon); }) == Errc{};
    }));
  }

  Outcome run(std::vector<std::string> arguments,
              Program::Errors errors = Program::Errors::to_file) {
    arguments.insert(arguments.begin(), "snapshot");
    Program program(folder, std::move(arguments), {"NATS_URL=" + servers.urls()[0]}, errors);
    EXPECT_TRUE(eventually([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }
  json run_json(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--output", "json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    json out = json::parse(outcome.out, nullptr, false);
    EXPECT_EQ(out["v"], 1) << outcome.out;
    EXPECT_EQ(out["app"], "db");
    return out;
  }
  /// Returns the transaction behind it, which JetStream has.
  std::uint64_t insert(int rows) {
    auto db = first->database().open();
    for (int i = 0; i < rows; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(100))");
    return first->database().sync(kSoon).txid;
  }
  std::uint64_t create() { return run_json({"create", "db"})["snapshot"]["txid"]; }
  std::string file(const std::string& name) const { return folder / name; }
  std::int64_t rows(const std::string& name) const {
    return Handle(file(name), Handle::Access::read_only).number("SELECT count(*) FROM t");
  }

  testing::TemporaryFolder folder;
  testing::NatsServers servers;
  std::optional<DatabaseNode> first, second;
};

TEST_F(SnapshotCommands, CreateHasTheLeaderTakeOneAndListShowsIt) {
  const auto txid = insert(3);
  const json made = run_json({"create", "db"});
  EXPECT_EQ(made["node"], "node-1");
  EXPECT_EQ(made["snapshot"]["txid"], txid);
  EXPECT_EQ(made["snapshot"]["epoch"], 1);
  const Outcome again = run({"create", "db"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_TRUE(again.out.starts_with("db: snapshot at transaction " + std::to_string(txid) + " ("))
      << again.out;

  const json listed = run_json({"list", "db"});
  ASSERT_FALSE(listed["snapshots"].empty());
  const json& newest = listed["snapshots"].back();
  for (const char* key : {"object", "txid", "epoch", "sequence", "time", "bytes"})
    EXPECT_EQ(newest[key], made["snapshot"][key]) << key;
  EXPECT_EQ(newest["level"], 9);
  EXPECT_GE(listed["stream"]["last"], newest["sequence"]);
  const Outcome table = run({"list", "db"});
  EXPECT_NE(table.out.find(newest["object"].get<std::string>()), std::string::npos) << table.out;
}

TEST_F(SnapshotCommands, RestoreGoesBackToATransactionAndToATime) {
  std::vector<std::uint64_t> txids{insert(3)};
  create();
  // What is gathered counts as one transaction.
  for (int i = 0; i < 4; ++i) txids.push_back(insert(1));
  const auto newest = txids.back();
  const auto restored = run_json({"restore", "db", "--to", file("newest.db")});
  EXPECT_EQ(restored["txid"], newest);
  EXPECT_EQ(restored["epoch"], 1);
  EXPECT_EQ(restored["exact"], true);
  EXPECT_EQ(restored["path"], file("newest.db"));
  EXPECT_EQ(restored["bytes"], std::filesystem::file_size(file("newest.db")));
  EXPECT_EQ(restored["passed_over"], json::array());
  EXPECT_EQ(rows("newest.db"), 7);

  // Behind the snapshot, from the stream.
  for (std::size_t i = 0; i < txids.size(); ++i) {
    const std::string name = "at" + std::to_string(i) + ".db", txid = std::to_string(txids[i]);
    const Outcome at = run({"restore", "db", "--to", file(name), "--txid", txid});
    EXPECT_EQ(at.status, 0) << at.err;
    EXPECT_NE(at.out.find("at transaction " + txid), std::string::npos) << at.out;
    EXPECT_EQ(rows(name), 3 + static_cast<int>(i));
  }
  // What JetStream says of the time of the last one, and a moment before.
  const std::string time = restored["time"];
  const auto ns = nats::time_ns_from(time);
  ASSERT_TRUE(ns) << time;
  EXPECT_EQ(run_json({"restore", "db", "--to", file("then.db"), "--time", time})["txid"], newest);
  const std::string before = nats::rfc3339_from(*ns - 1'000'000);
  EXPECT_LT(run_json({"restore", "db", "--to", file("before.db"), "--time", before})["txid"],
            newest);
  const Outcome later =
      run({"restore", "db", "--to", file("later.db"), "--txid", std::to_string(newest + 1)});
  EXPECT_EQ(later.status, 0);
  EXPECT_NE(later.err.find("is not kept as such"), std::string::npos) << later.err;
}

TEST_F(SnapshotCommands, RestoreReplacesAFileOnlyWithForceAndNeverOneInUse) {
  insert(3);
  create();
  ASSERT_EQ(run({"restore", "db", "--to", file("r.db")}).status, 0);
  insert(1);
  const Outcome refused = run({"restore", "db", "--to", file("r.db")});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("--force"), std::string::npos) << refused.err;
  EXPECT_EQ(rows("r.db"), 3) << "it is as it was";
  {
    Handle user(file("r.db"), Handle::Access::read_write);
    EXPECT_EQ(user.number("SELECT count(*) FROM t"), 3);
    EXPECT_EQ(run({"restore", "db", "--to", file("r.db"), "--force"}).status, 1);
    EXPECT_EQ(user.number("SELECT count(*) FROM t"), 3);
  }
  EXPECT_EQ(run({"restore", "db", "--to", file("r.db"), "--force"}).status, 0);
  EXPECT_EQ(rows("r.db"), 4);
  for (const auto& node : {&*first, &*second})
    EXPECT_EQ(run({"restore", "db", "--to", node->path, "--force"}).status, 1) << "a node uses it";
}

TEST_F(SnapshotCommands, WhatIsNotThereEndsWithFourAndWhatIsNoMomentWithTwo) {
  insert(1);
  const auto txid = create();
  const std::vector<std::vector<std::string>> unknown{
      {"create", "dbs"},
      {"list", "dbs"},
      {"restore", "dbs", "--to", file("r.db")},
      {"delete", "dbs", "--txid", std::to_string(txid)}};
  for (const auto& arguments : unknown) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 4) << arguments[0];
    EXPECT_NE(outcome.err.find("did you mean \"db\"?"), std::string::npos) << outcome.err;
  }
  const Outcome early =
      run({"restore", "db", "--to", file("r.db"), "--time", "2001-02-03T04:05:06Z"});
  EXPECT_EQ(early.status, 4);
  EXPECT_NE(early.err.find("the oldest snapshot is of transaction"), std::string::npos)
      << early.err;
  EXPECT_EQ(run({"restore", "db", "--to", file("r.db"), "--time", "yesterday"}).status, 2);
  EXPECT_EQ(run({"restore", "db", "--to", file("r.db"), "--txid", "0"}).status, 2);
  EXPECT_EQ(
      run({"restore", "db", "--to", file("r.db"), "--txid", "1", "--time", "2001-02-03T04:05:06Z"})
          .status,
      2);
  EXPECT_EQ(run({"restore", "db"}).status, 2);
  EXPECT_EQ(run({"delete", "db"}).status, 2);
  EXPECT_FALSE(std::filesystem::exists(file("r.db")));
}

TEST_F(SnapshotCommands, DeleteKeepsTheNewestUnlessItIsForced) {
  insert(1);
  const auto older = std::to_string(create());
  insert(1);
  const auto newest = std::to_string(create());
  const Outcome refused = run({"delete", "db", "--txid", newest});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("--force"), std::string::npos) << refused.err;
  EXPECT_EQ(run_json({"delete", "db", "--txid", older})["removed"]["txid"], std::stoull(older));
  EXPECT_EQ(run({"delete", "db", "--txid", older}).status, 4);
  const json listed = run_json({"list", "db"});
  ASSERT_FALSE(listed["snapshots"].empty());
  EXPECT_EQ(listed["snapshots"].back()["txid"], std::stoull(newest));
  const Outcome forced = run({"delete", "db", "--txid", newest, "--force"});
  EXPECT_EQ(forced.status, 0) << forced.err;
  EXPECT_EQ(forced.out, "db: removed the snapshot at transaction " + newest + "\n");
  const json rest = run_json({"list", "db"});
  for (const json& left : rest["snapshots"]) EXPECT_LT(left["txid"], std::stoull(older));
}

TEST_F(SnapshotCommands, WithoutNodesNoneIsTakenAndAllIsRestored) {
  insert(3);
  create();
  insert(2);
  second->stop();
  first->stop();
  const Outcome nobody = run({"create", "db"});
  EXPECT_EQ(nobody.status, 5);
  EXPECT_NE(nobody.err.find("nobody leads db"), std::string::npos) << nobody.err;
  EXPECT_EQ(run({"restore", "db", "--to", file("r.db")}).status, 0);
  EXPECT_EQ(rows("r.db"), 5);
}

TEST_F(SnapshotCommands, ATerminalIsToldEachPhaseOfARestore) {
  insert(1);
  create();
  insert(1);
  const Outcome outcome =
      run({"restore", "db", "--to", file("r.db")}, Program::Errors::to_terminal);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::size_t at = 0;
  for (const char* phase :
       {"restoring db ", "replaying the stream of db ", "running integrity_check on db …"}) {
    at = outcome.err.find(phase, at);
    ASSERT_NE(at, std::string::npos) << phase << " in " << outcome.err;
  }
  EXPECT_TRUE(outcome.err.ends_with("\r\033[K")) << "and it is gone at the end";
}

}  // namespace
}  // namespace cluster
