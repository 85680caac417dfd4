// Random workloads on real databases: what a capture writes down of them, put together again, is
// the database, byte for byte, and so is the replica that it is applied to.
#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "integration/capture_fixture.h"
#include "sqlite/file.h"
#include "sqlite/replica.h"

namespace cluster::sqlite {
namespace {

// What sanitizers look for shows in few of them, and they make each slow.
#ifdef CLUSTER_SANITIZED
constexpr int kSeeds = 6;
#else
constexpr int kSeeds = 24;
#endif

// A replica to which all files are applied, that is read, checkpointed and opened anew meanwhile.
class LiveReplica {
 public:
  LiveReplica(std::string path, std::size_t wal_limit)
      : path_(std::move(path)), wal_limit_(wal_limit) {
    open();
  }

  void apply(const CapturedFile& file) {
    LtxDecoder decoder(source_of(file.bytes));
    ASSERT_EQ(replica_->apply(decoder, {.epoch = 1, .sequence = ++sequence_}, file.hashes),
              std::nullopt);
    ASSERT_TRUE(replica_->position());
    ASSERT_EQ(replica_->position()->txid, decoder.header().max_txid);
  }

  void disturb(unsigned how) {
    if (!replica_->exists()) return;
    switch (how % 6) {
      case 0:
        // A reader that sees what there is now until it is disturbed so again.
        if (std::exchange(reader_, {})) break;
        reader_ = Handle(path_, Handle::Access::read_only);
        reader_.exec("BEGIN; SELECT count(*) FROM t");
        break;
      case 1:
        replica_.reset();
        log_.reset();
        open();
        ASSERT_TRUE(replica_->position());
        ASSERT_EQ(replica_->position()->sequence, sequence_);
        break;
      default: replica_->checkpoint(); break;
    }
  }

  /// What is wrong with it, if anything; it is let go of then.
  std::optional<std::string> finish() {
    auto wrong = replica_->check();
    reader_.close();
    replica_.reset();
    log_.reset();
    return wrong;
  }

 private:
  void open() {
    log_ = std::make_unique<PositionLog>(position_log_path(path_));
    hashes_ = std::make_unique<HashFile>(hash_file_path(path_));
    replica_ = std::make_unique<Replica>(path_, *log_, *hashes_, wal_limit_);
  }

  const std::string path_;
  const std::size_t wal_limit_;
  std::unique_ptr<PositionLog> log_;
  std::unique_ptr<HashFile> hashes_;
  std::unique_ptr<Replica> replica_;
  Handle reader_;
  std::uint64_t sequence_ = 0;
};

// Several connections, all kinds of statements, checkpoints by others, page sizes and ways of
// vacuuming.
class Anything : public CaptureTest, public ::testing::WithParamInterface<int> {
 protected:
  // The first page that is not the same; 0: none.
  static std::size_t first_difference(const std::string& got, const std::string& expected,
                                      int page_size) {
    const auto differ = std::mismatch(got.begin(), got.end(), expected.begin(), expected.end());
    if (differ.first == got.end() && differ.second == expected.end()) return 0;
    return static_cast<std::size_t>((differ.first - got.begin()) / page_size + 1);
  }
};

TEST_P(Anything, IsCapturedAndAppliedByteForByte) {
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
  bool reading = false, copying = false;
  auto capturing = capture("a.db", {}, false, static_cast<std::size_t>(page_size) * 40);
  Mirror mirror;
  LiveReplica replica(path("r.db"), static_cast<std::size_t>(page_size) * 40);
  const auto ship_to_both = [&] {
    const auto file = ship(*capturing, mirror);
    if (!file.bytes.empty()) replica.apply(file);
  };
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
      case 12:
        ship_to_both();
        replica.disturb(static_cast<unsigned>(below(6)));
        if (check_copy(*capturing, mirror)) copying = false;
        break;
      case 13:
        if (!std::exchange(copying, true)) capturing->begin_copy(temporary_file(path("")));
        capturing->copy_more(static_cast<std::size_t>(page_size * below(60)));
        if (check_copy(*capturing, mirror)) copying = false;
        break;
      default:
        db.exec("INSERT INTO t(v) VALUES(randomblob(" + std::to_string(below(1500)) + "))");
        break;
    }
    ASSERT_FALSE(HasFatalFailure()) << "step " << i;
  }
  ship_to_both();
  EXPECT_EQ(replica.finish(), std::nullopt);
  if (!copying) capturing->begin_copy(temporary_file(path("")));
  capturing->copy_more(std::size_t{1} << 30);
  EXPECT_TRUE(check_copy(*capturing, mirror));
  EXPECT_EQ(capturing->gaps(), 0U);
  capturing.reset();
  if (reading) other.exec("COMMIT");
  other.close();
  db.close();
  const auto expected = settled("a.db");
  EXPECT_EQ(first_difference(mirror.bytes(), expected, page_size), 0U);
  EXPECT_EQ(first_difference(settled("r.db"), expected, page_size), 0U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Anything, ::testing::Range(0, kSeeds));

}  // namespace
}  // namespace cluster::sqlite
