// What a leader committed and did not note before it was killed: found when its WAL goes on from
// what was noted, and only then.
#include "sqlite/left_over.h"

#include <optional>

#include "integration/sqlite_fixture.h"
#include "sqlite/capture.h"
#include "sqlite/replica.h"

namespace cluster::sqlite {
namespace {

class LeftOverTest : public SqliteTest {
 protected:
  void SetUp() override {
    db = create("p.db");
    db.exec("INSERT INTO t(v) VALUES('first')");
  }

  // As the node that leads notes it; `leading` false: as one that follows does.
  void note(bool leading = true) {
    Capture capture({.path = path("p.db")}, {}, false);
    const auto captured = capture.write([](std::string_view) {});
    PositionLog log(path("p.db-cluster"));
    log.append(
        {3, 7, 70, captured->hashes.after, captured->header.page_size, captured->end, leading});
  }

  // Two transactions, one of them with many pages.
  void commit_more() {
    db.exec("INSERT INTO t(v) VALUES('second')");
    db.exec(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
        "INSERT INTO t(v) SELECT hex(randomblob(100)) FROM n");
  }

  // Into the database file, and the WAL begins anew with the next transaction.
  void empty_wal() { ASSERT_EQ(db.number("PRAGMA wal_checkpoint(TRUNCATE)"), 0); }

  // The old run stays in the file behind the one transaction of the new run.
  void begin_wal_anew() {
    ASSERT_EQ(db.number("PRAGMA wal_checkpoint(RESTART)"), 0);
    db.exec("INSERT INTO t(v) VALUES('third')");
  }

  std::optional<PositionRecord> position() const {
    PositionLog log(path("p.db-cluster"));
    HashFile hashes(hash_file_path(path("p.db")));
    return Replica(path("p.db"), log, hashes, 1'000'000).position();
  }

  void expect_exactly(Txid txid) const {
    const auto found = position();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->txid, txid);
    EXPECT_FALSE(found->at_least);
  }

  void expect_left_over() const {
    const auto found = position();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->txid, 9U);
    EXPECT_EQ(found->epoch, 3U);
    EXPECT_EQ(found->sequence, 0U);
    EXPECT_FALSE(found->at_least);
    PositionLog log(path("p.db-cluster"));
    EXPECT_EQ(log.sequence_before(found->txid), 70U);
    HashFile hashes(hash_file_path(path("p.db")));
    EXPECT_EQ(Replica(path("p.db"), log, hashes, 1'000'000).position(), found)
        << "it was not noted";
  }

  Handle db;
};

TEST_F(LeftOverTest, IsWhatTheWalHasBehindTheNotedFrame) {
  note();
  commit_more();
  expect_left_over();
}

TEST_F(LeftOverTest, NeedsOnlyTheseOfTheDatabasesPages) {
  db.exec(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
      "INSERT INTO t(v) SELECT hex(randomblob(1000)) FROM n");
  note();
  const auto noted_hash = [&] {
    PositionLog log(path("p.db-cluster"));
    return log.records().back().hash;
  }();
  db.exec("UPDATE t SET v = 'new' WHERE id = 100");
  PositionLog log(path("p.db-cluster"));
  HashFile hashes(hash_file_path(path("p.db")));
  Replica replica(path("p.db"), log, hashes, 1'000'000);
  auto state = replica.state_at(7);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->txid, 7U);
  EXPECT_EQ(state->hash, noted_hash);
  Capture capture({.path = path("p.db"), .numbered = 8}, *state, true);
  const auto captured = capture.write([](std::string_view) {});
  ASSERT_TRUE(captured);
  EXPECT_EQ(captured->header.min_txid, 8U);
  EXPECT_EQ(captured->header.max_txid, 8U);
  EXPECT_EQ(captured->hashes.before, noted_hash);
  EXPECT_EQ(captured->hashes.after, replica.state().pages.database());
  EXPECT_GE(captured->pages, 1U);
  EXPECT_LE(captured->pages, 4U) << "of " << replica.state().pages.size();
  EXPECT_FALSE(replica.state_at(6));
}

TEST_F(LeftOverTest, IsFoundWhenItIsPartlyInTheDatabaseFile) {
  note();
  commit_more();
  db.exec("PRAGMA wal_checkpoint(PASSIVE)");
  expect_left_over();
}

TEST_F(LeftOverTest, IsAllOfAWalThatWasBegunBehindWhatWasNoted) {
  note();
  empty_wal();
  commit_more();
  expect_left_over();
}

TEST_F(LeftOverTest, IsAllOfAWalThatWasEmptyWhenItWasNoted) {
  empty_wal();
  note();
  commit_more();
  expect_left_over();
}

// As long as the new run has not overwritten the old one's end: of a leader's program that goes on
// for a moment after its node was killed.
TEST_F(LeftOverTest, IsInTheOldRunAndTheNewOneWhenTheWalWasBegunAnewSince) {
  db.exec("INSERT INTO t(v) VALUES(hex(randomblob(30000)))");
  note();
  commit_more();
  begin_wal_anew();
  expect_exactly(10U);
  PositionLog log(path("p.db-cluster"));
  HashFile hashes(hash_file_path(path("p.db")));
  EXPECT_TRUE(Replica(path("p.db"), log, hashes, 1'000'000).state_at(7));
}

// SQLite cuts the file as it begins the run anew: what is left is not all.
TEST_F(LeftOverTest, IsNotTakenForAllWhenTheWalWasCutShort) {
  db.exec("PRAGMA journal_size_limit=100000; INSERT INTO t(v) VALUES(hex(randomblob(10000)))");
  note();
  for (int i = 0; i < 40; ++i) db.exec("INSERT INTO t(v) VALUES(hex(randomblob(2000)))");
  begin_wal_anew();
  ASSERT_LE(std::filesystem::file_size(path("p.db-wal")), 100'000U);
  const auto found = position();
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->at_least);
  EXPECT_LE(found->txid, 7U + 41U);
  PositionLog log(path("p.db-cluster"));
  HashFile hashes(hash_file_path(path("p.db")));
  EXPECT_FALSE(Replica(path("p.db"), log, hashes, 1'000'000).state_at(7));
}

// What is left of the old run is not taken for more than was committed.
TEST_F(LeftOverTest, IsNoTransactionThatWasRolledBack) {
  db.exec("INSERT INTO t(v) VALUES(hex(randomblob(30000)))");
  note();
  db.exec("INSERT INTO t(v) VALUES('second')");
  // More than fits the cache, so that it is written before it is rolled back.
  db.exec("PRAGMA cache_size=5; BEGIN; INSERT INTO t(v) VALUES(hex(randomblob(300000))); ROLLBACK");
  begin_wal_anew();
  expect_exactly(9U);
}

// The last record is one that was written again when JetStream had its transaction.
TEST_F(LeftOverTest, IsCountedFromTheNewestThatItsLeadNoted) {
  db.exec("INSERT INTO t(v) VALUES(hex(randomblob(30000)))");
  note();
  {
    PositionLog log(path("p.db-cluster"));
    PositionRecord earlier = log.records().back();
    earlier.txid = 5;
    earlier.end.frame = 1;
    earlier.sequence = 50;
    earlier.hash = 1;
    log.append(earlier);
  }
  commit_more();
  begin_wal_anew();
  expect_exactly(10U);
}

TEST_F(LeftOverTest, IsKnownThoughNotInFullWhenTheNewWalHasOverwrittenTheOldOne) {
  note();
  commit_more();
  empty_wal();
  db.exec("INSERT INTO t(v) VALUES('third')");
  const auto found = position();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->txid, 8U) << "no more of them is to be seen";
  EXPECT_TRUE(found->at_least);
  PositionLog log(path("p.db-cluster"));
  HashFile hashes(hash_file_path(path("p.db")));
  EXPECT_FALSE(Replica(path("p.db"), log, hashes, 1'000'000).state_at(7));
}

TEST_F(LeftOverTest, IsNotKnownWithoutAWalThatGoesOn) {
  note();
  commit_more();
  empty_wal();
  db.close();
  db = Handle(path("p.db"), Handle::Access::read_write);
  db.exec("INSERT INTO t(v) VALUES('third')");
  EXPECT_FALSE(position());
}

TEST_F(LeftOverTest, IsNotWhatSomebodyWroteIntoAReplica) {
  note(false);
  commit_more();
  EXPECT_FALSE(position());
}

TEST_F(LeftOverTest, IsNotInADatabaseThatAnotherOneReplaced) {
  note();
  db.close();
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path("p.db") + suffix);
  db = create("p.db");
  db.exec("INSERT INTO t(v) VALUES('other')");
  commit_more();
  EXPECT_FALSE(position());
}

}  // namespace
}  // namespace cluster::sqlite
