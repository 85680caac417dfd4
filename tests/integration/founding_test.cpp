// Who begins the history of a database while its stream is empty: docs/replication.md, "Who
// founds". Nodes of a platform against a real server, and the command with which a person decides.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "built.h"
#include "cluster/cluster.h"
#include "integration/platform_fixture.h"
#include "integration/program.h"
#include "sqlite/handle.h"
#include "sqlite/set_aside.h"

namespace cluster {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using sqlite::Handle;
using testing::DatabaseNode;
using testing::eventually;
using testing::kSoon;
using testing::Outcome;
using testing::Program;

/// For how long nodes wait that start while this lives.
class Waiting {
 public:
  explicit Waiting(const char* time) { ::setenv(kVariable, time, 1); }
  ~Waiting() { ::setenv(kVariable, "0s", 1); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  static constexpr const char* kVariable = "CPP_CLUSTER_FOUNDING_WAIT";
};

/// Nobody founds in a test that is over before.
constexpr const char* kLonger = "1h";

class FoundingTest : public ::testing::Test {
 protected:
  std::string file(const std::string& node) const { return folder / (node + ".db"); }
  /// A database at the place of a node's, with one row.
  void make(const std::string& node, int value) const {
    Handle db(file(node), Handle::Access::create);
    db.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(v); INSERT INTO t VALUES(" +
            std::to_string(value) + ")");
  }
  void make_garbage(const std::string& node) const {
    std::ofstream(file(node)) << std::string(10'000, 'x');
  }
  std::unique_ptr<DatabaseNode> start(const std::string& name) const {
    auto node = std::make_unique<DatabaseNode>(servers, folder.path(), name);
    node->run();
    return node;
  }
  static json database(const DatabaseNode& node) {
    const json status = json::parse(testing::status_of(*node.platform), nullptr, false);
    if (!status.is_object() || !status["apps"].is_array() || status["apps"].empty()) return {};
    return status["apps"][0].value("database", json());
  }
  static std::string text(const DatabaseNode& node, const char* key) {
    const json its = database(node);
    return its.is_object() ? its.value(key, "") : "";
  }
  /// It says so in its status, under TROUBLE.
  static bool says(const DatabaseNode& node, const std::string& what) {
    return eventually([&] { return text(node, "trouble").find(what) != std::string::npos; });
  }
  static bool leads(const DatabaseNode& node) {
    return node.app->election().wait_for_leadership(kSoon) &&
           eventually([&] { return rows(node) >= 0; });
  }
  /// -1: it has no table.
  static std::int64_t rows(const DatabaseNode& node, const std::string& sum = "count(*)") {
    try {
      return Handle(node.path, Handle::Access::read_only).number("SELECT " + sum + " FROM t");
    } catch (const Error&) {
      return -1;
    }
  }
  static bool has(const DatabaseNode& node, std::int64_t sum) {
    return eventually([&] { return rows(node, "sum(v)") == sum; });
  }
  /// Databases in quarantine: what their names have behind the database's.
  static std::vector<std::string> kept(const DatabaseNode& node) {
    std::vector<std::string> names;
    for (const auto& path : sqlite::those_set_aside(node.path))
      names.push_back(path.substr(node.path.size()));
    return names;
  }
  /// None of them leads, nor is about to.
  static bool nobody_leads(const std::vector<const DatabaseNode*>& nodes) {
    return std::all_of(nodes.begin(), nodes.end(), [](const DatabaseNode* node) {
      const json its = database(*node);
      return its.is_object() && !its.value("ready", true) && !node->app->election().is_leader();
    });
  }

  Outcome run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"db"});
    Program program(folder, std::move(arguments), {"NATS_URL=" + servers.urls()[0]});
    EXPECT_TRUE(eventually([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }
  void found(std::vector<std::string> whom) const {
    whom.insert(whom.begin(), {"found", "db", "--yes"});
    const Outcome outcome = run(whom);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
  }
  void delete_stream() const {
    Loop loop;
    nats::Connection connection(loop, servers.options());
    nats::JetStream jetstream(connection, kSoon);
    ASSERT_TRUE(testing::connect(connection));
    testing::must(loop, [&](auto done) { jetstream.delete_stream("test_db_wal", done); });
  }

  testing::TemporaryFolder folder;
  testing::NatsServers servers;
};

TEST_F(FoundingTest, OneOfTwoThatHoldTheSameFoundsAndTheOtherFollows) {
  make("node-1", 7);
  Handle(file("node-1"), Handle::Access::read_write).number("PRAGMA wal_checkpoint(TRUNCATE)");
  fs::copy_file(file("node-1"), file("node-2"));
  const auto first = start("node-1"), second = start("node-2");
  ASSERT_TRUE(eventually(
      [&] { return first->app->election().is_leader() || second->app->election().is_leader(); }));
  const bool one = first->app->election().is_leader();
  const DatabaseNode& leader = one ? *first : *second;
  const DatabaseNode& standby = one ? *second : *first;
  ASSERT_TRUE(leads(leader));
  leader.database().open().exec("INSERT INTO t VALUES(1)");
  EXPECT_TRUE(has(standby, 8));
  EXPECT_TRUE(eventually([&] { return text(standby, "copy") == "following"; }));
  EXPECT_EQ(text(standby, "trouble"), "");
}

TEST_F(FoundingTest, NobodyLeadsWhileTwoHoldDifferentDatabasesUntilAPersonDecides) {
  make("node-1", 1);
  make("node-2", 2);
  const Waiting wait(kLonger);
  const auto first = start("node-1"), second = start("node-2");
  EXPECT_TRUE(says(*first, "nodes hold different databases"));
  EXPECT_TRUE(says(*first, "node-2 has a database that belongs to no known history"));
  EXPECT_TRUE(says(*second, "node-1 has a database that belongs to no known history"));
  EXPECT_TRUE(says(*second, "cpp-cluster db found db --node NODE"));
  EXPECT_EQ(text(*first, "copy"), "founding");
  EXPECT_TRUE(nobody_leads({first.get(), second.get()}));
  const Outcome shown = run({"status"});
  EXPECT_NE(shown.out.find("nodes hold different databases"), std::string::npos) << shown.out;

  found({"--node", "node-2"});
  ASSERT_TRUE(leads(*second));
  second->database().open().exec("INSERT INTO t VALUES(3)");
  EXPECT_TRUE(says(*first, "was never replicated"));
  EXPECT_EQ(rows(*first, "sum(v)"), 1) << "it is kept as it is";
}

TEST_F(FoundingTest, AHolderThatStartsLaterThanAnEmptyNodeFounds) {
  make("node-2", 7);
  std::unique_ptr<DatabaseNode> empty;
  {
    const Waiting wait(kLonger);
    empty = start("node-1");
    ASSERT_TRUE(says(*empty, "waits some seconds for nodes that hold a database"));
  }
  EXPECT_TRUE(nobody_leads({empty.get()}));
  const auto holder = start("node-2");
  ASSERT_TRUE(leads(*holder));
  EXPECT_TRUE(has(*empty, 7));
}

TEST_F(FoundingTest, AnEmptyNodeWaitsForAHolderThatIsDown) {
  make("node-2", 7);
  {
    const Waiting wait(kLonger);
    const auto holder = start("node-2");
    ASSERT_TRUE(says(*holder, "waits some seconds"));
    holder->stop();
  }
  const auto empty = start("node-1");
  EXPECT_TRUE(says(*empty, "node-2 (which is down) has a database"));
  EXPECT_TRUE(nobody_leads({empty.get()}));
  const auto holder = start("node-2");
  ASSERT_TRUE(leads(*holder));
  EXPECT_TRUE(has(*empty, 7));
}

TEST_F(FoundingTest, WithoutADatabaseAnAppBeginsWhenAPersonSaysSo) {
  make("node-2", 7);
  {
    const Waiting wait(kLonger);
    const auto holder = start("node-2");
    ASSERT_TRUE(says(*holder, "waits some seconds"));
    holder->stop();
  }
  const auto empty = start("node-1");
  ASSERT_TRUE(says(*empty, "node-2 (which is down) has a database"));
  found({"--empty"});
  ASSERT_TRUE(eventually([&] { return empty->app->election().is_leader(); }));
  ASSERT_TRUE(empty->app->election().wait_for_leadership(kSoon));
  empty->database().open().exec("CREATE TABLE t(v); INSERT INTO t VALUES(1)");
  const auto holder = start("node-2");
  EXPECT_TRUE(says(*holder, "was never replicated"));
  EXPECT_EQ(rows(*holder, "sum(v)"), 7) << "it is kept as it is";
}

TEST_F(FoundingTest, AFileThatCantBeTakenKeepsAllFromLeadingUntilItIsGone) {
  make_garbage("node-1");
  const auto first = start("node-1");
  EXPECT_TRUE(says(*first, "The stream is empty, and nobody leads until this file is mended"));
  const auto second = start("node-2");
  EXPECT_TRUE(says(*second, "node-1 has a file that can't be taken"));
  EXPECT_TRUE(nobody_leads({first.get(), second.get()}));
  EXPECT_EQ(fs::file_size(file("node-1")), 10'000U);
  fs::remove(file("node-1"));
  EXPECT_TRUE(eventually(
      [&] { return first->app->election().is_leader() || second->app->election().is_leader(); }));
}

TEST_F(FoundingTest, AFileThatCantBeTakenIsKeptWhenAPersonLetsTheAppBeginWithoutOne) {
  make_garbage("node-1");
  const auto first = start("node-1"), second = start("node-2");
  ASSERT_TRUE(says(*second, "node-1 has a file that can't be taken"));
  const Outcome refused = run({"found", "db", "--node", "node-1", "--yes"});
  EXPECT_EQ(refused.status, 1) << refused.err;
  EXPECT_NE(refused.err.find("can't be taken"), std::string::npos) << refused.err;
  found({"--empty"});
  ASSERT_TRUE(second->app->election().wait_for_leadership(kSoon));
  second->database().open().exec("CREATE TABLE t(v)");
  EXPECT_EQ(fs::file_size(file("node-1")), 10'000U);
  EXPECT_TRUE(says(*first, "was never replicated"));
}

class DeletedStream : public FoundingTest {
 protected:
  /// Both have followed one history, node-1 further; then they ended, and the stream was deleted.
  void SetUp() override {
    const auto first = start("node-1");
    ASSERT_TRUE(first->app->election().wait_for_leadership(kSoon));
    first->database().open().exec("CREATE TABLE t(v); INSERT INTO t VALUES(1)");
    const auto second = start("node-2");
    ASSERT_TRUE(has(*second, 1));
    second->stop();
    first->database().open().exec("INSERT INTO t VALUES(10)");
    first->database().sync(kSoon);
    first->stop();
    ASSERT_NO_FATAL_FAILURE(delete_stream());
  }
};

TEST_F(DeletedStream, IsBegunByWhoeverHasTheMostOfItsHistory) {
  const auto second = start("node-2");
  EXPECT_TRUE(says(*second, "node-1 (which is down) has a copy at transaction"));
  EXPECT_TRUE(says(*second, "this node only a copy at transaction"));
  EXPECT_TRUE(nobody_leads({second.get()}));
  const auto first = start("node-1");
  ASSERT_TRUE(leads(*first));
  EXPECT_TRUE(has(*second, 11));
}

TEST_F(DeletedStream, IsBegunByWhoeverIsThereWhenAPersonSaysSo) {
  const auto second = start("node-2");
  ASSERT_TRUE(says(*second, "node-1 (which is down)"));
  found({"--node", "node-2"});
  ASSERT_TRUE(leads(*second));
  EXPECT_EQ(rows(*second, "sum(v)"), 1);
  const auto first = start("node-1");
  EXPECT_TRUE(has(*first, 1));
  EXPECT_EQ(kept(*first), std::vector<std::string>{".diverged-1"});
}

TEST_F(DeletedStream, IsBegunWithoutADatabaseWhenAPersonSaysSo) {
  const auto second = start("node-2");
  ASSERT_TRUE(says(*second, "node-1 (which is down)"));
  found({"--empty"});
  ASSERT_TRUE(second->app->election().wait_for_leadership(kSoon));
  EXPECT_EQ(rows(*second), -1);
  EXPECT_EQ(kept(*second), std::vector<std::string>{".diverged-1"});
}

TEST_F(FoundingTest, TheCommandDecidesNothingWhereThereIsNothingToDecide) {
  make("node-2", 7);
  std::unique_ptr<DatabaseNode> empty, holder;
  {
    const Waiting wait(kLonger);
    empty = start("node-1");
    holder = start("node-2");
    ASSERT_TRUE(says(*empty, "node-2 has a database"));
    ASSERT_TRUE(says(*holder, "waits some seconds"));
  }
  const auto expect = [&](std::vector<std::string> arguments, int status, const std::string& why) {
    arguments.insert(arguments.begin(), "found");
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
  };
  expect({"db", "--yes"}, 2, "--node, or say --empty");
  expect({"db", "--node", "node-2", "--empty", "--yes"}, 2, "--node, or say --empty");
  expect({"db", "--node", "node-2"}, 2, "--yes");
  expect({"other", "--empty", "--yes"}, 4, "no database of an app");
  expect({"db", "--node", "node-22", "--yes"}, 4, "did you mean \"node-2\"");
  expect({"db", "--node", "node-1", "--yes"}, 1, "has no database: --empty");
  EXPECT_TRUE(nobody_leads({empty.get(), holder.get()}));
  found({"--node", "node-2"});
  ASSERT_TRUE(leads(*holder));
  holder->database().open().exec("INSERT INTO t VALUES(1)");
  ASSERT_TRUE(has(*empty, 8));
  expect({"db", "--empty", "--yes"}, 1, "is not empty");
}

}  // namespace
}  // namespace cluster
