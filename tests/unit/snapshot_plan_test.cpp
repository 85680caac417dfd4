// What becomes of the files of a snapshot bucket: nothing that is still needed goes, what can be
// restored stays so.
#include "sqlite/snapshot_plan.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "sqlite/record_time.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint64_t kHistory = 5;
constexpr std::int64_t kSecond = 1'000, kHour = 3'600'000;

std::int64_t ns(std::int64_t ms) { return ms * 1'000'000; }
// Both clocks at once, as when all of them are right and a node leads all the time.
PlanTime both(std::int64_t ms) { return {ns(ms), ms}; }

// Each transaction has a record of its own, whose sequence is ten more, and a second.
StoredFile file(int level, Txid min, Txid max, std::uint64_t size = 1'000) {
  const auto ms = static_cast<std::int64_t>(max) * kSecond;
  return {level, min, max, ns(ms), {kHistory, 1, max + 10, max}, size, ms};
}
StoredFile snapshot(Txid max, std::uint64_t size = 100'000) { return file(9, 1, max, size); }

StreamRange stream(Txid first, Txid last) { return {kHistory, first + 10, last + 10, 1'000, ""}; }

std::vector<std::string> names(const Files& files) {
  std::vector<std::string> all;
  for (const auto& f : files)
    all.push_back(std::to_string(f.level) + ":" + std::to_string(f.min) + "-" +
                  std::to_string(f.max));
  return all;
}
using Names = std::vector<std::string>;

TEST(SnapshotPlan, RestoreTakesTheNewestSnapshotAndTheFewestFiles) {
  const Files files{snapshot(10),    snapshot(40),    file(1, 11, 20), file(1, 21, 30),
                    file(1, 31, 45), file(1, 46, 50), file(2, 31, 50), file(1, 51, 60)};
  EXPECT_EQ(names(plan_restore(files)), (Names{"9:1-40", "2:31-50", "1:51-60"}));
  EXPECT_EQ(names(plan_restore(files, {.txid = 47})), (Names{"9:1-40", "1:31-45"}));
  EXPECT_EQ(names(plan_restore(files, {.txid = 39})), (Names{"9:1-10", "1:11-20", "1:21-30"}));
  EXPECT_EQ(names(plan_restore(files, {.time_ns = ns(55 * kSecond)})),
            (Names{"9:1-40", "2:31-50"}));
  EXPECT_TRUE(plan_restore(files, {.txid = 9}).empty());
  EXPECT_TRUE(plan_restore({}, {}).empty());
}

TEST(SnapshotPlan, OneSnapshotIsRemovedUnlessItIsTheNewestThatCounts) {
  auto other = snapshot(90);  // of a stream that is gone
  other.end.history = 6;
  other.led_ms = other.time_ns = 1;
  const Files files{snapshot(10), file(1, 11, 20), snapshot(30), other};
  const auto now = stream(1, 40);
  EXPECT_EQ(plan_removal(files, now, 10, false).value(), snapshot(10));
  EXPECT_EQ(plan_removal(files, now, 90, false).value(), other);
  EXPECT_EQ(plan_removal(files, now, 30, false).error().errc(), Errc::invalid_argument);
  EXPECT_EQ(plan_removal(files, now, 30, true).value(), snapshot(30));
  EXPECT_EQ(plan_removal(files, now, 20, true).error().errc(), Errc::not_found)
      << "that is no snapshot";
  EXPECT_EQ(plan_removal(files, {}, 30, false).error().errc(), Errc::invalid_argument)
      << "without a stream, of the newest file's history";
}

TEST(SnapshotPlan, AGapEndsWhatCanBeRestored) {
  EXPECT_EQ(names(plan_restore({snapshot(10), file(1, 12, 20)})), Names{"9:1-10"});
}

TEST(SnapshotPlan, FilesOfOtherHistoriesAndBehindTheStreamDoNotCount) {
  auto other = snapshot(20);
  other.end.history = 6;
  EXPECT_EQ(files_of({snapshot(10), other, snapshot(30)}, stream(1, 25)), Files{snapshot(10)});
}

TEST(SnapshotPlan, TheStreamIsMergedWhereTheOldestChainEnds) {
  const Files files{snapshot(10), file(1, 11, 20), snapshot(30)};
  EXPECT_EQ(merge_start(files, stream(5, 40)), file(1, 11, 20));
  EXPECT_EQ(merge_start(files, stream(21, 40)), file(1, 11, 20));
  EXPECT_EQ(merge_start(files, stream(22, 40)), snapshot(30)) << "that chain is broken";
  EXPECT_EQ(merge_start(files, stream(5, 40), 30), snapshot(30)) << "it was given up";
  EXPECT_FALSE(merge_start(files, stream(32, 40)));
  EXPECT_FALSE(merge_start({}, stream(1, 40)));
}

TEST(SnapshotPlan, SixteenAdjacentFilesMakeOneOfTheNextLevel) {
  Files files{snapshot(10)};
  for (Txid at = 11; at < 11 + 15; ++at) files.push_back(file(1, at, at));
  EXPECT_TRUE(plan_merges(files, {}).empty());
  files.push_back(file(1, 26, 26));
  const auto merges = plan_merges(files, {});
  ASSERT_EQ(merges.size(), 1U);
  EXPECT_EQ(merges[0].level, 2);
  EXPECT_EQ(merges[0].sources.size(), 16U);
  EXPECT_EQ(merges[0].sources.front(), file(1, 11, 11));
  EXPECT_EQ(merges[0].sources.back(), file(1, 26, 26));
  files.push_back(file(2, 11, 26));
  EXPECT_TRUE(plan_merges(files, {}).empty()) << "that has been done";
}

TEST(SnapshotPlan, FilesWithAGapAreNotMerged) {
  Files files{snapshot(10)};
  for (Txid at = 11; at < 11 + 40; ++at)
    if (at % 10 != 0) files.push_back(file(1, at, at));
  EXPECT_TRUE(plan_merges(files, {}).empty());
}

TEST(SnapshotPlan, ASnapshotIsDueWhenThereIsNoneOrTheStreamGoesOnFromNone) {
  EXPECT_EQ(snapshot_due({}, stream(1, 5), 5, both(0), {}), "there is none");
  EXPECT_EQ(snapshot_due({snapshot(10)}, stream(12, 20), 20, both(0), {}),
            "the stream goes on from none");
  EXPECT_EQ(snapshot_due({snapshot(10)}, stream(11, 20), 20, both(0), {}), "");
  EXPECT_EQ(snapshot_due({snapshot(10), file(1, 11, 15)}, stream(16, 20), 20, both(0), {}), "");
}

TEST(SnapshotPlan, ASnapshotIsDueAfterTheIntervalOnlyWhenSomethingHasChanged) {
  const std::int64_t late = 10 * kSecond + kHour;
  EXPECT_EQ(snapshot_due({snapshot(10)}, stream(5, 10), 10, both(late), {}), "");
  EXPECT_EQ(snapshot_due({snapshot(10)}, stream(5, 11), 11, both(late - 1), {}), "");
  EXPECT_EQ(snapshot_due({snapshot(10)}, stream(5, 11), 11, both(late), {}),
            "the newest one is old");
}

TEST(SnapshotPlan, ASnapshotIsDueWhenEitherClockSaysSo) {
  const auto due = [](std::int64_t jetstream_ms, std::int64_t led_ms) {
    return snapshot_due({snapshot(10)}, stream(5, 11), 11, {ns(jetstream_ms), led_ms}, {});
  };
  const std::int64_t then = 10 * kSecond;
  EXPECT_EQ(due(then + kHour - 1, then + kHour - 1), "");
  EXPECT_EQ(due(then, then + kHour), "the newest one is old")
      << "a server was ahead when it stored";
  EXPECT_EQ(due(then - 3 * kHour, then + kHour), "the newest one is old");
  EXPECT_EQ(due(then + kHour, then), "the newest one is old") << "nobody led for an hour";
  EXPECT_EQ(due(0, then), "") << "JetStream's time is not known";
}

TEST(SnapshotPlan, ASnapshotIsDueWhenANewcomerWouldReadMuchBehindIt) {
  SnapshotOptions options;
  options.replay_bytes = 50'000;
  const auto due = [&](std::uint64_t size, std::uint64_t merged, std::uint64_t tail) {
    auto range = stream(21, 30);
    range.bytes = tail;
    return !snapshot_due({snapshot(10, size), file(1, 11, 20, merged)}, range, 30, both(0), options)
                .empty();
  };
  EXPECT_FALSE(due(1'000, 25'000, 25'000));
  EXPECT_TRUE(due(1'000, 25'000, 25'002));
  EXPECT_FALSE(due(30'000, 30'000, 30'000)) << "twice the database";
  EXPECT_TRUE(due(30'000, 30'000, 30'002));
}

TEST(SnapshotPlan, OldSnapshotsGoButSoManyStay) {
  const std::int64_t now = 1'000 * kHour;
  EXPECT_EQ(names(plan_deletions({snapshot(1), snapshot(2), snapshot(3)}, kHistory, now, {})),
            Names{"9:1-1"});
  SnapshotOptions options;
  options.kept = 1;
  EXPECT_EQ(names(plan_deletions({snapshot(1), snapshot(2), snapshot(3)}, kHistory, now, options)),
            (Names{"9:1-2", "9:1-1"}));
  EXPECT_TRUE(plan_deletions({snapshot(1), snapshot(2), snapshot(3)}, kHistory, 4'000, {}).empty());
}

TEST(SnapshotPlan, MergedFilesGoWithTheSnapshotsThatTheyFollow) {
  const Files files{snapshot(1), snapshot(20), snapshot(40), file(1, 2, 20), file(1, 21, 40)};
  EXPECT_EQ(names(plan_deletions(files, kHistory, 1'000 * kHour, {})), (Names{"9:1-1", "1:2-20"}));
}

TEST(SnapshotPlan, MergedSourcesStayForAWhile) {
  const Files files{snapshot(1), file(1, 2, 3), file(1, 4, 5), file(2, 2, 5)};
  EXPECT_TRUE(plan_deletions(files, kHistory, kHour, {}).empty());
  EXPECT_EQ(names(plan_deletions(files, kHistory, 4 * kHour, {})), (Names{"1:2-3", "1:4-5"}));
}

TEST(SnapshotPlan, AnotherHistoryGoesOnceThisOneIsSafeAndThatIsOld) {
  auto other = snapshot(7);
  other.end.history = 6;
  const std::int64_t now = 1'000 * kHour;
  EXPECT_TRUE(plan_deletions({other}, kHistory, now, {}).empty());
  EXPECT_TRUE(plan_deletions({other, snapshot(1)}, kHistory, now, {}).empty());
  EXPECT_EQ(plan_deletions({other, snapshot(1), snapshot(2)}, kHistory, now, {}), Files{other});
  EXPECT_TRUE(plan_deletions({other, snapshot(1), snapshot(2)}, kHistory, kHour, {}).empty());
}

TEST(SnapshotPlan, TheStreamIsTrimmedBehindItsWindowOnly) {
  const Files files{snapshot(10), file(1, 11, 20), file(1, 21, 30)};
  const auto at = [&](std::int64_t now) { return plan_trim(files, stream(1, 40), now, {}); };
  EXPECT_EQ(at(20 * kSecond), 11U) << "all that there is";
  EXPECT_EQ(at(20 * kSecond + kHour), 20U) << "what it ends with stays";
  EXPECT_EQ(at(20 * kSecond + kHour + 1), 30U);
  EXPECT_EQ(at(100 * kHour), 40U) << "what no file has stays";
  auto much = stream(1, 40);
  much.bytes = 1'000'000'000;
  EXPECT_EQ(plan_trim(files, much, 20 * kSecond + 60'001, {}), 30U);
}

TEST(SnapshotPlan, WhatIsNotMergedStaysInTheStreamEvenIfASnapshotHasIt) {
  // Else no moment between the two snapshots could be restored.
  EXPECT_EQ(
      plan_trim({snapshot(10), file(1, 11, 20), snapshot(30)}, stream(5, 40), 100 * kHour, {}),
      30U);
}

TEST(SnapshotPlan, TheLastRecordOfTheStreamStays) {
  EXPECT_EQ(plan_trim({snapshot(40)}, stream(1, 40), 100 * kHour, {}), 50U);
  EXPECT_EQ(plan_trim({}, stream(1, 40), 100 * kHour, {}), 11U);
  auto more = stream(1, 40);
  more.last += 5;
  EXPECT_EQ(plan_trim({snapshot(40)}, more, 100 * kHour, {}), 50U)
      << "with messages behind it that are none of ours";
}

TEST(SnapshotPlan, WithoutAStreamTheHistoryCountsThatWasWrittenLast) {
  // Its times are earlier: another server stamped them.
  auto late = snapshot(5), early = snapshot(9);
  late.end.history = 6;
  late.led_ms = early.led_ms + 1;
  late.time_ns = 1;
  const Files files{early, late};
  EXPECT_EQ(files_meant(files, {}), Files{late});
  const auto all = histories_of(files, {});
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[1], Files{early});
  const auto with = histories_of(files, stream(1, 40));
  ASSERT_EQ(with.size(), 2U);
  EXPECT_EQ(with[0], Files{early}) << "the stream's own";
  const StreamRange fresh{7, 1, 0, 0, ""};
  ASSERT_EQ(histories_of(files, fresh).size(), 3U);
  EXPECT_TRUE(histories_of(files, fresh)[0].empty()) << "the stream may have it all";
}

// ---- a bucket's life, step by step

struct Life {
  Files files;
  Txid first = 1, last = 1;
  std::int64_t now = 0;
  SnapshotOptions options;

  Files own() const { return files_of(files, range()); }
  StreamRange range() const { return {kHistory, first + 10, last + 10, (last - first) * 100, ""}; }
  void turn() {
    now = static_cast<std::int64_t>(last) * kSecond;
    if (!snapshot_due(own(), range(), last, both(now), options).empty())
      files.push_back(snapshot(last));
    if (const auto start = merge_start(own(), range()); start && start->max < last)
      files.push_back(file(1, start->max + 1, last));
    for (const auto& merge : plan_merges(own(), options))
      files.push_back(file(merge.level, merge.sources.front().min, merge.sources.back().max));
    for (const auto& gone : plan_deletions(files, kHistory, now, options)) std::erase(files, gone);
    first = std::max(first, plan_trim(own(), range(), now, options) - 10);
  }
};

RC_GTEST_PROP(SnapshotPlan, WhatWasStoredCanAlwaysBeRestored, ()) {
  Life life;
  life.options.interval = std::chrono::seconds(*rc::gen::inRange(5, 200));
  life.options.retention = std::chrono::seconds(*rc::gen::inRange(0, 500));
  life.options.kept = *rc::gen::inRange(1, 4);
  life.options.merge_count = *rc::gen::inRange(2, 6);
  life.options.fine = std::chrono::seconds(*rc::gen::inRange(0, 100));
  life.options.stream_window = std::chrono::seconds(*rc::gen::inRange(0, 100));
  const auto steps = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 20));
  for (const int step : steps) {
    life.last += static_cast<Txid>(step);
    life.turn();
    const auto chain = plan_restore(life.own());
    RC_ASSERT(!chain.empty());
    RC_ASSERT(chain.back().max + 1 >= life.first);  // and the stream has the rest
    RC_ASSERT(life.first <= life.last);
    // Everything since the oldest snapshot, too: no chain has a gap.
    Txid oldest = life.last;
    for (const auto& f : life.files)
      if (f.snapshot()) oldest = std::min(oldest, f.max);
    for (Txid target = oldest; target <= life.last; ++target) {
      const auto to = plan_restore(life.own(), {.txid = target});
      RC_ASSERT(!to.empty());
      RC_ASSERT(to.back().max <= target);
    }
    for (const auto& f : life.files)
      if (f.snapshot()) {
        Files only{f};
        for (const auto& other : life.own())
          if (!other.snapshot()) only.push_back(other);
        RC_ASSERT(plan_restore(only).back().max + 1 >= life.first);
      }
  }
}

// Servers' clocks differ and are set: what a record is stamped with may be anything.
struct SkewedLife : Life {
  std::vector<std::int64_t> stamps{0};  // by transaction

  void commit(std::int64_t stamp) {
    stamps.push_back(stamp);
    last = stamps.size() - 1;
  }
  std::int64_t effective(Txid txid) const {
    return *std::max_element(stamps.begin(),
                             stamps.begin() + static_cast<std::ptrdiff_t>(txid) + 1);
  }
  void turn() {
    Life::turn();
    for (auto& f : files) f.time_ns = effective(f.max);
  }
  /// Where a restore to `time` ends: with files, then with the stream.
  Txid restored(std::int64_t time) const {
    const auto chain = plan_restore(own(), {.time_ns = time});
    Txid at = chain.empty() ? 0 : chain.back().max;
    if (at + 1 < first) return at;
    EffectiveTime clock(chain.empty() ? 0 : chain.back().time_ns);
    while (at < last && clock.at(stamps[at + 1]) <= time) ++at;
    return at;
  }
  /// The last transaction before the first one that is later.
  Txid wanted(std::int64_t time) const {
    Txid at = 0;
    while (at < last && stamps[at + 1] <= time) ++at;
    return at;
  }
};

RC_GTEST_PROP(SnapshotPlan, ATimeIsNeverRestoredBeyondAndExactlyWhereTheStreamGoesBack, ()) {
  SkewedLife life;
  life.first = 1;
  life.last = 0;
  life.options.interval = std::chrono::seconds(*rc::gen::inRange(5, 50));
  life.options.retention = std::chrono::seconds(*rc::gen::inRange(0, 500));
  life.options.merge_count = *rc::gen::inRange(2, 6);
  life.options.fine = std::chrono::seconds(*rc::gen::inRange(0, 100));
  life.options.stream_window = std::chrono::seconds(*rc::gen::inRange(0, 100));
  const auto stamps =
      *rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(1, 1'000));
  for (const auto stamp : stamps) {
    life.commit(stamp);
    if (stamp % 3 == 0) life.turn();
    for (std::int64_t time = 0; time <= 1'000; time += 37) {
      const Txid at = life.restored(time), wanted = life.wanted(time);
      RC_ASSERT(at <= wanted);
      RC_ASSERT(at == wanted || life.first > at + 1);
    }
    RC_ASSERT(life.restored(INT64_MAX) == life.last);
  }
}

RC_GTEST_PROP(SnapshotPlan, NoTimeThatAServerStampsMakesAnythingOld, ()) {
  Files files;
  for (Txid txid = 1; txid < 40; ++txid)
    files.push_back(txid % 4 == 0 ? snapshot(txid) : file(1, txid, txid));
  const auto led = *rc::gen::inRange<std::int64_t>(0, 60 * kSecond);
  SnapshotOptions options;
  options.retention = std::chrono::seconds(*rc::gen::inRange(0, 80));
  options.fine = options.stream_window = std::chrono::seconds(*rc::gen::inRange(0, 80));
  const auto names_gone = [&] { return names(plan_deletions(files, kHistory, led, options)); };
  const auto gone = names_gone();
  const auto trimmed = plan_trim(files, stream(1, 40), led, options);
  for (auto& f : files) f.time_ns = *rc::gen::arbitrary<std::int64_t>();
  RC_ASSERT(names_gone() == gone);
  RC_ASSERT(plan_trim(files, stream(1, 40), led, options) == trimmed);
}

RC_GTEST_PROP(SnapshotPlan, DeletionsAndMergesOfAnyFilesLoseNothingThatIsKept, ()) {
  Files files;
  const auto shapes = *rc::gen::container<std::vector<std::tuple<int, Txid, Txid>>>(rc::gen::tuple(
      rc::gen::inRange(1, 10), rc::gen::inRange<Txid>(2, 60), rc::gen::inRange<Txid>(0, 20)));
  std::set<std::string> seen;
  for (const auto& [level, min, length] : shapes) {
    const auto f = level == 9 ? snapshot(min + length) : file(level, min, min + length);
    if (seen.insert(f.name()).second) files.push_back(f);
  }
  SnapshotOptions options;
  options.retention = std::chrono::seconds(*rc::gen::inRange(0, 80));
  options.fine = std::chrono::seconds(*rc::gen::inRange(0, 80));
  options.kept = *rc::gen::inRange(1, 3);
  options.merge_count = *rc::gen::inRange(2, 5);
  for (const auto& merge : plan_merges(files, options)) {
    RC_ASSERT(std::ssize(merge.sources) == options.merge_count);
    for (std::size_t i = 1; i < merge.sources.size(); ++i) {
      RC_ASSERT(merge.sources[i].min <= merge.sources[i - 1].max + 1);
      RC_ASSERT(merge.sources[i].max > merge.sources[i - 1].max);
    }
  }
  Files left = files;
  for (const auto& gone : plan_deletions(files, kHistory, 60 * kSecond, options))
    std::erase(left, gone);
  RC_ASSERT(plan_restore(files).empty() == plan_restore(left).empty());
  if (plan_restore(files).empty()) return;
  RC_ASSERT(plan_restore(files).back().max == plan_restore(left).back().max);
  for (const auto& f : left)
    if (f.snapshot()) RC_ASSERT(plan_restore(files, {.txid = f.max}).back().max == f.max);
}

}  // namespace
}  // namespace cluster::sqlite
