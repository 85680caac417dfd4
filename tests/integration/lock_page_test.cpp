// A database that grows beyond its first gigabyte, where a page is left out that SQLite locks with
// (sqlite.org/fileformat.html, "The Lock-Byte Page"): all that handles pages must leave it out,
// too.
#include <algorithm>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "integration/snapshot_fixture.h"
#include "sqlite/replica.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint32_t kPageSize = 65536;
constexpr std::uintmax_t kRoom = 6'000'000'000;  // bytes

class LockPage : public SnapshotFixture {
 protected:
  void SetUp() override {
#ifdef CLUSTER_SANITIZED
    GTEST_SKIP() << "optional: a gigabyte takes long with sanitizers, and shows them nothing new";
#endif
    if (std::filesystem::space(path("")).available < kRoom)
      GTEST_SKIP() << "optional: needs 6 GB of free disk in " << path("");
    SnapshotFixture::SetUp();
  }

  // Rows of pages that hold almost nothing, so that they compress well; page by page until the
  // database has as many.
  static void grow(Handle& db, PageNumber pages) {
    const auto left = [&] { return pages - db.number("PRAGMA page_count"); };
    while (left() > 200) db.exec("INSERT INTO t(v) VALUES(zeroblob(6500000))");
    while (left() > 0) db.exec("INSERT INTO t(v) VALUES(zeroblob(65000))");
  }

  static CapturedFile next_file(Capture& capture) {
    capture.follow();
    return CapturedFile::of(capture);
  }

  // Where two files differ; their size when they don't.
  std::uint64_t first_difference(const std::string& one, const std::string& other) {
    const UniqueFd a(::open(path(one).c_str(), O_RDONLY | O_CLOEXEC));
    const UniqueFd b(::open(path(other).c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<char> mine(kPageSize * 16), theirs(mine.size());
    off_t at = 0;
    while (true) {
      const ssize_t n = ::pread(a.get(), mine.data(), mine.size(), at);
      const ssize_t m = ::pread(b.get(), theirs.data(), theirs.size(), at);
      if (n <= 0 || n != m || !std::equal(mine.begin(), mine.begin() + n, theirs.begin()))
        return static_cast<std::uint64_t>(at) + (n <= 0 && m <= 0 ? 0 : 1);
      at += n;
    }
  }
  void checkpoint(const std::string& name) {
    Handle db(path(name), Handle::Access::read_write);
    EXPECT_EQ(db.number("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
  }
};

TEST_F(LockPage, IsLeftOutByAllThatCarriesPages) {
  constexpr PageNumber kLock = lock_page(kPageSize);
  Handle db(path("p.db"), Handle::Access::create);
  db.exec(
      "PRAGMA page_size=65536; PRAGMA auto_vacuum=FULL; PRAGMA synchronous=OFF;"
      "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
  grow(db, kLock - 20);
  db.exec("PRAGMA journal_mode=WAL");
  // A capture and a replica, across it and back.
  {
    Capture capture({.path = path("p.db")}, {}, false);
    PositionLog log(position_log_path(path("r.db")));
    HashFile hashes(hash_file_path(path("r.db")));
    Replica replica(path("r.db"), log, hashes, 1'000'000);
    std::uint64_t sequence = 0;
    const auto ship = [&] {
      const auto file = next_file(capture);
      LtxDecoder decoder(source_of(file.bytes));
      ASSERT_EQ(replica.apply(decoder, {.epoch = 1, .sequence = ++sequence}, file.hashes),
                std::nullopt);
      ASSERT_EQ(replica.state().pages.size(), db.number("PRAGMA page_count"));
      replica.checkpoint();
      capture.checkpoint();
    };
    ship();
    for (const PageNumber pages : {kLock - 3, kLock - 1, kLock + 1, kLock + 3, kLock + 20}) {
      grow(db, pages);
      ship();
    }
    EXPECT_GT(db.number("PRAGMA page_count"), kLock);
    db.exec("DELETE FROM t WHERE id > (SELECT max(id) FROM t) - 30");
    EXPECT_LT(db.number("PRAGMA page_count"), kLock);
    ship();
    grow(db, kLock + 40);
    ship();
    EXPECT_EQ(replica.check(), std::nullopt);
  }
  checkpoint("p.db");
  checkpoint("r.db");
  EXPECT_EQ(first_difference("p.db", "r.db"), std::filesystem::file_size(path("p.db")));
  std::filesystem::remove(path("r.db"));
  // A leader, a snapshot, and what is restored from it and the stream.
  Lead lead(*this, "p.db", 1);
  auto keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  keeper.reset();
  grow(db, kLock + 50);
  const Txid txid = lead.sync();
  EXPECT_EQ(restore("x.db").state.txid, txid) << "and it has passed integrity_check";
  lead.primary.reset();
  db.close();
  checkpoint("p.db");
  EXPECT_EQ(first_difference("p.db", "x.db"), std::filesystem::file_size(path("p.db")));
}

}  // namespace
}  // namespace cluster::sqlite
