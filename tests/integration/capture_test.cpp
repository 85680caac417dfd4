// Capture on real databases: what it writes down, put together again, is the database, byte for
// byte, whatever other connections do meanwhile.
#include "sqlite/capture.h"

#include <atomic>
#include <thread>

#include "integration/sqlite_fixture.h"

namespace cluster::sqlite {
namespace {

// What sanitizers look for shows in few of them, and they make each slow.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSeeds = 6;
#else
constexpr int kSeeds = 24;
#endif

class CaptureTest : public SqliteTest {
 protected:
  std::unique_ptr<Capture> capture(const std::string& name, DatabaseState known = {},
                                   bool trusted = false, std::size_t wal_limit = 256 * 1024) {
    return std::make_unique<Capture>(CaptureOptions{.path = path(name), .wal_limit = wal_limit},
                                     std::move(known), trusted);
  }

  // Everything there is now, as one file, into the mirror.
  static void ship(Capture& capture, Mirror& mirror) {
    capture.follow();
    std::string file;
    auto captured = capture.write([&](std::string_view bytes) { file += bytes; });
    if (!captured) return;
    ASSERT_EQ(captured->size, file.size());
    mirror.apply(file);
    ASSERT_EQ(mirror.txid(), captured->header.max_txid);
  }
};

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
  DatabaseState state = capturing->state();
  capturing.reset();
  auto again = capture("a.db", state, true);
  EXPECT_FALSE(again->follow());
  db.exec("INSERT INTO t(v) VALUES(1)");
  ship(*again, mirror);
  EXPECT_EQ(mirror.txid(), 2U);
  // What happens while nobody looks is found by comparing.
  state = again->state();
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
  const DatabaseState state = capturing->state();
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
  ASSERT_TRUE(capturing->checkpoint());
  const auto end = capturing->wal_bytes();
  for (int i = 0; i < 30; ++i) db.exec("UPDATE t SET v = randomblob(3000) WHERE id = 1");
  std::string file;
  const auto captured = capturing->write([&](std::string_view bytes) { file += bytes; });
  ASSERT_TRUE(captured);
  EXPECT_EQ(captured->header.max_txid, 101U);
  mirror.apply(file);
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
  std::atomic<bool> written{false};
  std::thread writer([&] {
    for (int i = 0; i < 4'000; ++i)
      db.exec(i % 100 == 0
                  ? "INSERT INTO t(v) SELECT randomblob(500) FROM "
                    "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                    "x < 300) SELECT x FROM c)"
                  : "INSERT INTO t(v) VALUES(randomblob(2000))");
    written = true;
  });
  std::thread checkpointer([&] {
    while (!written)
      if (!capturing->wants_checkpoint() || !capturing->checkpoint()) std::this_thread::yield();
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
  // Some 50 MB were written in all. How short it stays is a matter of speed.
  EXPECT_LT(longest, 25 * kLimit);
  capturing.reset();
  db.close();
  EXPECT_EQ(mirror.bytes(), settled("a.db"));
}

// The WAL is begun anew all the time, also in the instants in which a capture begins.
TEST_F(CaptureTest, CanBeOpenedAtAnyMomentUnderABusyWriter) {
  Handle db = create("a.db", "PRAGMA page_size=512");
  db.exec("PRAGMA wal_autocheckpoint=3");
  const std::jthread writer([&](const std::stop_token& over) {
    while (!over.stop_requested())
      db.exec(
          "INSERT INTO t(v) VALUES(randomblob(100)); DELETE FROM t WHERE id < 500 AND id % 3 = 0");
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

// Several connections, all kinds of statements, checkpoints by others, page sizes and ways of
// vacuuming.
class CaptureOfAnything : public CaptureTest, public ::testing::WithParamInterface<int> {};

TEST_P(CaptureOfAnything, IsTheDatabaseByteForByte) {
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const int page_size = 512 << below(8);
  const char* const vacuum[] = {"NONE", "FULL", "INCREMENTAL"};
  const std::string pragmas =
      "PRAGMA page_size=" + std::to_string(page_size) + "; PRAGMA auto_vacuum=" + vacuum[below(3)];
  Handle db = create("a.db", pragmas);
  db.exec("PRAGMA wal_autocheckpoint=" + std::to_string(below(2) * 20));
  if (below(3) == 0) db.exec("PRAGMA cache_size=10");
  if (below(2) == 0) db.exec("PRAGMA secure_delete=OFF");
  Handle other(path("a.db"), Handle::Access::read_write);
  other.exec("PRAGMA busy_timeout=10000");
  bool reading = false;
  auto capturing = capture("a.db", {}, false, static_cast<std::size_t>(page_size) * 40);
  Mirror mirror;
  int tables = 0;
  for (int i = 0; i < 400; ++i) {
    switch (below(16)) {
      case 0:
        db.exec("INSERT INTO t(v) VALUES(randomblob(" + std::to_string(page_size * below(40)) +
                "))");
        break;
      case 1: db.exec("DELETE FROM t WHERE id % " + std::to_string(2 + below(5)) + " = 0"); break;
      case 2:
        db.exec("UPDATE t SET v = randomblob(" + std::to_string(below(3000)) +
                ") WHERE id % 7 = " + std::to_string(below(7)));
        break;
      case 3:
        db.exec("CREATE TABLE x" + std::to_string(++tables) + " AS SELECT * FROM t LIMIT " +
                std::to_string(below(50)));
        break;
      case 4:
        if (tables > 0) db.exec("DROP TABLE IF EXISTS x" + std::to_string(1 + below(tables)));
        break;
      case 5:
        if (!reading && below(4) == 0) db.exec("VACUUM");
        break;
      case 6: db.exec("PRAGMA incremental_vacuum(" + std::to_string(1 + below(20)) + ")"); break;
      case 7:
        db.exec("BEGIN; INSERT INTO t(v) VALUES(randomblob(20000)); ROLLBACK");
        db.exec(
            "BEGIN; INSERT INTO t(id, v) VALUES(-1, randomblob(30000)); DELETE FROM t WHERE id = "
            "-1; COMMIT");
        break;
      case 8:
        other.try_exec(below(2) ? "PRAGMA wal_checkpoint(PASSIVE)"
                                : "PRAGMA busy_timeout=0; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA "
                                  "busy_timeout=10000");
        break;
      case 9:
        if (reading)
          other.exec("COMMIT");
        else
          other.exec("BEGIN; SELECT count(*) FROM t");
        reading = !reading;
        break;
      case 10: capturing->checkpoint(); break;
      case 11:
      case 12: ship(*capturing, mirror); break;
      default:
        db.exec("INSERT INTO t(v) VALUES(randomblob(" + std::to_string(below(1500)) + "))");
        break;
    }
    ASSERT_FALSE(HasFatalFailure()) << "step " << i;
  }
  ship(*capturing, mirror);
  EXPECT_EQ(capturing->gaps(), 0U);
  capturing.reset();
  if (reading) other.exec("COMMIT");
  other.close();
  db.close();
  const auto expected = settled("a.db");
  const auto got = mirror.bytes();
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t at = 0; at < got.size(); at += static_cast<std::size_t>(page_size))
    ASSERT_EQ(got.substr(at, static_cast<std::size_t>(page_size)) ==
                  expected.substr(at, static_cast<std::size_t>(page_size)),
              true)
        << "page " << at / static_cast<std::size_t>(page_size) + 1;
}

INSTANTIATE_TEST_SUITE_P(Seeds, CaptureOfAnything, ::testing::Range(0, kSeeds));

}  // namespace
}  // namespace cluster::sqlite
