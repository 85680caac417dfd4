// The database of a leader, on a real server, under what lasts: readers that stay, and a JetStream
// that does not answer.
#include <cstdlib>
#include <fstream>
#include <string>

#include "integration/snapshot_fixture.h"

namespace cluster::sqlite {
namespace {

#ifdef CLUSTER_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr std::uint64_t kMegabyte = 1024 * 1024;

class PrimaryTest : public SnapshotFixture {
 protected:
  void TearDown() override { testing::thaw(servers[0].pid()); }

  /// Of this process, in memory.
  static std::uint64_t resident_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("VmRSS:"))
        return std::strtoull(line.c_str() + 6, nullptr, 10) * std::uint64_t{1024};
    return 0;
  }
};

TEST_F(PrimaryTest, AReaderThatStaysKeepsTheWalLongButReplicationGoesOn) {
  constexpr std::size_t kLimit = 256 * 1024;
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1, {}, kLimit);
  auto keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  db.exec("INSERT INTO t(v) VALUES('before')");
  Handle reader(path("p.db"), Handle::Access::read_only);
  reader.exec("BEGIN");
  ASSERT_EQ(reader.number("SELECT count(*) FROM t"), 1);
  const auto wal_bytes = [&] { return lead.primary->status().wal_bytes; };
  // Far beyond what it would be without the reader.
  int rows = 1;
  while (wal_bytes() < 16 * kLimit) {
    ASSERT_LT(rows, 10'000);
    for (int i = 0; i < 20; ++i, ++rows) db.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
    lead.sync();
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_EQ(reader.number("SELECT count(*) FROM t"), 1) << "it sees what it saw";
  restore("while.db");
  EXPECT_EQ(this->rows("while.db"), rows) << "all that was committed is in the stream";
  reader.exec("COMMIT");
  // The WAL is begun anew by a transaction.
  Txid txid = 0;
  const Time end = BootClock::now() + kLong;
  do {
    db.exec("INSERT INTO t(v) VALUES(1)");
    txid = lead.sync();
  } while (wal_bytes() >= kLimit && BootClock::now() < end);
  EXPECT_LT(wal_bytes(), kLimit);
  EXPECT_EQ(lead.primary->status().gaps, 0U);
  EXPECT_EQ(lead.primary->status().degraded, "");
  keeper.reset();
  EXPECT_EQ(restore("after.db").state.txid, txid);
  lead.primary.reset();
  reader.close();
  db.close();
  EXPECT_TRUE(settled("after.db") == settled("p.db"));
}

// What waits is in the WAL, not in memory.
TEST_F(PrimaryTest, WhileJetStreamDoesNotAnswerMemoryStaysBoundedAndTheLagIsCounted) {
  constexpr std::uint64_t kWritten = (kSanitized ? 16 : 160) * kMegabyte;
  constexpr std::uint64_t kRow = kMegabyte / 8;
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto keeper = keep(lead, keeper_options());
  create_snapshot(*keeper);
  keeper.reset();
  const auto before = resident_bytes();
  std::uint64_t highest = before;
  testing::freeze(servers[0].pid());
  const auto stored = lead.primary->status().stored;
  for (std::uint64_t written = 0; written < kWritten; written += kRow) {
    db.exec("INSERT OR REPLACE INTO t VALUES(" + std::to_string(written / kRow % 800) +
            ", randomblob(" + std::to_string(kRow) + "))");
    loop.run_once(Duration(0));
    highest = std::max(highest, resident_bytes());
  }
  ASSERT_TRUE(loop.run_until(
      [&] { return lead.primary->status().committed == stored + kWritten / kRow; }, kLong));
  highest = std::max(highest, resident_bytes());
  const auto at = lead.primary->status();
  EXPECT_EQ(at.stored, stored) << "nothing is acknowledged";
  EXPECT_GT(at.pending_bytes, kWritten / 2);
  EXPECT_LT(at.pending_bytes, 2 * kWritten);
  if (!kSanitized) {
    ASSERT_GT(before, 0U);
    EXPECT_LT((highest - before) / kMegabyte, 64U) << "megabytes more than at first";
  }
  testing::thaw(servers[0].pid());
  ASSERT_TRUE(loop.run_until(
      [&] { return lead.primary->status().stored == stored + kWritten / kRow; }, kLong));
  EXPECT_EQ(lead.primary->status().pending_bytes, 0U);
  restore("r.db");
  lead.primary.reset();
  db.close();
  EXPECT_TRUE(settled("r.db") == settled("p.db"));
}

}  // namespace
}  // namespace cluster::sqlite
