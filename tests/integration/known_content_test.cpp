// What a node knows of its database after a start without having read it, and each way in which
// somebody may have changed the files while no node looked.
#include "sqlite/known_content.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "flip_byte.h"
#include "integration/sqlite_fixture.h"
#include "sqlite/replica.h"
#include "sqlite/restore.h"
#include "sqlite/verify.h"

namespace cluster::sqlite {
namespace {

namespace fs = std::filesystem;

/// A leader's database p.db, and a standby's copy r.db that has all of it.
class KnownContentTest : public SqliteTest {
 protected:
  static constexpr std::size_t kWalLimit = 1'000'000;

  void SetUp() override {
    leader_ = create("p.db", "PRAGMA page_size=512");
    leader_.exec(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
        "INSERT INTO t(v) SELECT hex(randomblob(100)) FROM n");
    capture_ = std::make_unique<Capture>(
        CaptureOptions{.path = path("p.db"), .wal_limit = kWalLimit}, DatabaseState{}, false);
    keep();
    open();
    LtxDecoder first(source_of(files_[0].bytes));
    ASSERT_EQ(replica_->apply(first, {1, 1}, files_[0].hashes), std::nullopt);
    for (int i = 0; i < 5; ++i) commit();
    ASSERT_TRUE(replica_->settle());
    settled_at_ = txid();
    // In the WAL alone.
    for (int i = 0; i < 5; ++i) commit();
    close();
  }

  /// One transaction of the leader's, as long as those before it, applied here.
  void commit() {
    leader_.exec("UPDATE t SET v = hex(randomblob(100)) WHERE id % 7 = " +
                 std::to_string(files_.size() % 7));
    keep();
    apply(files_.back());
  }
  void keep() {
    capture_->follow();
    files_.push_back(CapturedFile::of(*capture_));
  }
  void apply(const CapturedFile& file) {
    LtxDecoder decoder(source_of(file.bytes));
    ASSERT_EQ(replica_->apply(decoder, {1, 1}, file.hashes), std::nullopt);
  }
  /// As a node that starts does.
  void open() {
    log_ = std::make_unique<PositionLog>(position_log_path(path("r.db")));
    hashes_ = std::make_unique<HashFile>(hash_file_path(path("r.db")));
    replica_ = std::make_unique<Replica>(path("r.db"), *log_, *hashes_, kWalLimit);
  }
  void close() {
    replica_.reset();
    hashes_.reset();
    log_.reset();
  }
  Txid txid() const { return replica_->position() ? replica_->position()->txid : 0; }

  /// Whatever it stands at, it is made what the leader's database is.
  void expect_the_same_in_the_end() {
    const Txid at = txid();
    for (const auto& file : files_)
      if (LtxDecoder(source_of(file.bytes)).header().min_txid > at) apply(file);
    close();
    capture_.reset();
    leader_.close();
    EXPECT_TRUE(settled("r.db") == settled("p.db")) << "from transaction " << at << " on";
  }
  void expect_unknown() {
    open();
    EXPECT_TRUE(replica_->read_in_full());
    EXPECT_FALSE(replica_->position());
  }
  Verified scan() const {
    VerifyProgress progress;
    return ReplicaScan(*replica_).run(progress, {});
  }
  void write_offline(const std::string& sql) const {
    Handle(path("r.db"), Handle::Access::read_write).exec(sql);
  }

  Handle leader_;
  std::unique_ptr<Capture> capture_;
  std::vector<CapturedFile> files_;
  std::unique_ptr<PositionLog> log_;
  std::unique_ptr<HashFile> hashes_;
  std::unique_ptr<Replica> replica_;
  Txid settled_at_ = 0;
};

TEST_F(KnownContentTest, NothingIsReadWhenNobodyHasTouchedIt) {
  for (int round = 0; round < 3; ++round) {
    open();
    EXPECT_FALSE(replica_->read_in_full());
    EXPECT_EQ(txid(), files_.size());
    EXPECT_EQ(replica_->check(), std::nullopt);
    commit();
    if (round == 1) {
      ASSERT_TRUE(replica_->settle());
    }
    close();
  }
  open();
  expect_the_same_in_the_end();
}

TEST_F(KnownContentTest, ACopyThatWasJustMadeIsKnown) {
  LtxDecoder first(source_of(files_[0].bytes));
  auto state = write_database(path("new.db"), {&first});
  open();
  replica_->put(path("new.db"), std::move(state), {1, 1});
  close();
  open();
  EXPECT_FALSE(replica_->read_in_full());
  EXPECT_EQ(txid(), 1U);
  expect_the_same_in_the_end();
}

TEST_F(KnownContentTest, ReadersOfACopyChangeNothingOfThat) {
  open();
  Handle reader(path("r.db"), Handle::Access::read_only);
  reader.exec("BEGIN");
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 100);
  commit();
  EXPECT_FALSE(replica_->settle()) << "a reader stands on an older state";
  reader.exec("COMMIT");
  commit();
  close();
  open();
  EXPECT_FALSE(replica_->read_in_full());
  expect_the_same_in_the_end();
}

// With no mark yet there is nowhere to note what a checkpoint in parts has done to the file.
TEST_F(KnownContentTest, ACheckpointInPartsIsTheNodesOwn) {
  std::ofstream(hash_file_path(path("r.db")), std::ios::trunc).flush();
  open();
  ASSERT_TRUE(replica_->read_in_full());
  Handle reader(path("r.db"), Handle::Access::read_only);
  reader.exec("BEGIN");
  reader.number("SELECT count(*) FROM t");
  for (int i = 0; i < 3; ++i) {
    commit();
    EXPECT_FALSE(replica_->settle()) << "a reader stands on an older state";
    EXPECT_TRUE(replica_->proven());
  }
  EXPECT_EQ(replica_->check(), std::nullopt);
  reader.close();
  EXPECT_TRUE(replica_->settle());
  EXPECT_TRUE(replica_->proven());
  expect_the_same_in_the_end();
}

TEST_F(KnownContentTest, AWriteInWalModeIsNoticed) {
  write_offline("UPDATE t SET v = 'mine' WHERE id = 3");
  expect_unknown();
}

TEST_F(KnownContentTest, AWriteInRollbackModeIsNoticed) {
  write_offline("PRAGMA journal_mode=DELETE; UPDATE t SET v = 'mine' WHERE id = 3");
  expect_unknown();
}

TEST_F(KnownContentTest, AVacuumIsNoticed) {
  write_offline("DELETE FROM t WHERE id < 50; VACUUM");
  expect_unknown();
}

// As `cp -p` does it: size, inode, salts and times stay as they were.
TEST_F(KnownContentTest, AnOlderFileThatIsCopiedOverItIsNoticed) {
  open();
  ASSERT_TRUE(replica_->settle());
  const auto older = txid();
  close();
  fs::copy_file(path("r.db"), path("older.db"));
  open();
  for (int i = 0; i < 3; ++i) commit();
  ASSERT_TRUE(replica_->settle());
  close();
  const auto written = fs::last_write_time(path("r.db"));
  const std::string bytes = bytes_of(path("older.db"));
  ASSERT_EQ(bytes.size(), fs::file_size(path("r.db")));
  std::fstream(path("r.db"), std::ios::in | std::ios::out | std::ios::binary) << bytes;
  fs::last_write_time(path("r.db"), written);
  open();
  EXPECT_TRUE(replica_->read_in_full());
  EXPECT_EQ(txid(), older + 3) << "what came since is still in the WAL, and SQLite reads it";
  expect_the_same_in_the_end();
}

TEST_F(KnownContentTest, AnOtherFileInItsPlaceIsNoticed) {
  for (const char* suffix : {"", "-wal"})
    fs::copy_file(path("p.db") + suffix, path("x.db") + suffix);
  Handle(path("x.db"), Handle::Access::read_write).exec("UPDATE t SET v = 'x'");
  for (const char* suffix : {"-wal", "-shm"}) fs::remove(path("r.db") + suffix);
  fs::rename(path("x.db"), path("r.db"));
  expect_unknown();
}

TEST_F(KnownContentTest, AWalThatIsCopiedOverItIsNoticed) {
  {
    Handle other = create("x.db", "PRAGMA page_size=512");
    other.exec("INSERT INTO t(v) VALUES('other')");
    fs::copy_file(path("x.db-wal"), path("r.db-wal"), fs::copy_options::overwrite_existing);
  }
  expect_unknown();
}

TEST_F(KnownContentTest, AWalThatIsGoneLeavesWhatTheFileHas) {
  fs::remove(path("r.db-wal"));
  open();
  EXPECT_FALSE(replica_->read_in_full());
  EXPECT_EQ(txid(), settled_at_);
  expect_the_same_in_the_end();
}

// It may be what SQLite has moved from the WAL: that is seen when all of it is read.
TEST_F(KnownContentTest, AByteThatIsChangedIsNoticed) {
  flip_byte(path("r.db"), 512 * 1 + 300);
  open();
  EXPECT_FALSE(replica_->proven());
  EXPECT_EQ(txid(), files_.size());
  EXPECT_TRUE(replica_->check()) << "it may not lead";
  const auto found = scan();
  EXPECT_EQ(found.named, std::vector<PageNumber>{2});
}

TEST_F(KnownContentTest, WhatSqliteHasMovedIntoTheFileIsProvenByReading) {
  // Its WAL stays as long as somebody has it open.
  Handle reader(path("r.db"), Handle::Access::read_only);
  reader.number("SELECT count(*) FROM t");
  ASSERT_EQ(Handle(path("r.db"), Handle::Access::read_write).number("PRAGMA wal_checkpoint"), 0);
  open();
  EXPECT_FALSE(replica_->read_in_full());
  EXPECT_FALSE(replica_->proven());
  EXPECT_EQ(txid(), files_.size());
  commit();
  // It is no evidence that the node itself has written to it since.
  ASSERT_FALSE(replica_->wants_checkpoint());
  replica_->settle();
  EXPECT_FALSE(replica_->proven());
  commit();
  const auto found = scan();
  EXPECT_TRUE(found.sound());
  EXPECT_TRUE(replica_->prove(found.file));
  EXPECT_TRUE(replica_->proven());
  EXPECT_EQ(replica_->check(), std::nullopt);
  close();
  open();
  EXPECT_TRUE(replica_->proven());
  expect_the_same_in_the_end();
}

TEST_F(KnownContentTest, WhatIsChangedBehindTheNodesBackIsNoCheckpointOfItsOwn) {
  open();
  flip_byte(path("r.db"), 512 * 1 + 300);
  commit();
  ASSERT_TRUE(replica_->settle());
  EXPECT_FALSE(replica_->proven());
  EXPECT_EQ(scan().named, std::vector<PageNumber>{2});
  close();
  open();
  EXPECT_TRUE(replica_->read_in_full()) << "nothing vouches for it after a start, neither";
  EXPECT_FALSE(replica_->position());
}

TEST_F(KnownContentTest, AHashFileThatIsGoneOrWrongCostsAReadOnly) {
  const std::string file = hash_file_path(path("r.db"));
  const std::string whole = bytes_of(file);
  const auto with = [&](const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
    open();
    EXPECT_TRUE(replica_->read_in_full());
    EXPECT_EQ(txid(), files_.size());
    close();
    std::ofstream(file, std::ios::binary | std::ios::trunc) << whole;
  };
  with("");
  with(whole.substr(0, 8192 + 30));
  with(whole.substr(0, 100));
  with(std::string(whole.size(), 'x'));
  // Of a page that the WAL does not have: its hash is read, and does not fit what was noted.
  int wrong = 0;
  for (std::size_t page = 1; page < 40; page += 3) {
    auto flipped = whole;
    flipped[8192 + 8 * page] = static_cast<char>(flipped[8192 + 8 * page] ^ 4);
    std::ofstream(file, std::ios::binary | std::ios::trunc) << flipped;
    open();
    wrong += replica_->read_in_full();
    EXPECT_EQ(txid(), files_.size());
    close();
  }
  EXPECT_GT(wrong, 0);
}

// A node that is killed while it writes the next mark's hashes: the older mark is there yet.
TEST_F(KnownContentTest, HashesOfTheNextMarkDoNoHarm) {
  const std::string file = hash_file_path(path("r.db"));
  const std::string before = bytes_of(file);
  open();
  commit();
  close();
  // What is noted next: of the pages that the WAL has.
  fs::copy_file(path("r.db"), path("c.db"));
  fs::copy_file(path("r.db-wal"), path("c.db-wal"));
  open();
  PageHashes next = replica_->state().pages;
  close();
  std::string torn = before;
  for (PageNumber n = 1; n <= next.size(); n += 2)
    for (int byte = 0; byte < 8; ++byte)
      torn[8192 + 8 * (n - 1) + static_cast<unsigned>(byte)] =
          static_cast<char>(next.at(n) >> (56 - 8 * byte));
  ASSERT_TRUE(torn != before);
  std::ofstream(file, std::ios::binary | std::ios::trunc) << torn;
  open();
  EXPECT_FALSE(replica_->read_in_full());
  EXPECT_EQ(txid(), files_.size());
  expect_the_same_in_the_end();
}

// What a power cut leaves of a WAL that was not synced: any part of its end is gone.
TEST_F(KnownContentTest, AWalThatIsCutAnywhereLeavesAnEarlierTransaction) {
  const std::string wal = path("r.db-wal");
  const std::string whole = bytes_of(wal);
  std::vector<Txid> found;
  for (std::size_t size = whole.size(); size > 0; size -= std::min<std::size_t>(size, 97)) {
    fs::resize_file(wal, size);
    open();
    ASSERT_FALSE(replica_->read_in_full()) << size;
    ASSERT_TRUE(replica_->position()) << size;
    ASSERT_GE(txid(), settled_at_) << size;
    if (found.empty() || found.back() != txid()) found.push_back(txid());
    close();
  }
  EXPECT_EQ(found.size(), files_.size() - settled_at_ + 1) << "each of them, and no other";
  EXPECT_TRUE(std::is_sorted(found.rbegin(), found.rend()));
  // Others follow, as long as those that are lost, and the node is told the truth of them.
  open();
  expect_the_same_in_the_end();
}

// The same, and commits go on behind the cut: salts and frames are those of what was lost.
TEST_F(KnownContentTest, WhatIsWrittenBehindACutIsNotTakenForWhatWasLost) {
  const std::string wal = path("r.db-wal");
  const auto size = fs::file_size(wal);
  for (const std::size_t lost : {1'000, 3'000, 6'000, 10'000}) {
    fs::resize_file(wal, size - std::min<std::size_t>(lost, size));
    open();
    const Txid at = txid();
    ASSERT_GE(at, settled_at_);
    ASSERT_LT(at, files_.size());
    for (const auto& file : files_)
      if (LtxDecoder(source_of(file.bytes)).header().min_txid > at) apply(file);
    EXPECT_EQ(txid(), files_.size());
    close();
    open();
    EXPECT_FALSE(replica_->read_in_full());
    EXPECT_EQ(txid(), files_.size());
    close();
    ASSERT_EQ(fs::file_size(wal), size);
  }
  open();
  expect_the_same_in_the_end();
}

/// The leader's side: its captures note marks, too.
class LeadersMarkTest : public SqliteTest {
 protected:
  static constexpr std::size_t kWalLimit = 100'000;

  void SetUp() override { db_ = create("p.db"); }
  void lead() {
    log_ = std::make_unique<PositionLog>(position_log_path(path("p.db")));
    hashes_ = std::make_unique<HashFile>(hash_file_path(path("p.db")));
    capture_ = std::make_unique<Capture>(
        CaptureOptions{
            .path = path("p.db"), .wal_limit = kWalLimit, .hashes = hashes_.get(), .epoch = 3},
        DatabaseState{}, false);
  }
  void commit(int times, bool checkpoint = true) {
    for (int i = 0; i < times; ++i) {
      db_.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
      capture_->follow();
      if (const auto captured = capture_->write([](std::string_view) {}))
        log_->append({3, capture_->written(), 0, captured->hashes.after, capture_->page_size(),
                      captured->end, true});
      if (checkpoint) capture_->checkpoint();
    }
  }
  /// As a node that begins again after that.
  void expect_known(bool proven) {
    capture_.reset();
    const Replica replica(path("p.db"), *log_, *hashes_, kWalLimit);
    EXPECT_FALSE(replica.read_in_full());
    EXPECT_EQ(replica.proven(), proven);
    ASSERT_TRUE(replica.position());
    EXPECT_EQ(replica.position()->txid, log_->records().back().txid);
    EXPECT_EQ(replica.position()->epoch, 3U);
  }

  Handle db_;
  std::unique_ptr<PositionLog> log_;
  std::unique_ptr<HashFile> hashes_;
  std::unique_ptr<Capture> capture_;
};

TEST_F(LeadersMarkTest, ALeaderThatHasLeftKnowsItsDatabase) {
  for (const int commits : {1, 20, 100, 3}) {
    lead();
    commit(commits);
    capture_->leave();
    expect_known(true);
    hashes_.reset();
    log_.reset();
  }
}

// The program checkpoints by itself, before and after the node was killed.
TEST_F(LeadersMarkTest, WhatIsMovedIntoTheFileBehindItsBackIsToBeProven) {
  lead();
  commit(60);
  ASSERT_TRUE(hashes_->mark());
  commit(5, false);
  capture_->leave();
  capture_.reset();
  ASSERT_EQ(db_.number("PRAGMA wal_checkpoint(PASSIVE)"), 0);
  expect_known(false);
}

TEST_F(LeadersMarkTest, AWriterThatCheckpointsAllTheTimeLosesNothing) {
  lead();
  db_.exec("PRAGMA wal_autocheckpoint=5");
  commit(200);
  capture_->leave();
  expect_known(true);
}

}  // namespace
}  // namespace cluster::sqlite
