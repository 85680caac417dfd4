// The database of a leader, on a real server, under what lasts: readers that stay, and a JetStream
// that does not answer.
#include <cstdlib>
#include <fstream>
#include <string>

#include "integration/snapshot_fixture.h"
#include "slowness.h"

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

// ---- what was committed is waited for to be stored

struct Drained {
  std::optional<Failure> answer{};
  bool failed_with(Errc code) const { return answer && *answer && (*answer)->errc() == code; }
  bool done() const { return answer && !*answer; }
};

class Drain : public PrimaryTest {
 protected:
  static bool locked(Handle& db) {
    try {
      db.exec("INSERT INTO t(v) VALUES('late')");
      return false;
    } catch (const Error&) {
      return true;
    }
  }
  std::shared_ptr<Drained> drain(Lead& lead, const DrainLimits& limits, bool seal) {
    auto drained = std::make_shared<Drained>();
    lead.primary->drain(limits, seal,
                        [drained](const Failure& failure) { drained->answer = failure; });
    return drained;
  }
  bool wait(const std::shared_ptr<Drained>& drained) {
    return loop.run_until([&] { return drained->answer.has_value(); }, kLong);
  }
};

TEST_F(Drain, WithoutAnAnswerItEndsAfterNothingHasMovedForSoLong) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  testing::freeze(servers[0].pid());
  db.exec("INSERT INTO t(v) VALUES('waits')");
  const auto drained = drain(lead, {.quiet = std::chrono::milliseconds(300)}, false);
  ASSERT_TRUE(wait(drained));
  EXPECT_TRUE(drained->failed_with(Errc::not_replicated)) << (*drained->answer)->what();
  const auto at = lead.primary->status();
  EXPECT_EQ(at.committed, at.stored + 1);
  testing::thaw(servers[0].pid());
  lead.sync();
  EXPECT_FALSE(locked(db));
}

// It takes many times as long as nothing may move.
TEST_F(Drain, WhatMovesIsWaitedForHoweverLongThatTakes) {
  constexpr int kPauses = 10;
  const Duration pause = std::chrono::milliseconds(200) * slowness();
  const Duration quiet = 5 * pause;
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  testing::freeze(servers[0].pid());
  // So much is under way at a time, 4 MB, and no more.
  db.exec("INSERT INTO t(v) VALUES(randomblob(60000000))");
  const Time begun = BootClock::now();
  const auto drained = drain(lead, {.quiet = quiet}, false);
  for (int i = 0; i < kPauses && !drained->answer; ++i) {
    const auto stored = lead.primary->status().stored_bytes;
    testing::thaw(servers[0].pid());
    ASSERT_TRUE(loop.run_until(
        [&] { return lead.primary->status().stored_bytes != stored || drained->answer; }, kLong));
    testing::freeze(servers[0].pid());
    loop.run_until([&] { return drained->answer.has_value(); }, pause);
  }
  testing::thaw(servers[0].pid());
  ASSERT_TRUE(wait(drained));
  EXPECT_TRUE(drained->done()) << (*drained->answer)->what();
  EXPECT_GT(BootClock::now() - begun, quiet);
  EXPECT_EQ(lead.primary->status().stored, lead.primary->status().committed);
}

TEST_F(Drain, ALimitOfTimeEndsItAlsoWhileItMoves) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  testing::freeze(servers[0].pid());
  db.exec("INSERT INTO t(v) VALUES('waits')");
  const auto drained =
      drain(lead, {kLong, BootClock::now() + std::chrono::milliseconds(100)}, false);
  ASSERT_TRUE(wait(drained));
  EXPECT_TRUE(drained->failed_with(Errc::not_replicated));
}

TEST_F(Drain, SealedNobodyCommitsBehindItUntilItIsUnsealed) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  db.exec("INSERT INTO t(v) VALUES('before')");
  ASSERT_FALSE(locked(db));
  const auto drained = drain(lead, {.quiet = kLong}, true);
  ASSERT_TRUE(wait(drained));
  ASSERT_TRUE(drained->done()) << (*drained->answer)->what();
  EXPECT_EQ(lead.primary->status().stored, lead.primary->status().committed);
  EXPECT_TRUE(locked(db));
  EXPECT_EQ(rows("p.db"), 2) << "readers are not affected";
  bool unsealed = false;
  lead.primary->unseal([&] { unsealed = true; });
  ASSERT_TRUE(loop.run_until([&] { return unsealed; }, kLong));
  EXPECT_FALSE(locked(db));
}

TEST_F(Drain, ASealedOneThatFailsLetsWritersInAgain) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  testing::freeze(servers[0].pid());
  db.exec("INSERT INTO t(v) VALUES('waits')");
  const auto drained = drain(lead, {.quiet = std::chrono::milliseconds(300)}, true);
  ASSERT_TRUE(wait(drained));
  EXPECT_TRUE(drained->failed_with(Errc::not_replicated));
  EXPECT_FALSE(locked(db));
  testing::thaw(servers[0].pid());
  lead.sync();
}

TEST_F(Drain, AWriteTransactionThatLastsKeepsItFromBeingSealed) {
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  db.exec("BEGIN IMMEDIATE");
  const auto drained = drain(lead, {.quiet = std::chrono::milliseconds(300)}, true);
  ASSERT_TRUE(wait(drained));
  EXPECT_TRUE(drained->failed_with(Errc::not_replicated));
  db.exec("INSERT INTO t(v) VALUES(1)");
  db.exec("COMMIT");
  lead.sync();
  EXPECT_EQ(lead.primary->status().stored, lead.primary->status().committed);
}

}  // namespace
}  // namespace cluster::sqlite
