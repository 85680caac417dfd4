// Capture on real databases: what it writes down, put together again, is the database, byte for
// byte, whatever other connections do meanwhile.
#include "sqlite/capture.h"

#include <atomic>
#include <deque>
#include <fstream>
#include <iterator>
#include <thread>

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "integration/capture_fixture.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

TEST_F(CaptureTest, WritesDownWhatTheDatabaseHadAndWhatCameThen) {
  Handle db = create("a.db");
  db.exec("INSERT INTO t(v) VALUES('before')");
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  EXPECT_EQ(mirror.txid(), 1U);
  for (int i = 0; i < 10; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
  ship(*capturing, mirror);
  EXPECT_EQ(mirror.txid(), 11U) << "each transaction has its number";
  EXPECT_FALSE(capturing->follow()) << "nothing new";
  db.exec("BEGIN; INSERT INTO t(v) VALUES(randomblob(100000)); ROLLBACK");
  EXPECT_FALSE(capturing->follow()) << "nothing was committed";
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

TEST_F(CaptureTest, TakesWhatASpillingTransactionHasWrittenOnlyOnceItIsCommitted) {
  Handle db = create("a.db");
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  db.exec("PRAGMA cache_size=5; BEGIN");
  for (int i = 0; i < 100; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(5000))");
  EXPECT_FALSE(capturing->follow());
  db.exec("COMMIT");
  EXPECT_TRUE(capturing->follow());
  ship(*capturing, mirror);
  EXPECT_EQ(mirror.txid(), 2U);
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

TEST_F(CaptureTest, SwitchesADatabaseToWalMode) {
  {
    Handle db(path("a.db"), Handle::Access::create);
    db.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES('x')");
  }
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  Handle db(path("a.db"), Handle::Access::read_write);
  EXPECT_EQ(db.text("PRAGMA journal_mode"), "wal");
  db.exec("INSERT INTO t(v) VALUES('y')");
  ship(*capturing, mirror);
  EXPECT_NE(db.try_exec("PRAGMA journal_mode=DELETE"), 0) << "nobody can switch it back meanwhile";
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

TEST_F(CaptureTest, CheckpointsWhatItHasSwitchedToWalMode) {
  Handle db(path("d.db"), Handle::Access::create);
  db.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
  Capture capturing({.path = path("d.db"), .wal_limit = 64 * 1024}, {}, false);
  for (int i = 0; i < 3; ++i) {
    for (int rows = 0; !capturing.wants_checkpoint(); ++rows) {
      ASSERT_LT(rows, 1'000) << "the WAL has " << capturing.wal_bytes() << " bytes";
      db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
      capturing.follow();
    }
    ASSERT_EQ(capturing.checkpoint(), Capture::Checkpointed::done);
    db.exec("INSERT INTO t(v) VALUES(1)");
    capturing.follow();
    EXPECT_LT(capturing.wal_bytes(), 32U * 1024) << "the WAL was begun anew";
    EXPECT_GT(std::filesystem::file_size(path("d.db")), (i + 1) * 12U * 1024);
  }
}

TEST_F(CaptureTest, SaysWhyADatabaseCantBeUsed) {
  auto refusal = [&](const std::string& name) {
    try {
      capture(name);
    } catch (const Error& error) {
      return error;
    }
    return Error(Errc::invalid_argument, "it was accepted");
  };
  EXPECT_EQ(refusal("none.db").errc(), Errc::not_found);
  std::ofstream(path("text.db")) << std::string(5000, 'x');
  EXPECT_EQ(refusal("text.db").errc(), Errc::corrupt);
  std::ofstream(path("empty.db")) << "";
  EXPECT_EQ(refusal("empty.db").errc(), Errc::not_found);
  Handle exclusive = create("exclusive.db");
  exclusive.exec("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t(v) VALUES(1)");
  EXPECT_EQ(refusal("exclusive.db").errc(), Errc::unavailable);
}

TEST_F(CaptureTest, GoesOnFromAKnownStateWithoutReadingTheDatabaseAgain) {
  Handle db = create("a.db");
  db.exec("INSERT INTO t(v) VALUES(randomblob(100000))");
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  DatabaseState state = capturing->written_state();
  capturing.reset();
  auto again = capture("a.db", state, true);
  EXPECT_FALSE(again->follow());
  db.exec("INSERT INTO t(v) VALUES(1)");
  ship(*again, mirror);
  EXPECT_EQ(mirror.txid(), 2U);
  // What happens while nobody looks is found by comparing.
  state = again->written_state();
  again.reset();
  db.exec(
      "INSERT INTO t(v) VALUES(2); DELETE FROM t WHERE id = 1; PRAGMA wal_checkpoint(TRUNCATE)");
  db.exec("INSERT INTO t(v) VALUES(3)");
  again = capture("a.db", state);
  EXPECT_TRUE(again->follow());
  ship(*again, mirror);
  EXPECT_EQ(mirror.txid(), 3U);
  again.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

TEST_F(CaptureTest, FindsNothingToDoInADatabaseThatIsAsKnown) {
  Handle db = create("a.db");
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  const DatabaseState state = capturing->written_state();
  capturing.reset();
  EXPECT_FALSE(capture("a.db", state)->follow());
}

TEST_F(CaptureTest, WritesWhatItHasNotedAlsoWhenTheWalWasBegunAnewSince) {
  Handle db = create("a.db");
  auto capturing = capture("a.db", {}, false, 100'000);
  Mirror mirror;
  ship(*capturing, mirror);
  for (int i = 0; i < 100; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
  ASSERT_TRUE(capturing->follow());
  ASSERT_EQ(capturing->checkpoint(), Capture::Checkpointed::done);
  const auto end = capturing->wal_bytes();
  for (int i = 0; i < 30; ++i) db.exec("UPDATE t SET v = randomblob(3000) WHERE id = 1");
  mirror.apply(CapturedFile::of(*capturing));
  EXPECT_EQ(mirror.txid(), 101U);
  ship(*capturing, mirror);
  EXPECT_LT(capturing->wal_bytes(), end) << "the WAL was begun anew";
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

// A writer that never rests, a follower, a checkpointer: the WAL is begun anew under them all.
TEST_F(CaptureTest, KeepsTheWalShortUnderABusyWriter) {
  constexpr std::size_t kLimit = 1024 * 1024;
  Handle db = create("a.db");
  auto capturing = capture("a.db", {}, false, kLimit);
  Mirror mirror;
  std::atomic<bool> written{false}, stuck{false};
  // It rests only where the others stand still, so far behind it that the WAL would become as long
  // as they let it wait.
  const Txid before = capturing->noted();
  const auto far_ahead = [&](int transactions) {
    return before + static_cast<Txid>(transactions) > capturing->noted() + 500 ||
           (capturing->wal_bytes() > 10 * kLimit && capturing->wants_checkpoint());
  };
  std::thread writer([&] {
    for (int i = 0; i < 4'000; ++i) {
      const Time end = BootClock::now() + std::chrono::minutes(2);
      while (!stuck && far_ahead(i)) {
        std::this_thread::yield();
        stuck = BootClock::now() > end;
      }
      db.exec(i % 100 == 0
                  ? "INSERT INTO t(v) SELECT randomblob(500) FROM "
                    "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                    "x < 300) SELECT x FROM c)"
                  : "INSERT INTO t(v) VALUES(randomblob(2000))");
    }
    written = true;
  });
  std::thread checkpointer([&] {
    while (!written)
      if (!capturing->wants_checkpoint() || capturing->checkpoint() != Capture::Checkpointed::done)
        std::this_thread::yield();
  });
  std::uint64_t longest = 0;
  while (!written) {
    ship(*capturing, mirror);
    longest = std::max(longest, capturing->wal_bytes());
  }
  writer.join();
  checkpointer.join();
  ship(*capturing, mirror);
  EXPECT_EQ(capturing->gaps(), 0U);
  EXPECT_FALSE(stuck) << "nobody has followed, or the WAL can't be begun anew";
  // Some 50 MB were written in all. How short it stays is a matter of speed.
  EXPECT_LT(longest, 25 * kLimit);
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

struct OwnCheckpoint {
  bool busy = false;
  std::int64_t frames = 0, done = 0;
  bool complete() const { return !busy && frames == done; }
};

// As a program checkpoints.
OwnCheckpoint checkpoint(const Handle& db, int mode) {
  int frames = 0, done = 0;
  const int rc = sqlite3_wal_checkpoint_v2(db.get(), "main", mode, &frames, &done);
  EXPECT_TRUE(rc == SQLITE_OK || rc == SQLITE_BUSY) << rc;
  return {rc == SQLITE_BUSY, frames, done};
}

void insert(Handle& db, int rows) {
  for (int i = 0; i < rows; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(2000))");
}

TEST_F(CaptureTest, CheckpointsMoveOnlyWhatIsAcknowledged) {
  Handle db = create("a.db");
  db.exec("PRAGMA wal_autocheckpoint=0");
  auto capturing = capture("a.db", {}, false, 64 * 1024 * 1024);
  Mirror mirror;
  ship(*capturing, mirror);
  capturing->acknowledged(mirror.txid());
  insert(db, 10);
  ship(*capturing, mirror);
  capturing->acknowledged(mirror.txid() - 1);
  capturing->follow();
  insert(db, 10);
  EXPECT_TRUE(capturing->follow());
  const auto part = checkpoint(db, SQLITE_CHECKPOINT_PASSIVE);
  EXPECT_LT(part.done, part.frames);
  capturing->acknowledged(mirror.txid());
  capturing->follow();
  const auto more = checkpoint(db, SQLITE_CHECKPOINT_PASSIVE);
  EXPECT_GT(more.done, part.done);
  EXPECT_LT(more.done, more.frames);
  ship(*capturing, mirror);
  capturing->acknowledged(mirror.txid());
  capturing->follow();
  EXPECT_TRUE(checkpoint(db, SQLITE_CHECKPOINT_PASSIVE).complete());
  // Once JetStream has not answered for long, they are not kept waiting.
  insert(db, 10);
  const Time end = BootClock::now() + std::chrono::minutes(1);
  while (capturing->follow() && !checkpoint(db, SQLITE_CHECKPOINT_PASSIVE).complete())
    ASSERT_LT(BootClock::now(), end);
}

// Without a busy timeout, so what is in their way is in nobody else's.
TEST_F(CaptureTest, OnceAllIsInTheFileTheProgramMayBeginTheWalAnew) {
  Handle db = create("a.db");
  db.exec("PRAGMA wal_autocheckpoint=0; PRAGMA busy_timeout=0");
  auto capturing = capture("a.db");
  Mirror mirror;
  for (const int mode : {SQLITE_CHECKPOINT_RESTART, SQLITE_CHECKPOINT_TRUNCATE}) {
    insert(db, 20);
    ship(*capturing, mirror);
    capturing->acknowledged(mirror.txid());
    capturing->follow();
    EXPECT_TRUE(checkpoint(db, SQLITE_CHECKPOINT_PASSIVE).complete());
    EXPECT_TRUE(capturing->expects_checkpoint());
    EXPECT_TRUE(checkpoint(db, mode).busy);
    EXPECT_FALSE(capturing->follow());
    EXPECT_FALSE(capturing->expects_checkpoint());
    EXPECT_FALSE(checkpoint(db, mode).busy);
  }
  EXPECT_EQ(std::filesystem::file_size(path("a.db-wal")), 0U);
  insert(db, 20);
  ship(*capturing, mirror);
  EXPECT_EQ(capturing->gaps(), 0U);
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

// While another connection commits, and JetStream answers some time later.
TEST_F(CaptureTest, CheckpointsOfTheProgramComplete) {
  Handle db = create("a.db");
  db.exec("PRAGMA busy_timeout=60000");
  Handle other(path("a.db"), Handle::Access::read_write);
  other.exec("PRAGMA busy_timeout=60000");
  auto capturing = capture("a.db", {}, false, 64 * 1024 * 1024);
  Mirror mirror;
  std::atomic<bool> over{false};
  std::thread follower([&] {
    std::deque<Txid> shipped;
    while (!over) {
      ship(*capturing, mirror);
      shipped.push_back(mirror.txid());
      if (shipped.size() > 3) {
        capturing->acknowledged(shipped.front());
        shipped.pop_front();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
  });
  std::thread writer([&] {
    while (!over) {
      insert(other, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  for (const int mode :
       {SQLITE_CHECKPOINT_FULL, SQLITE_CHECKPOINT_RESTART, SQLITE_CHECKPOINT_TRUNCATE,
        SQLITE_CHECKPOINT_FULL, SQLITE_CHECKPOINT_RESTART, SQLITE_CHECKPOINT_TRUNCATE}) {
    insert(db, 50);
    EXPECT_FALSE(checkpoint(db, mode).busy) << mode;
  }
  over = true;
  writer.join();
  follower.join();
  ship(*capturing, mirror);
  EXPECT_EQ(capturing->gaps(), 0U);
  capturing.reset();
  db.close();
  other.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

// ---- somebody writes to the file, not by SQLite's means

class OverwrittenTest : public CaptureTest {
 protected:
  OverwrittenTest() : db(create("a.db")), hashes(hash_file_path(path("a.db"))) {
    db.exec("PRAGMA wal_autocheckpoint=0");
    insert(100);
    capturing = std::make_unique<Capture>(
        CaptureOptions{.path = path("a.db"), .hashes = &hashes, .history = 1, .epoch = 1},
        DatabaseState{}, false);
    ship(*capturing, mirror);
    checkpoint();
    before = bytes();
  }
  void insert(int rows) {
    for (int i = 0; i < rows; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(500))");
  }
  void checkpoint() {
    capturing->acknowledged(mirror.txid());
    capturing->follow();
    db.exec("PRAGMA wal_checkpoint(PASSIVE)");
    capturing->follow();
  }
  std::string bytes() {
    std::ifstream in(path("a.db"), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// As `cp` does: the file stays the same, and gets other bytes.
  void overwrite(const std::string& bytes) {
    std::ofstream out(path("a.db"), std::ios::binary | std::ios::in);
    out << bytes;
  }
  void expect_overwritten() {
    try {
      capturing->follow();
      ADD_FAILURE() << "it was not noticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::corrupt);
      EXPECT_NE(std::string(error.what()).find("does not use SQLite"), std::string::npos);
    }
    EXPECT_TRUE(capturing->overwritten());
    EXPECT_THROW(capturing->follow(), Error) << "it stays so";
    EXPECT_FALSE(capturing->wants_checkpoint());
    EXPECT_FALSE(hashes.mark()) << "nobody vouches for what it holds";
  }

  Handle db;
  HashFile hashes;
  std::unique_ptr<Capture> capturing;
  Mirror mirror;
  std::string before;  // what the file held
};

TEST_F(OverwrittenTest, ACopyOfItselfFromBeforeIsNoticed) {
  insert(10);
  ship(*capturing, mirror);
  checkpoint();
  ASSERT_NE(bytes(), before);
  overwrite(before);
  expect_overwritten();
}

TEST_F(OverwrittenTest, AlsoWhatIsCommittedOnTopOfItIsNoHistory) {
  insert(10);
  ship(*capturing, mirror);
  checkpoint();
  overwrite(before);
  db.exec("DELETE FROM t WHERE id % 2 = 0");
  expect_overwritten();
}

TEST_F(OverwrittenTest, OneByteIsEnough) {
  checkpoint();
  const std::string now = bytes();
  std::string other = now;
  other[other.size() - 1] = static_cast<char>(other.back() ^ 1);
  overwrite(other);
  expect_overwritten();
}

TEST_F(OverwrittenTest, AFileThatWasCutOffIsNoticed) {
  checkpoint();
  ASSERT_EQ(::truncate(path("a.db").c_str(), 4096), 0);
  expect_overwritten();
}

TEST_F(OverwrittenTest, AFileWhoseTimeWasSetIsAsItWas) {
  for (int i = 0; i < 3; ++i) {
    insert(5);
    ship(*capturing, mirror);
    checkpoint();
    const timespec times[2] = {{1'000'000'000 + i, 0}, {1'000'000'000 + i, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, path("a.db").c_str(), times, 0), 0);
    EXPECT_FALSE(capturing->follow());
  }
  overwrite(bytes());
  EXPECT_FALSE(capturing->follow()) << "the same bytes once more";
  EXPECT_FALSE(capturing->overwritten());
}

// Whatever the program's checkpoints do to the file.
TEST_F(OverwrittenTest, ACheckpointOfTheProgramIsNone) {
  const char* const modes[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
  std::atomic<bool> over{false};
  std::thread program([&] {
    Handle other(path("a.db"), Handle::Access::read_write);
    wait_for_locks(other.get(), 60'000);
    for (int i = 0; i < 400; ++i) {
      other.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
      if (i % 7 == 0) other.exec("DELETE FROM t WHERE id % 3 = 0");
      if (i % 40 == 39) other.exec("VACUUM");
      if (i % 3 == 0)
        other.try_exec((std::string("PRAGMA wal_checkpoint(") + modes[i / 3 % 4] + ")").c_str());
    }
    over = true;
  });
  while (!over) {
    ship(*capturing, mirror);
    capturing->acknowledged(mirror.txid());
  }
  program.join();
  EXPECT_FALSE(capturing->overwritten());
  ship(*capturing, mirror);
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

// As long as the WAL is not far too long: then they wait until it is begun anew.
TEST_F(CaptureTest, NoWriterIsLockedOut) {
  constexpr std::size_t kLimit = 1024 * 1024;
  Handle db = create("a.db");
  auto capturing = capture("a.db", {}, false, kLimit);
  Mirror mirror;
  std::atomic<bool> over{false};
  std::thread checkpointer([&] {
    while (!over) {
      if (capturing->wants_checkpoint()) capturing->checkpoint();
      std::this_thread::yield();
    }
  });
  int refused = 0, begun_anew = 0;
  for (std::uint64_t i = 0, last = 0; i < 5'000; ++i) {
    if (db.try_exec("INSERT INTO t(v) VALUES(randomblob(2000))") != SQLITE_OK) ++refused;
    ship(*capturing, mirror);
    const Time end = BootClock::now() + std::chrono::minutes(1);
    while (capturing->wal_bytes() > kLimit + kLimit / 4 && capturing->wants_checkpoint()) {
      ASSERT_LT(BootClock::now(), end);
      std::this_thread::yield();
      capturing->follow();
    }
    if (capturing->wal_bytes() < last) ++begun_anew;
    last = capturing->wal_bytes();
  }
  over = true;
  checkpointer.join();
  EXPECT_EQ(refused, 0);
  EXPECT_GT(begun_anew, 2);
  EXPECT_EQ(capturing->gaps(), 0U);
}

// The WAL is begun anew all the time, also in the instants in which a capture begins. The database
// stays small, however much faster than the captures the writer is.
TEST_F(CaptureTest, CanBeOpenedAtAnyMomentUnderABusyWriter) {
  Handle db = create("a.db", "PRAGMA page_size=512");
  db.exec("PRAGMA wal_autocheckpoint=3");
  const std::jthread writer([&](const std::stop_token& over) {
    while (!over.stop_requested())
      db.exec(
          "INSERT INTO t(v) VALUES(randomblob(100));"
          "DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 1000");
  });
  for (int i = 0; i < 150; ++i) {
    auto capturing = capture("a.db");
    Mirror mirror;
    ship(*capturing, mirror);
    ship(*capturing, mirror);
    EXPECT_EQ(capturing->gaps(), 0U);
    std::ofstream(path("copy.db"), std::ios::binary) << mirror.bytes();
    Handle copy(path("copy.db"), Handle::Access::read_write);
    ASSERT_EQ(copy.text("PRAGMA integrity_check"), "ok") << i;
    copy.close();
    std::filesystem::remove(path("copy.db-wal"));
    std::filesystem::remove(path("copy.db-shm"));
  }
}

// Little by little, while the pages that were copied change again.
TEST_F(CaptureTest, CopiesTheDatabaseUnderABusyWriter) {
  Handle db = create("a.db");
  db.exec(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "
      "INSERT INTO t(v) SELECT randomblob(3000) FROM n");
  auto capturing = capture("a.db");
  Mirror mirror;
  ship(*capturing, mirror);
  const std::jthread writer([&](const std::stop_token& stop) {
    for (int i = 1; !stop.stop_requested(); ++i)
      db.exec("UPDATE t SET v = randomblob(3000) WHERE id = " + std::to_string(i * 37 % 2000) +
              "; DELETE FROM t WHERE id = " + std::to_string(i));
  });
  for (int copies = 0; copies < 20; ++copies) {
    capturing->begin_copy(temporary_file(path("")));
    for (int steps = 0; !check_copy(*capturing, mirror) && !HasFailure(); ++steps) {
      ASSERT_LT(steps, 10'000);
      ship(*capturing, mirror);
      if (check_copy(*capturing, mirror)) break;
      capturing->copy_more(100'000);
      if (steps % 20 == 19) capturing->checkpoint();
    }
  }
}

TEST_F(CaptureTest, GoesOnWhenACopyHasNoRoom) {
  Handle db = create("a.db");
  db.exec("INSERT INTO t(v) VALUES(randomblob(100000))");
  auto capturing = capture("a.db");
  Mirror mirror;
  capturing->begin_copy(UniqueFd(::open("/dev/full", O_RDWR | O_CLOEXEC)));
  capturing->copy_more(1'000'000);
  EXPECT_THROW(capturing->take_copy(), Error);
  capturing->begin_copy(UniqueFd(::open("/dev/full", O_RDWR | O_CLOEXEC)));
  ship(*capturing, mirror);
  capturing->begin_copy(temporary_file(path("")));
  capturing->copy_more(1'000'000);
  EXPECT_TRUE(check_copy(*capturing, mirror));
}

}  // namespace
}  // namespace cluster::sqlite
