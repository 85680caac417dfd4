// A program that makes its database while its node leads: it goes on as it would without the node.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "integration/snapshot_fixture.h"
#include "sqlite/first_pause.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

class FirstStart : public SnapshotFixture {
 protected:
  /// What the program's own connections say, which wait for no lock.
  Handle program() { return Handle(path("p.db"), Handle::Access::create); }
  std::string header_mode() {
    return bytes_of(path("p.db")).substr(18, 2) == "\2\2" ? "wal" : "rollback";
  }
  bool is_followed(Lead& lead) {
    return loop.run_until([&] { return lead.primary->status().committed > 0; }, testing::kSoon);
  }
  /// All that the program has committed is in the stream.
  void expect_replicated(Lead& lead) {
    auto keeper = keep(lead, keeper_options());
    create_snapshot(*keeper);
    keeper.reset();
    restore("restored.db");
    lead.primary.reset();
    EXPECT_TRUE(settled("restored.db") == settled("p.db"));
  }
};

// Many programs look whether there is a file, to see whether they must set themselves up.
TEST_F(FirstStart, NoFileIsThereBeforeTheProgramMakesOne) {
  Lead lead(*this, "p.db", 1);
  EXPECT_EQ(lead.sync(), 0U);
  EXPECT_FALSE(there("p.db"));
  EXPECT_FALSE(there("p.db-wal"));
}

TEST_F(FirstStart, AProgramThatWaitsForNoLockIsNeverToldThatItIsLocked) {
  Lead lead(*this, "p.db", 1);
  constexpr int kTables = 300;
  std::string failure;
  blocking([&] {
    Handle db = program();
    try {
      for (int i = 0; i < kTables; ++i) db.exec("CREATE TABLE t" + std::to_string(i) + "(v)");
    } catch (const Error& error) {
      failure = error.what();
    }
    return true;
  });
  EXPECT_EQ(failure, "");
  ASSERT_TRUE(is_followed(lead));
  EXPECT_EQ(header_mode(), "wal");
  lead.sync();
  expect_replicated(lead);
}

TEST_F(FirstStart, AProgramThatSwitchesToWalItselfIsNotDisturbedEither) {
  Lead lead(*this, "p.db", 1);
  constexpr int kStarts = 12;
  for (int i = 0; i < kStarts; ++i) {
    std::string failure;
    blocking([&] {
      try {
        Handle db = program();
        db.exec("PRAGMA journal_mode=WAL");
        for (int j = 0; j < 20; ++j) db.exec("CREATE TABLE t" + std::to_string(j) + "(v)");
      } catch (const Error& error) {
        failure = error.what();
      }
      return true;
    });
    ASSERT_EQ(failure, "");
    ASSERT_TRUE(is_followed(lead));
    lead.sync();
    // The next one begins with another file.
    for (const std::string end : {"", "-wal", "-shm"}) std::filesystem::remove(path("p.db" + end));
  }
}

TEST_F(FirstStart, WhatTheProgramChoosesBeforeItsFirstTableStays) {
  Lead lead(*this, "p.db", 1);
  Handle db = program();
  db.exec(
      "PRAGMA journal_mode=DELETE; PRAGMA page_size=8192; PRAGMA auto_vacuum=INCREMENTAL;"
      "PRAGMA encoding='UTF-16le'; PRAGMA application_id=77; CREATE TABLE t(v)");
  ASSERT_TRUE(is_followed(lead));
  db.exec("INSERT INTO t VALUES('one')");
  EXPECT_EQ(db.text("PRAGMA journal_mode"), "wal");
  EXPECT_EQ(db.number("PRAGMA page_size"), 8192);
  EXPECT_EQ(db.number("PRAGMA auto_vacuum"), 2);
  EXPECT_EQ(db.text("PRAGMA encoding"), "UTF-16le");
  EXPECT_EQ(db.number("PRAGMA application_id"), 77);
  lead.sync();
  db.close();
  expect_replicated(lead);
}

TEST_F(FirstStart, ATransactionThatTakesLongIsLeftAlone) {
  Lead lead(*this, "p.db", 1);
  Handle db = program();
  db.exec("BEGIN IMMEDIATE; CREATE TABLE t(v)");
  const Time end = BootClock::now() + 5 * FirstPause::Limits().pause;
  loop.run_until([&] { return BootClock::now() >= end; }, testing::kSoon);
  db.exec("INSERT INTO t VALUES('one'); COMMIT; BEGIN IMMEDIATE; INSERT INTO t VALUES('two')");
  loop.run_until([&] { return BootClock::now() >= end + 5 * FirstPause::Limits().pause; },
                 testing::kSoon);
  EXPECT_EQ(lead.primary->status().committed, 0U);
  EXPECT_EQ(lead.primary->status().degraded, "");
  db.exec("COMMIT");
  ASSERT_TRUE(is_followed(lead));
  db.close();
  lead.sync();
  expect_replicated(lead);
}

// To a caller of sync() "all is stored" must be true.
TEST_F(FirstStart, WhoAsksWhetherAllIsStoredNeedNotWaitForAPause) {
  Lead lead(*this, "p.db", 1);
  Handle db = program();
  db.exec("CREATE TABLE t(v)");
  EXPECT_GT(lead.sync(), 0U);
  db.exec("BEGIN; INSERT INTO t VALUES('one'); COMMIT");
  lead.sync();
  db.close();
  expect_replicated(lead);
}

class FirstPauseTest : public SqliteTest {
 protected:
  using State = FirstPause::State;
};

TEST_F(FirstPauseTest, AnEmptyFileIsNoDatabaseYet) {
  FirstPause pause(path("p.db"));
  EXPECT_EQ(pause.look(true), State::absent);
  std::ofstream(path("p.db"));
  EXPECT_EQ(pause.look(true), State::absent);
}

// Who opens a database in WAL mode first keeps others out for a moment.
TEST_F(FirstPauseTest, TheProgramIsTheFirstToOpenADatabaseInWalMode) {
  FirstPause pause(path("p.db"), {std::chrono::hours(1), std::chrono::hours(2)});
  Handle db(path("p.db"), Handle::Access::create);
  db.exec("PRAGMA journal_mode=WAL");
  EXPECT_EQ(pause.look(false), State::busy);
  db.exec("CREATE TABLE t(v)");
  EXPECT_EQ(pause.look(false), State::ready);
}

TEST_F(FirstPauseTest, AProgramThatNeverPausesIsTakenOverInTheEnd) {
  FirstPause pause(path("p.db"), {std::chrono::hours(1), milliseconds(300)});
  std::atomic<bool> over = false;
  std::string failure;
  std::thread program([&] {
    try {
      Handle db(path("p.db"), Handle::Access::create);
      wait_for_locks(db.get(), 60'000);
      db.exec("CREATE TABLE t(v)");
      while (!over) db.exec("INSERT INTO t VALUES(1)");
    } catch (const Error& error) {
      failure = error.what();
    }
  });
  int busy = 0;
  State state = State::absent;
  const Time end = BootClock::now() + testing::kSoon;
  do {
    try {
      state = pause.look(false);
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::unavailable) << error.what();
    }
    busy += state == State::busy ? 1 : 0;
    std::this_thread::sleep_for(milliseconds(1));
  } while (state != State::ready && BootClock::now() < end);
  EXPECT_EQ(state, State::ready);
  EXPECT_GT(busy, 0);
  over = true;
  program.join();
  EXPECT_EQ(failure, "");
  pause.end();
  Handle db(path("p.db"), Handle::Access::read_only);
  EXPECT_EQ(db.text("PRAGMA journal_mode"), "wal");
  EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok");
}

}  // namespace
}  // namespace cluster::sqlite
