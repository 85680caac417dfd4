// The file beside a database: what was noted is found again; damage costs records, never an answer
// that is wrong.
#include "sqlite/position_log.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "cluster/error.h"
#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

class PositionLogTest : public ::testing::Test {
 protected:
  static PositionRecord record(Txid txid) {
    return {3,         txid,
            txid + 10, (txid * 7919),
            4096,      {{1, 2}, 5, {6, static_cast<std::uint32_t>(txid)}}};
  }

  const testing::TemporaryFolder folder_;
  const std::string path_ = folder_ / "a.db-cluster";
};

TEST_F(PositionLogTest, FindsWhatWasNoted) {
  {
    PositionLog log(path_);
    EXPECT_TRUE(log.records().empty());
    log.set_history(77);
    for (Txid t = 1; t <= 10; ++t) log.append(record(t));
  }
  PositionLog log(path_);
  EXPECT_EQ(log.history(), 77U);
  ASSERT_EQ(log.records().size(), 10U);
  EXPECT_EQ(log.records().front(), record(1));
  EXPECT_EQ(log.records().back(), record(10));
  EXPECT_EQ(log.find(record(4).hash, 4096, {}), record(4));
  EXPECT_EQ(log.find(record(4).hash, 512, {}), std::nullopt);
  EXPECT_EQ(log.find(1, 4096, {}), std::nullopt);
  log.set_history(78);
  EXPECT_TRUE(log.records().empty()) << "they belonged to another history";
}

TEST_F(PositionLogTest, KnowsWhichFileHoldsNothingButWhatTheStreamHas) {
  {
    PositionLog log(path_);
    EXPECT_FALSE(log.all_from_stream(17)) << "nothing is known";
    EXPECT_FALSE(log.all_from_stream(0)) << "there is no such file";
    log.set_history(77);
    log.append(record(1));
    log.note_all_from_stream(17);
    EXPECT_TRUE(log.all_from_stream(17));
    EXPECT_FALSE(log.all_from_stream(18)) << "another file has taken its place";
  }
  {
    PositionLog log(path_);
    EXPECT_EQ(log.history(), 77U);
    ASSERT_EQ(log.records().size(), 1U);
    EXPECT_TRUE(log.all_from_stream(17));
    log.forget_all_from_stream();
    EXPECT_FALSE(log.all_from_stream(17));
  }
  PositionLog log(path_);
  EXPECT_FALSE(log.all_from_stream(17)) << "this node was about to lead";
  EXPECT_FALSE(log.all_from_stream(0));
  log.note_all_from_stream(17);
  log.set_history(78);
  EXPECT_FALSE(log.all_from_stream(17)) << "that was another history";
}

TEST_F(PositionLogTest, KnowsWhereItStoodInTheHistoryBefore) {
  const FormerPlace place{77, 3, 10, 4711};
  {
    PositionLog log(path_);
    log.set_history(77);
    EXPECT_EQ(log.former(), std::nullopt);
    log.append(record(10));
    log.set_history(78, place);
    EXPECT_EQ(log.former(), place);
    EXPECT_TRUE(log.ever_replicated());
  }
  PositionLog log(path_);
  EXPECT_EQ(log.history(), 78U);
  EXPECT_EQ(log.former(), place);
  EXPECT_TRUE(log.ever_replicated());
  EXPECT_TRUE(log.records().empty());
}

// Killed when the records were dropped, and before the new history was noted.
TEST_F(PositionLogTest, KnowsItAlsoWhenAChangeOfHistoryWasCutShort) {
  const FormerPlace place{77, 3, 10, 4711};
  {
    PositionLog log(path_);
    log.set_history(77, place);
    log.append(record(10));
  }
  std::filesystem::resize_file(path_, 72);
  PositionLog log(path_);
  EXPECT_EQ(log.history(), 77U);
  EXPECT_EQ(log.former(), place);
  EXPECT_TRUE(log.records().empty());
  log.set_history(78, log.former());
  EXPECT_EQ(log.former(), place);
}

TEST_F(PositionLogTest, MakesRoomForNewRecords) {
  constexpr Txid kCount = PositionLog::kRecords * 2 + 100;
  {
    PositionLog log(path_);
    for (Txid t = 1; t <= kCount; ++t) log.append(record(t));
  }
  PositionLog log(path_);
  ASSERT_EQ(log.records().size(), PositionLog::kRecords);
  EXPECT_EQ(log.records().front(), record(kCount - PositionLog::kRecords + 1));
  EXPECT_EQ(log.records().back(), record(kCount));
  log.append(record(kCount + 1));
  EXPECT_EQ(PositionLogTest::record(kCount + 1), log.records().back());
}

TEST_F(PositionLogTest, DropsDamagedRecords) {
  {
    PositionLog log(path_);
    for (Txid t = 1; t <= 5; ++t) log.append(record(t));
  }
  std::filesystem::resize_file(path_, 72 * 5 + 20);  // the fifth was being written
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(72 * 2 + 20);
    file.put('x');
  }
  PositionLog log(path_);
  ASSERT_EQ(log.records().size(), 3U);
  EXPECT_EQ(log.find(record(2).hash, 4096, {}), std::nullopt);
  EXPECT_EQ(log.records().back(), record(4));
}

TEST_F(PositionLogTest, BeginsAnewWithAFileThatIsNone) {
  std::ofstream(path_)
      << "something else, longer than a record of this file could ever be, so there";
  PositionLog log(path_);
  EXPECT_TRUE(log.records().empty());
}

TEST_F(PositionLogTest, RefusesAFileOfANewerVersion) {
  {
    PositionLog log(path_);
  }
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(7);
    file.put('\3');
  }
  try {
    PositionLog log(path_);
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::incompatible);
  }
}

TEST_F(PositionLogTest, IsLockedByOneAtATime) {
  PositionLog log(path_);
  EXPECT_THROW(PositionLog again(path_), Error);
}

}  // namespace
}  // namespace cluster::sqlite
