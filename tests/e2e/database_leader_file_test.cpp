// The database file of the node that leads is removed, or another put in its place, while programs
// have it open: what docs/replication.md says of that ("What is lost when", "Recovery").
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "built.h"
#include "e2e/databases.h"
#include "sqlite/handle.h"

namespace cluster::e2e {
namespace {

namespace fs = std::filesystem;
using sqlite::Handle;

constexpr std::size_t kRowsFirst = 50;  // rows

class DatabaseLeaderFile : public ByCommit {
 protected:
  DatabaseLeaderFile() { d.commit = GetParam(); }

  void start() {
    leader = d.start_watched(2);
    standby = d.c.other_nodes(leader).front();
    ASSERT_TRUE(d.wait_for_rows(kRowsFirst));
  }
  std::string trouble() { return d.status(leader).value("trouble", ""); }
  testing::AssertionResult wait_until_stored() {
    return d.c.wait_for("all to be stored", [&] {
      const json now = d.status(leader);
      return now.value("lag", json::object()).value("transactions", 1ULL) == 0;
    });
  }
  static bool has_mark(const std::string& path) {
    Handle db = open_to_read(path);
    return db.number("SELECT count(*) FROM sqlite_master WHERE name = 'mark'") == 1;
  }
  void hand_over() {
    const auto epoch = d.c.epoch();
    EXPECT_EQ(d.c.ask(leader, "stepdown", {{"app", "db"}}).value("error", ""), "");
    EXPECT_EQ(d.c.wait_leader("db", leader, epoch), standby);
    ASSERT_TRUE(d.wait_for_rows(kRowsFirst));
    ASSERT_TRUE(d.wait_ready(leader));
  }

  Databases d{kPatient};
  std::string leader, standby;
};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseLeaderFile, both_commits(), commit_name);

TEST_P(DatabaseLeaderFile, WhenItIsRemovedAHandOverMendsThat) {
  start();
  fs::remove(d.file(leader));
  ASSERT_TRUE(d.c.wait_for("the leader to say so", [&] {
    return trouble().find("was removed while this node leads") != std::string::npos;
  }));
  EXPECT_TRUE(d.c.wait_logged(leader, {" database_degraded "}));
  if (replicated()) {
    ASSERT_TRUE(d.c.wait_for("commits to fail", [&] { return !d.logged("unsure").empty(); }));
  } else {
    // The removed file is followed.
    ASSERT_TRUE(d.wait_for_rows(kRowsFirst));
    ASSERT_TRUE(d.hush());
    ASSERT_TRUE(wait_until_stored());
    d.resume();
  }
  hand_over();
  EXPECT_TRUE(fs::exists(d.file(leader))) << "it has its copy anew";
  d.check(allowed());
}

// A copy is moved into its place, as some editors and backup programs do.
TEST_P(DatabaseLeaderFile, WhenACopyIsPutInItsPlaceAHandOverMendsThat) {
  start();
  ASSERT_TRUE(d.hush());
  ASSERT_TRUE(wait_until_stored());
  const std::string other = d.folder(leader) + "/other.db";
  fs::copy_file(d.file(leader), other);
  fs::rename(other, d.file(leader));
  ASSERT_TRUE(d.c.wait_logged(leader, {" database_replaced "}));
  d.resume();
  hand_over();
  d.check(allowed());
}

// `cp` over it: the file stays the same, and what its WAL has no longer goes with what it holds.
TEST_P(DatabaseLeaderFile, WhenACopyIsWrittenOverItASoundCopyLeads) {
  start();
  const std::string other = d.folder(leader) + "/other.db";
  const auto checkpoint = [this] {
    Handle db(d.file(leader), Handle::Access::read_write);
    sqlite::wait_for_locks(db.get(), 60'000 * slowness());
    db.exec("PRAGMA wal_checkpoint(PASSIVE)");
  };
  checkpoint();
  fs::copy_file(d.file(leader), other);
  ASSERT_TRUE(d.wait_for_rows(2 * kRowsFirst));
  // A checkpoint in the same instant would hide it on a machine that is too slow to look in
  // between.
  ASSERT_TRUE(d.hush());
  ASSERT_TRUE(wait_until_stored());
  // What is in the WAL alone would not be lost by it.
  ASSERT_TRUE(d.c.wait_for("what came since to get into the file", [&] {
    checkpoint();
    return read_file(d.file(leader)) != read_file(other);
  }));
  const auto epoch = d.c.epoch();
  // Not fs::copy_file(): it might put another file there.
  ASSERT_EQ(std::system(("cat '" + other + "' > '" + d.file(leader) + "'").c_str()), 0);
  ASSERT_TRUE(d.c.wait_logged(leader, {" database_lost ", "does not use SQLite"}));
  EXPECT_EQ(d.c.wait_leader("db", leader, epoch), standby);
  d.resume();
  ASSERT_TRUE(d.wait_for_rows(kRowsFirst));
  ASSERT_TRUE(d.wait_ready(leader));
  // It has pages of two times.
  d.spoilt = true;
  d.check(allowed());
}

// The worst: a program that makes its tables where it finds none.
TEST_P(DatabaseLeaderFile, AnEmptyOneInItsPlaceIsReplicatedAndASnapshotTakesItBack) {
  start();
  ASSERT_TRUE(d.hush());
  {
    Handle other(d.file(leader), Handle::Access::read_write);
    sqlite::wait_for_locks(other.get(), 60'000 * slowness());
    other.exec("CREATE TABLE mark(a)");
  }
  ASSERT_TRUE(d.c.wait_for("that to be seen", [&] { return has_mark(d.file(standby)); }));
  ASSERT_TRUE(wait_until_stored());
  const auto before = Databases::rows_of(d.file(leader));
  const auto txid = d.status(leader).value("txid", 0ULL);
  fs::remove(d.file(leader));
  for (const char* suffix : {"-wal", "-shm"}) fs::remove(d.file(leader) + suffix);
  kill_and_wait(d.c.backend_pid(leader));
  d.resume();
  ASSERT_TRUE(d.c.wait_logged(leader, {" database_replaced "}));
  ASSERT_TRUE(d.c.wait_for("rows in it", [&] {
    return fs::exists(d.file(leader)) && d.status(leader).value("txid", 0ULL) > txid + 10 &&
           trouble().empty();
  }));
  d.check_copies();
  EXPECT_FALSE(has_mark(d.file(standby))) << "what was there is gone, as on the leader";
  const std::string back = d.c.path("back.db");
  const std::string command = std::string("'") + built::kProgram + "' snapshot restore db --to '" +
                              back + "' --txid " + std::to_string(txid) + " --nats " +
                              d.c.urls().front() + " --platform " + d.c.platform();
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  EXPECT_EQ(Databases::rows_of(back), before);
  EXPECT_TRUE(has_mark(back));
}

}  // namespace
}  // namespace cluster::e2e
