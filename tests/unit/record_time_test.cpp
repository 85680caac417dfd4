// Of what time records are whose servers' clocks differ, and how long a database was led whatever
// clocks say.
#include "sqlite/record_time.h"

#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "sqlite/plan_clocks.h"

namespace cluster::sqlite {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(EffectiveTime, NeverGoesBack) {
  EffectiveTime time(5);
  EXPECT_EQ(time.at(3), 5) << "what is before it is later";
  EXPECT_EQ(time.at(8), 8);
  EXPECT_EQ(time.at(7), 8);
  EXPECT_EQ(time.last(), 8);
}

// ---- where a transaction ends in the stream

struct Message {
  std::int64_t stored_ns = 0;
  std::optional<StreamRecord> record{};
};

StreamRecord data(Txid txid, std::uint32_t part = 1, bool final = true) {
  StreamRecord record;
  record.first = record.last = txid;
  record.part = part;
  record.final = final;
  return record;
}
StreamRecord fence(Txid before) {
  StreamRecord record;
  record.fence = true;
  record.first = record.last = before;
  return record;
}
StoredFile known(Txid max, std::uint64_t sequence, std::int64_t time_ns) {
  StoredFile file;
  file.level = 1;
  file.min = file.max = max;
  file.time_ns = time_ns;
  file.end.sequence = sequence;
  return file;
}

// Messages have the sequences from 1 on; those before `first` are gone.
std::optional<StoredAt> search(const std::vector<Message>& messages, std::uint64_t first, Txid txid,
                               std::uint64_t least, const std::vector<StoredFile>& files = {}) {
  PlaceSearch search(txid, least, files);
  for (auto at = std::max(first, search.known().sequence + 1); at <= messages.size(); ++at)
    search.take(at, messages[at - 1].stored_ns, messages[at - 1].record);
  return search.found() ? std::optional(search.place()) : std::nullopt;
}

TEST(PlaceSearch, ATransactionIsOfTheTimeOfTheRecordThatEndsWithIt) {
  const std::vector<Message> stream{
      {10, fence(0)}, {20, data(1)}, {30, data(2, 1, false)}, {40, data(2, 2)}, {50, data(3)}};
  EXPECT_EQ(search(stream, 1, 1, 2), (StoredAt{2, 20}));
  EXPECT_EQ(search(stream, 1, 2, 4), (StoredAt{4, 40})) << "all of its parts";
  EXPECT_EQ(search(stream, 1, 2, 2), (StoredAt{4, 40})) << "it is known to be behind record 2";
  EXPECT_FALSE(search(stream, 1, 4, 5)) << "it is not there";
}

TEST(PlaceSearch, AnEarlierRecordOfALaterTimeCounts) {
  const std::vector<Message> stream{{10, data(1)}, {90, data(2)}, {20, data(3)}, {30, data(4)}};
  EXPECT_EQ(search(stream, 1, 4, 4), (StoredAt{4, 90}));
  EXPECT_EQ(search(stream, 3, 4, 4, {known(2, 2, 90)}), (StoredAt{4, 90})) << "a file knows it";
  EXPECT_EQ(search(stream, 1, 3, 3, {known(4, 4, 90), known(1, 1, 10)}), (StoredAt{3, 90}))
      << "a file that ends behind it says nothing";
}

TEST(PlaceSearch, ATransactionWhoseRecordIsGoneIsOfTheTimeThatAFileKnows) {
  const std::vector<Message> stream{{10, data(1)}, {20, data(2)}, {90, fence(2)}};
  EXPECT_EQ(search(stream, 4, 2, 2, {known(2, 2, 20)}), (StoredAt{2, 20}));
}

TEST(PlaceSearch, WithoutAnyKnowledgeItIsOfTheTimeOfTheFirstRecordBehindIt) {
  const std::vector<Message> stream{
      {10, data(1)}, {20, data(2)}, {30, std::nullopt}, {40, fence(2)}};
  EXPECT_EQ(search(stream, 3, 2, 2), (StoredAt{4, 40})) << "the fence is where it goes on";
  const std::vector<Message> more{{10, data(1)}, {20, data(2)}, {50, data(3)}};
  EXPECT_EQ(search(more, 3, 2, 2), (StoredAt{2, 50})) << "rather too late than too early";
}

TEST(PlaceSearch, OfAnEmptiedStreamTheServersClockIsTheLatestThatItCanBe) {
  PlaceSearch some(7, 9, {known(5, 6, 100)});
  some.take_empty(0);
  EXPECT_FALSE(some.found());
  some.take_empty(500);
  EXPECT_EQ(some.place(), (StoredAt{9, 500}));
}

RC_GTEST_PROP(PlaceSearch, NeverFindsATimeBeforeAnyThatIsKnown, ()) {
  // Any stream: fences, files in parts, messages of others, clocks that jump.
  std::vector<Message> stream;
  std::vector<std::uint64_t> ends{0};  // by transaction: sequence of its last part
  std::vector<std::int64_t> effective{0};
  const auto shapes =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::tuple<int, std::int64_t>>>(
          rc::gen::tuple(rc::gen::inRange(0, 8), rc::gen::inRange<std::int64_t>(1, 1'000))));
  EffectiveTime clock;
  const auto append = [&](std::int64_t time, std::optional<StreamRecord> record) {
    stream.push_back({time, std::move(record)});
    return clock.at(time);
  };
  for (const auto& [shape, time] : shapes) {
    if (shape == 0) {
      append(time, fence(ends.size() - 1));
    } else if (shape == 1) {
      append(time, std::nullopt);
    } else {
      if (shape == 2) append(1'001 - time, data(ends.size(), 1, false));
      effective.push_back(append(time, data(ends.size(), shape == 2 ? 2 : 1)));
      ends.push_back(stream.size());
    }
  }
  if (ends.size() == 1) return;
  const Txid txid = *rc::gen::inRange<Txid>(1, ends.size());
  const auto first = *rc::gen::inRange<std::uint64_t>(1, stream.size() + 2);
  std::vector<StoredFile> files;
  for (const Txid end :
       *rc::gen::container<std::vector<Txid>>(rc::gen::inRange<Txid>(1, ends.size())))
    files.push_back(known(end, ends[end], effective[end]));
  const auto least = *rc::gen::inRange<std::uint64_t>(0, ends[txid] + 1);
  const auto place = search(stream, first, txid, least, files);
  if (!place) {
    RC_ASSERT(first > ends[txid]);
    return;
  }
  for (auto at = first; at <= ends[txid]; ++at)
    RC_ASSERT(place->time_ns >= stream[at - 1].stored_ns);
  for (const auto& file : files)
    if (file.max <= txid) RC_ASSERT(place->time_ns >= file.time_ns);
  RC_ASSERT(place->sequence >= least);
  if (first == 1) {
    RC_ASSERT(place->sequence == ends[txid]);
    RC_ASSERT(place->time_ns == effective[txid]);
  }
}

// ---- clocks

TEST(LedTime, GoesOnFromWhatLeadersBeforeHaveLeft) {
  const Time begun{hours(5)};
  LedTime led(begun);
  EXPECT_EQ(led.at(begun + seconds(3)), 3'000);
  led.learn(10'000, begun + seconds(3));
  EXPECT_EQ(led.at(begun + seconds(3)), 13'000) << "they wrote it before this lead began";
  // Of its own files it learns nothing, and the bucket may be deleted.
  led.learn(12'500, begun + seconds(4));
  led.learn(0, begun + seconds(4));
  EXPECT_EQ(led.at(begun + seconds(4)), 14'000);
  led.learn(20'000, begun + seconds(5));
  EXPECT_EQ(led.at(begun + seconds(5)), 20'000) << "another leader wrote on";
}

RC_GTEST_PROP(LedTime, NeverRunsFasterThanTimePasses, ()) {
  // Leaders one after the other; each leaves what it has written down, now and then.
  std::int64_t recorded = 0, now_ms = 0;
  const auto leads = *rc::gen::container<std::vector<std::vector<int>>>(
      rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 1'000)));
  for (const auto& lead : leads) {
    LedTime led(Time{milliseconds(now_ms)});
    for (const int pass : lead) {
      now_ms += pass;
      led.learn(recorded, Time{milliseconds(now_ms)});
      const auto now = led.at(Time{milliseconds(now_ms)});
      RC_ASSERT(now <= now_ms);
      RC_ASSERT(now >= recorded);
      if (pass % 3 == 0) recorded = now;
    }
    now_ms += 100;  // nobody leads
  }
}

TEST(JetStreamTime, RunsOnByTheClockThatNobodySets) {
  JetStreamTime time;
  const Time start{hours(1)};
  time.learn(0, start);
  EXPECT_EQ(time.at(start), 0) << "nothing is known";
  time.learn(1'000, start);
  EXPECT_EQ(time.at(start + Duration(7)), 1'007);
  time.learn(1'003, start + Duration(7));
  EXPECT_EQ(time.at(start + Duration(7)), 1'007) << "what was stored a while ago";
  time.learn(5'000, start + Duration(8));
  EXPECT_EQ(time.at(start + Duration(8)), 5'000);
}

}  // namespace
}  // namespace cluster::sqlite
