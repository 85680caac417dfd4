// When a scrub is due, how fast it goes, and what a node keeps of how far it is.
#include "sqlite/scrub_record.h"

#include <chrono>
#include <string>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kNow = 1'750'000'000'000;  // ms since 1970
constexpr std::int64_t kDay = 24LL * 3'600 * 1'000;

ScrubRecord some_record() {
  return {.next = 4711,
          .since_ms = kNow - 9 * kDay,
          .begun_ms = kNow - kDay,
          .ended_ms = kNow - 8 * kDay,
          .wrong = 3,
          .repaired = 2,
          .last_pages = 99};
}

TEST(ScrubRecordTest, IsReadAsItWasWritten) {
  const testing::TemporaryFolder folder;
  const std::string path = folder / "a.db-cluster-scrub";
  EXPECT_EQ(read_scrub_record(path), std::nullopt);
  write_scrub_record(path, some_record());
  EXPECT_EQ(read_scrub_record(path), some_record());
  write_scrub_record(path, {.since_ms = 1});
  EXPECT_EQ(read_scrub_record(path), ScrubRecord{.since_ms = 1});
}

RC_GTEST_PROP(ScrubRecordTest, WithAnyByteChangedItCountsForNothing, ()) {
  std::string bytes = bytes_of(some_record());
  const auto at = *rc::gen::inRange<std::size_t>(0, bytes.size());
  bytes[at] = static_cast<char>(bytes[at] ^ *rc::gen::inRange(1, 256));
  RC_ASSERT(!scrub_record_from(bytes));
}

TEST(ScrubRecordTest, WhatCanNotBeCountsForNothing) {
  const std::string good = bytes_of(some_record());
  EXPECT_EQ(scrub_record_from(good), some_record());
  EXPECT_EQ(scrub_record_from(""), std::nullopt);
  EXPECT_EQ(scrub_record_from(good.substr(1)), std::nullopt);
  EXPECT_EQ(scrub_record_from(good + "x"), std::nullopt);
  ScrubRecord bad = some_record();
  bad.next = 0;
  EXPECT_EQ(scrub_record_from(bytes_of(bad)), std::nullopt);
  bad = some_record();
  bad.ended_ms = -1;
  EXPECT_EQ(scrub_record_from(bytes_of(bad)), std::nullopt);
  bad = some_record();
  bad.begun_ms = 0;
  EXPECT_EQ(scrub_record_from(bytes_of(bad)), std::nullopt) << "in the middle of none";
}

TEST(ScrubPlanTest, OneIsDueAnIntervalAfterTheLastEachNodeAtATimeOfItsOwn) {
  const ScrubOptions options{.interval = 240h};
  const ScrubRecord record{.since_ms = kNow - 100 * kDay, .ended_ms = kNow - 5 * kDay};
  EXPECT_EQ(until_scrub(record, options, 0, kNow), Duration(5 * 24h));
  EXPECT_EQ(until_scrub(record, options, 500, kNow), Duration(5 * 24h - 12h));
  EXPECT_EQ(until_scrub(record, options, 0, kNow + 5 * kDay), Duration(0));
  ScrubRecord never = record;
  never.ended_ms = 0;
  EXPECT_EQ(until_scrub(never, options, 0, kNow), Duration(0)) << "since the node has the database";
}

TEST(ScrubPlanTest, OneThatIsUnderWayGoesOnAtOnce) {
  EXPECT_EQ(until_scrub(some_record(), {}, 0, kNow), Duration(0));
}

TEST(ScrubPlanTest, ATimeThatIsStillToComeWasAWrongClocks) {
  const ScrubRecord record{.since_ms = kNow + kDay, .ended_ms = kNow + 1'000 * kDay};
  EXPECT_EQ(until_scrub(record, {}, 0, kNow), Duration(0));
}

TEST(ScrubPlanTest, ItIsOverdueAfterTwiceTheInterval) {
  const ScrubOptions options{.interval = 24h};
  const ScrubRecord record{.since_ms = kNow, .ended_ms = 0};
  EXPECT_FALSE(scrub_overdue(record, options, kNow + 2 * kDay));
  EXPECT_TRUE(scrub_overdue(record, options, kNow + 2 * kDay + 1));
  EXPECT_FALSE(scrub_overdue(record, {.interval = 0s}, kNow + 9 * kDay)) << "it is off";
}

RC_GTEST_PROP(ScrubPlanTest, StepsAndPausesKeepToTheRate, ()) {
  ScrubOptions options;
  options.rate = *rc::gen::inRange<std::uint64_t>(64 * 1024, std::uint64_t{16} << 30);
  const auto step = scrub_step_bytes(options);
  RC_ASSERT(step >= 64 * 1024 && step <= 1024 * 1024);
  const Duration took = std::chrono::microseconds(*rc::gen::inRange(0, 100'000));
  const std::chrono::duration<double> all = took + pause_after(step, took, options);
  RC_ASSERT(static_cast<double>(step) <=
            all.count() * static_cast<double>(options.rate) * 1.001 + 64.0);
}

}  // namespace
}  // namespace cluster::sqlite
