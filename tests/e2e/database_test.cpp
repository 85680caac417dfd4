// A replicated database under faults, with a client that numbers its rows. After each: the copies
// of all nodes are the same bytes, and what was committed is there, or in what was set aside.
#include <filesystem>

#include "e2e/databases.h"
#include "sqlite/set_aside.h"

namespace cluster::e2e {
namespace {

TEST(Database, AStandbyHasWhatTheLeaderCommits) {
  Databases d(kPatient);
  d.start(2);
  ASSERT_TRUE(d.wait_for_rows(100));
  d.check();
}

TEST(Database, TheNextLeaderGoesOnWithItWhenTheLeaderIsKilled) {
  Databases d(kPatient);
  const std::string leader = d.start(3);
  ASSERT_TRUE(d.wait_for_rows(100));
  const auto epoch = d.c.epoch();
  kill_and_wait(d.c.node(leader).pid());
  d.c.wait_leader("db", leader, epoch);
  ASSERT_TRUE(d.wait_for_rows(50));
  d.restart(leader);
  ASSERT_TRUE(d.wait_for_rows(50));
  d.check(Loss::reported);
}

TEST(Database, ALeaderThatWasKilledAndLeadsAgainKeepsAllThatItCommitted) {
  Databases d;
  const std::string leader = d.start(1);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(d.wait_for_rows(50));
    const auto epoch = d.c.epoch();
    kill_and_wait(d.c.node(leader).pid());
    d.restart(leader);
    d.c.wait_leader("db", "", epoch);
  }
  d.check();
  EXPECT_TRUE(sqlite::those_set_aside(d.file(leader)).empty());
}

TEST(Database, AHandOverLosesNothing) {
  Databases d(kPatient);
  const std::string leader = d.start(2);
  ASSERT_TRUE(d.wait_for_rows(100));
  const auto epoch = d.c.epoch();
  EXPECT_EQ(d.c.ask(leader, "stepdown", {{"app", "db"}}).value("error", ""), "");
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  ASSERT_TRUE(d.wait_for_rows(50));
  d.check();
}

// Whoever leads has the database at its path, and whoever follows at the replica's.
TEST(Database, AReplicaMayHaveAFileOfItsOwn) {
  namespace fs = std::filesystem;
  Databases d(kPatient);
  d.separate = true;
  std::string leader = d.start_watched(2);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(d.wait_for_rows(50));
    const auto epoch = d.c.epoch();
    const std::string other = d.nodes.at(leader == d.nodes.front() ? 1 : 0);
    // Who has handed the lead over does not take it for four session timeouts, unless it is named.
    const bool dies = i % 2 != 0;
    if (dies) {
      d.kill_all_of(leader);
    } else {
      const json answer = d.c.ask(leader, "stepdown", {{"app", "db"}, {"target", other}});
      EXPECT_EQ(answer.value("error", ""), "");
    }
    const std::string next = d.c.wait_leader("db", leader, epoch);
    ASSERT_EQ(next, other);
    ASSERT_TRUE(d.wait_for_rows(50));
    if (dies) {
      d.restart(leader);
      // The loss of a node that nobody watches is seen by lease_ttl alone, which takes long.
      ASSERT_TRUE(d.c.wait_watched(d.nodes));
    }
    ASSERT_TRUE(d.wait_ready(leader));
    EXPECT_TRUE(fs::exists(d.file(next)));
    EXPECT_FALSE(fs::exists(d.replica(next)));
    EXPECT_TRUE(fs::exists(d.replica(leader)));
    EXPECT_FALSE(fs::exists(d.file(leader)));
    leader = next;
  }
  d.check(Loss::reported);
}

}  // namespace
}  // namespace cluster::e2e
