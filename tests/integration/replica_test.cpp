// Replicas of real databases: what a capture has written is applied; readers in between see whole
// transactions; the file comes out the same byte for byte.
#include "sqlite/replica.h"

#include <atomic>
#include <csignal>
#include <stop_token>
#include <thread>

#include <poll.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "flip_byte.h"
#include "integration/sqlite_fixture.h"
#include "slowness.h"
#include "sqlite/restore.h"

namespace cluster::sqlite {
namespace {

class ReplicaTest : public SqliteTest {
 protected:
  static constexpr std::size_t kWalLimit = 200'000;

  // What the capture has now, as a file; empty: nothing new.
  static CapturedFile next_file(Capture& capture) {
    capture.follow();
    return CapturedFile::of(capture);
  }

  std::unique_ptr<Capture> capture(const std::string& name) {
    return std::make_unique<Capture>(CaptureOptions{.path = path(name), .wal_limit = kWalLimit},
                                     DatabaseState{}, false);
  }

  // A replica r.db made from the first file of a capture.
  std::unique_ptr<Replica> replica_from(const CapturedFile& file, PositionLog& log) {
    LtxDecoder decoder(source_of(file.bytes));
    const auto state = write_database(path("new.db"), {&decoder});
    replace_database(path("new.db"), path("r.db"));
    log.append({1, state.txid, 1, state.pages.database(), state.page_size});
    auto replica = std::make_unique<Replica>(path("r.db"), log, hashes_, kWalLimit);
    EXPECT_TRUE(replica->position());
    return replica;
  }

  static std::optional<std::string> apply(Replica& replica, const CapturedFile& file,
                                          std::uint64_t sequence) {
    LtxDecoder decoder(source_of(file.bytes));
    return replica.apply(decoder, {.epoch = 1, .sequence = sequence}, file.hashes);
  }

  HashFile hashes_{hash_file_path(path("r.db"))};
};

// A leader that ends before it has sent what it had left over is not condemned by its own fence.
TEST_F(ReplicaTest, CountsAsOfTheEpochThatHasClaimedIt) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  const auto txid = replica->position()->txid;
  replica->claim(7);
  EXPECT_EQ(replica->position()->epoch, 7U);
  replica.reset();
  const Replica again(path("r.db"), log, hashes_, kWalLimit);
  ASSERT_TRUE(again.position());
  EXPECT_EQ(again.position()->epoch, 7U);
  EXPECT_EQ(again.position()->txid, txid);
}

// Rows are inserted in pairs, so a reader that sees half a transaction sees an odd number of them.
TEST_F(ReplicaTest, ShowsItsReadersWholeTransactionsAndBecomesTheSameFile) {
  Handle db = create("p.db", "PRAGMA page_size=1024");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  std::atomic<int> looks{0};
  std::jthread reader([&](const std::stop_token& over) {
    Handle r(path("r.db"), Handle::Access::read_only);
    std::int64_t last = 0;
    while (!over.stop_requested()) {
      const auto rows = r.number("SELECT count(*) FROM t");
      EXPECT_EQ(rows % 2, 0);
      EXPECT_GE(rows, last);
      last = rows;
      ++looks;
    }
  });
  Handle old(path("r.db"), Handle::Access::read_only);
  // Until the reader has looked some more times, however little it gets to run.
  const auto let_it_look = [&] {
    const int wanted = looks + 4;
    const Time end = BootClock::now() + std::chrono::minutes(1);
    while (looks < wanted && BootClock::now() < end) std::this_thread::yield();
    EXPECT_GE(looks, wanted);
  };
  for (int i = 0; i < 600; ++i) {
    if (i % 150 == 75) let_it_look();
    db.exec("BEGIN; INSERT INTO t(v) VALUES(randomblob(700)); INSERT INTO t(v) VALUES(randomblob(" +
            std::to_string(i % 50 == 0 ? 60'000 : 900) + ")); COMMIT");
    if (i == 100) old.exec("BEGIN; SELECT count(*) FROM t");
    if (i == 300) {
      EXPECT_EQ(old.number("SELECT count(*) FROM t"), 200);
      old.exec("COMMIT");
    }
    const auto file = next_file(*capturing);
    ASSERT_EQ(apply(*replica, file, static_cast<std::uint64_t>(i) + 2), std::nullopt);
    if (i % 37 == 0) replica->checkpoint();
    capturing->checkpoint();
  }
  reader.request_stop();
  reader.join();
  EXPECT_GT(looks, 10);
  EXPECT_EQ(replica->position()->txid, 601U);
  EXPECT_EQ(replica->check(), std::nullopt);
  replica.reset();
  capturing.reset();
  old.close();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

TEST_F(ReplicaTest, KnowsWhereItStandsWhenItIsOpenedAgain) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  auto log = std::make_unique<PositionLog>(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), *log);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 20; ++i) {
      db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
      ASSERT_EQ(apply(*replica, next_file(*capturing), 7), std::nullopt);
    }
    replica.reset();
    log.reset();
    // Whoever opens and closes it last moves the WAL into the file; its content stays the same.
    if (round % 2 == 0)
      Handle(path("r.db"), Handle::Access::read_write).number("SELECT count(*) FROM t");
    log = std::make_unique<PositionLog>(path("r.db-cluster"));
    replica = std::make_unique<Replica>(path("r.db"), *log, hashes_, kWalLimit);
    ASSERT_TRUE(replica->position());
    EXPECT_EQ(replica->position()->txid, 1U + 20U * (static_cast<unsigned>(round) + 1));
    EXPECT_EQ(replica->position()->epoch, 1U);
    EXPECT_EQ(replica->position()->sequence, 7U);
  }
}

TEST_F(ReplicaTest, RefusesWhatDoesNotFollow) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  db.exec("INSERT INTO t(v) VALUES(1)");
  const auto second = next_file(*capturing);
  db.exec("INSERT INTO t(v) VALUES(2)");
  const auto third = next_file(*capturing);
  EXPECT_NE(apply(*replica, third, 3).value_or("").find("stands at transaction 1"),
            std::string::npos);
  EXPECT_EQ(apply(*replica, second, 2), std::nullopt);
  EXPECT_NE(apply(*replica, second, 2).value_or("").find("stands at transaction 2"),
            std::string::npos);
  auto damaged = third;
  damaged.bytes[damaged.bytes.size() / 2] ^= 1;
  EXPECT_THROW(apply(*replica, damaged, 3), Error);
  auto other = third;
  other.hashes.after ^= 1;
  EXPECT_NE(apply(*replica, other, 3).value_or("").find("not what the stream says"),
            std::string::npos);
  EXPECT_EQ(apply(*replica, third, 3), std::nullopt) << "nothing has changed by what was refused";
  Handle reader(path("r.db"), Handle::Access::read_only);
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 2);
}

// Its connection reads the database file alone when a transaction is the first one in the WAL.
TEST_F(ReplicaTest, GoesOnAfterTheFirstTransactionInItsWalHasMadeItShorter) {
  Handle db = create("p.db", "PRAGMA auto_vacuum=FULL");
  db.exec("INSERT INTO t(v) VALUES(randomblob(500000))");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  for (std::uint64_t i = 2; i < 6; ++i) {
    db.exec(i % 2 == 0 ? "DELETE FROM t" : "INSERT INTO t(v) VALUES(randomblob(500000))");
    ASSERT_EQ(apply(*replica, next_file(*capturing), i), std::nullopt);
    if (i % 2 != 0) {
      EXPECT_TRUE(replica->checkpoint());
    }
  }
  replica.reset();
  capturing.reset();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

TEST_F(ReplicaTest, NobodyElseCanWriteToItButAllCanRead) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  Handle other(path("r.db"), Handle::Access::read_write);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(other.try_exec("INSERT INTO t(v) VALUES('mine')"), SQLITE_BUSY);
    EXPECT_EQ(other.number("PRAGMA wal_checkpoint(TRUNCATE)"), 1) << "busy";
    db.exec("INSERT INTO t(v) VALUES(1)");
    EXPECT_EQ(apply(*replica, next_file(*capturing), i + 2), std::nullopt);
    EXPECT_EQ(other.number("SELECT count(*) FROM t"), i + 1);
    EXPECT_TRUE(replica->settle()) << "nobody reads now";
  }
  replica.reset();
  other.exec("INSERT INTO t(v) VALUES('mine')");
  replica = std::make_unique<Replica>(path("r.db"), log, hashes_, kWalLimit);
  EXPECT_FALSE(replica->position()) << "what it holds is at no known transaction";
}

// Until then it goes on at the end of the WAL.
TEST_F(ReplicaTest, BeginsTheWalAnewOnceNobodyReadsIt) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  std::uint64_t sequence = 1;
  const auto commit = [&] {
    db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
    EXPECT_EQ(apply(*replica, next_file(*capturing), ++sequence), std::nullopt);
  };
  commit();
  Handle reader(path("r.db"), Handle::Access::read_write);
  begin_reading(reader);
  commit();
  EXPECT_FALSE(replica->settle());
  const auto length = replica->wal_bytes();
  EXPECT_GT(length, 0U);
  commit();
  const auto before = replica->wal_bytes();
  EXPECT_GT(before, length);
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 1);
  reader.exec("ROLLBACK");
  EXPECT_TRUE(replica->settle());
  EXPECT_EQ(replica->wal_bytes(), 0U);
  commit();
  EXPECT_LT(replica->wal_bytes(), before);
  for (int i = 0; i < 2; ++i) commit();
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 6);
  EXPECT_EQ(reader.text("PRAGMA integrity_check"), "ok");
  // With no connection left the wal-index is made anew, of what the file has.
  reader.close();
  replica.reset();
  replica = std::make_unique<Replica>(path("r.db"), log, hashes_, kWalLimit);
  ASSERT_TRUE(replica->position());
  EXPECT_FALSE(replica->read_in_full());
  commit();
  EXPECT_EQ(Handle(path("r.db"), Handle::Access::read_write).number("SELECT count(*) FROM t"), 7);
}

TEST_F(ReplicaTest, NoticesAFlippedBit) {
  Handle db = create("p.db");
  db.exec("INSERT INTO t(v) VALUES(randomblob(50000))");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  replica_from(next_file(*capturing), log);
  flip_byte(path("r.db"), 30'000);
  EXPECT_FALSE(Replica(path("r.db"), log, hashes_, kWalLimit).position());
}

TEST_F(ReplicaTest, FindsAFlippedBitWhileItIsOpen) {
  Handle db = create("p.db");
  db.exec("INSERT INTO t(v) VALUES(hex(zeroblob(5000)))");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  EXPECT_EQ(replica->check(), std::nullopt);
  // In the text of a row: SQLite itself does not notice.
  flip_byte(path("r.db"), 2 * 4096 + 100);
  EXPECT_EQ(Handle(path("r.db"), Handle::Access::read_only).text("PRAGMA integrity_check"), "ok");
  EXPECT_EQ(replica->check(), "page 3 is not as it was written");
}

// What is checked before a hand-over: the frames that came since the last look, each once.
TEST_F(ReplicaTest, ChecksTheFramesOfItsWalWhileItFollows) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  const auto more = [&](std::uint64_t sequence) {
    db.exec("INSERT INTO t(v) VALUES(hex(zeroblob(5000)))");
    ASSERT_FALSE(apply(*replica, next_file(*capturing), sequence));
  };
  const auto spoil = [&](std::uint64_t at) {
    std::fstream wal(path("r.db-wal"), std::ios::in | std::ios::out | std::ios::binary);
    wal.seekp(static_cast<std::streamoff>(at));
    wal.put('x');
  };
  more(2);
  EXPECT_EQ(replica->check_frames(), std::nullopt);
  const auto first = replica->wal_bytes();
  more(3);
  EXPECT_EQ(replica->check_frames(), std::nullopt);
  more(4);
  const auto third = replica->wal_bytes();
  ASSERT_GT(third, first);
  spoil(third - 100);
  ASSERT_TRUE(replica->check_frames());
  EXPECT_NE(replica->check_frames()->find("has a wrong checksum"), std::string::npos);
  EXPECT_TRUE(replica->check()) << "as a promotion would find";
  EXPECT_TRUE(replica->proven());
}

TEST_F(ReplicaTest, ACheckOfFramesFindsThatSomebodyHasWrittenToItsFile) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  ASSERT_EQ(replica->check_frames(), std::nullopt);
  ASSERT_TRUE(replica->proven());
  {
    std::fstream file(path("r.db"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put('x');
  }
  replica->check_frames();
  EXPECT_FALSE(replica->proven());
}

TEST_F(ReplicaTest, NoticesThatItsFileWasReplaced) {
  Handle db = create("p.db");
  auto capturing = capture("p.db");
  PositionLog log(path("r.db-cluster"));
  auto replica = replica_from(next_file(*capturing), log);
  std::filesystem::copy_file(path("r.db"), path("copy.db"));
  std::filesystem::rename(path("copy.db"), path("r.db"));
  db.exec("INSERT INTO t(v) VALUES(1)");
  EXPECT_TRUE(apply(*replica, next_file(*capturing), 2));
  EXPECT_TRUE(replica->check());
  std::filesystem::remove(path("r.db"));
  EXPECT_TRUE(replica->check());
}

TEST_F(ReplicaTest, TwoNodesCantShareADatabase) {
  PositionLog log(path("r.db-cluster"));
  try {
    PositionLog again(path("r.db-cluster"));
    FAIL() << "it was locked twice";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::unavailable);
    EXPECT_NE(std::string(error.what()).find("another process"), std::string::npos);
  }
}

// A process that applies files is killed at any instant; the next one goes on from where it stood.
TEST_F(ReplicaTest, SurvivesKillAtAnyInstant) {
  Handle db = create("p.db", "PRAGMA page_size=512");
  auto capturing = capture("p.db");
  std::vector<CapturedFile> files{next_file(*capturing)};
  for (int i = 0; i < 300; ++i) {
    db.exec("INSERT INTO t(v) VALUES(randomblob(" + std::to_string(1 + i * 37 % 9000) + "))");
    if (i % 10 == 0) db.exec("DELETE FROM t WHERE id % 3 = 0");
    files.push_back(next_file(*capturing));
    capturing->checkpoint();
  }
  {
    PositionLog log(path("r.db-cluster"));
    replica_from(files[0], log);
  }
  Handle reader(path("r.db"), Handle::Access::read_only);  // keeps the wal-index in being
  constexpr int kLeastKills = 2;
  int kills = 0;
  std::mt19937 random(7);
  const Time end = BootClock::now() + std::chrono::minutes(3) * slowness();
  while (true) {
    ASSERT_LT(BootClock::now(), end) << "not all was applied after " << kills << " kills";
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      try {
        PositionLog log(path("r.db-cluster"));
        HashFile hashes(hash_file_path(path("r.db")));
        Replica replica(path("r.db"), log, hashes, 50'000);
        if (!replica.position()) ::_exit(3);
        if (::write(ready[1], "x", 1) != 1) ::_exit(4);
        int applied = 0;
        for (const auto& file : files) {
          // The first ones do not come to their end: who is to kill them may stand still for long.
          if (kills <= kLeastKills && applied == 60) ::pause();
          if (LtxDecoder(source_of(file.bytes)).header().min_txid <= replica.position()->txid)
            continue;
          if (auto why = apply(replica, file, 1)) {
            std::fprintf(stderr, "%s\n", why->c_str());
            ::_exit(5);
          }
          ++applied;
          replica.checkpoint();
        }
      } catch (...) {
        ::_exit(6);
      }
      ::_exit(0);
    }
    char byte;
    ::close(ready[1]);
    pollfd begun{.fd = ready[0], .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&begun, 1, 60'000 * slowness()), 1) << "the replica is not opened";
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    std::this_thread::sleep_for(  // any instant; later and later, so that it comes to an end
        std::chrono::microseconds(random() % 6000 + static_cast<unsigned>(kills) * 200));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0) << "after " << kills << " kills";
      break;
    }
    ++kills;
    EXPECT_EQ(reader.text("PRAGMA quick_check"), "ok");
  }
  EXPECT_GT(kills, kLeastKills);
  reader.close();
  capturing.reset();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

}  // namespace
}  // namespace cluster::sqlite
