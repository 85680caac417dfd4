// Objects of a snapshot bucket that claim what can't be: whatever they say, what is decided is what
// would be decided without them.
#include "sqlite/stored_claims.h"

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nats/stored_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint64_t kOurHistory = 0xabc;
constexpr std::int64_t kNs = 1'700'000'000'000'000'000;

std::uint64_t hash_of(Txid txid) { return 1'000 + txid; }

// A stream of one record for each transaction, whose sequence is ten more, behind the fence of
// epoch 3; what is before `first` was trimmed.
StreamRecord record_of(std::uint64_t sequence) {
  StreamRecord r;
  r.sequence = sequence;
  r.epoch = 3;
  r.writer = "w";
  r.first = r.last = sequence - 10;
  r.before = hash_of(r.first - 1);
  r.hash = hash_of(r.last);
  return r;
}
StreamRange stream_of(Txid first, Txid last) {
  return {kOurHistory, first + 10, last + 10, 1'000, "s"};
}

struct Records {
  StreamRange stream;
  int reads = 0;
  RecordAt at() {
    return [this](std::uint64_t sequence) -> std::optional<StreamRecord> {
      ++reads;
      if (sequence < stream.first || sequence > stream.last) return std::nullopt;
      return record_of(sequence);
    };
  }
};

StoredFile claimed(int level, Txid min, Txid max) {
  // A transaction a second.
  const auto elapsed = static_cast<std::int64_t>(std::min<Txid>(max, 1'000'000'000));
  return {level,
          min,
          max,
          kNs + elapsed * 1'000'000'000,
          {kOurHistory, 3, max + 10, hash_of(max)},
          5'000,
          elapsed * 1'000};
}

std::string why_foreign(StoredFile claims, const StreamRange& stream = stream_of(20, 40)) {
  StoreListing listing{{claims}, {}};
  Records records{stream};
  find_impossible(listing, stream, records.at());
  EXPECT_EQ(listing.files.size() + listing.foreign.size(), 1U);
  return listing.foreign.empty() ? "" : listing.foreign[0].why;
}

TEST(StoredClaims, WhatTheStreamSaysIsRight) {
  EXPECT_EQ(why_foreign(claimed(9, 1, 30)), "");
  EXPECT_EQ(why_foreign(claimed(1, 25, 40)), "");
  EXPECT_EQ(why_foreign(claimed(9, 1, 12)), "") << "that is trimmed, and may have been so";
  EXPECT_EQ(why_foreign(claimed(9, 1, 19)), "");
}

TEST(StoredClaims, WhatItsRecordsContradictIsForeign) {
  auto f = claimed(9, 1, 30);
  f.max = 31;
  EXPECT_EQ(why_foreign(f),
            "what it claims can't be: record 40 of the stream ends with transaction 30");
  f = claimed(9, 1, 30);
  ++f.end.hash;
  EXPECT_NE(why_foreign(f), "");
  f = claimed(9, 1, 30);
  f.end.epoch = 4;
  EXPECT_NE(why_foreign(f), "") << "an epoch that nobody has had yet";
  EXPECT_NE(why_foreign(claimed(9, 1, 41)), "") << "behind the stream's end";
  f = claimed(9, 1, 12);
  f.max = 20;
  EXPECT_NE(why_foreign(f), "") << "more than had been committed before the stream begins";
  f = claimed(9, 1, 12);
  f.max = 19;
  EXPECT_NE(why_foreign(f), "") << "and as much, with another hash";
  f = claimed(9, 1, 12);
  f.end.epoch = 9;
  EXPECT_NE(why_foreign(f), "");
  f.end.history = kOurHistory + 1;
  EXPECT_EQ(why_foreign(f), "") << "of another stream this one tells nothing";
}

TEST(StoredClaims, AFileIsLookedAtOnce) {
  Records records{stream_of(20, 40)};
  std::vector<StoredFile> known;
  for (int turn = 0; turn < 3; ++turn) {
    StoreListing listing{{claimed(9, 1, 30), claimed(1, 31, 35)}, {}};
    find_impossible(listing, records.stream, records.at(), &known);
    EXPECT_EQ(listing.files.size(), 2U);
  }
  EXPECT_EQ(records.reads, 2);
  auto other = claimed(9, 1, 30);
  other.end.hash = 1;  // put in its place
  StoreListing listing{{other}, {}};
  find_impossible(listing, records.stream, records.at(), &known);
  EXPECT_EQ(listing.foreign.size(), 1U);
}

// ---- whatever metadata says

nats::ObjectInfo object_claiming(const StoredFile& stored) {
  nats::ObjectInfo object;
  object.name = stored.name();
  object.headers = headers_of(stored);
  object.size = stored.size;
  object.chunks = 1;
  object.chunk_size = 128 * 1024;
  object.nuid = "n";
  object.mtime_ns = stored.time_ns;
  return object;
}

// Numbers that break arithmetic, and ones that are nearly right.
rc::Gen<std::uint64_t> hostile_number(std::uint64_t near) {
  return rc::gen::oneOf(
      rc::gen::arbitrary<std::uint64_t>(),
      rc::gen::element(std::uint64_t{0}, std::uint64_t{1}, near, near + 1, near + 2, near + 1'000,
                       ~std::uint64_t{0}, ~std::uint64_t{0} - 1, std::uint64_t{1} << 63,
                       (std::uint64_t{1} << 63) - 1, std::uint64_t{1} << 62));
}

// Whether there can be such a file, by what the stream above is.
bool may_be(const StoredFile& f, const StreamRange& stream) {
  if (f.end.history != kOurHistory) return true;
  if (f.end.epoch > 3 || f.end.sequence > stream.last) return false;
  if (f.end.sequence >= stream.first)
    return f.max + 10 == f.end.sequence && f.end.hash == hash_of(f.max);
  const Txid trimmed = stream.first - 10 - 1;  // the last transaction that was
  return f.max < trimmed || (f.max == trimmed && f.end.hash == hash_of(f.max));
}

// What claims to be of our stream, and says of at least one thing what can't be.
std::optional<nats::ObjectInfo> hostile(const StreamRange& stream, Txid last) {
  StoredFile f = claimed(*rc::gen::element(1, 2, 8, 9), 1, *rc::gen::inRange<Txid>(1, last + 1));
  if (!f.snapshot()) f.min = *rc::gen::inRange<Txid>(1, f.max + 1);
  nats::ObjectInfo object;
  switch (*rc::gen::inRange(0, 6)) {
    case 0: f.max = *hostile_number(last); break;
    case 1: f.end.sequence = *hostile_number(last + 10); break;
    case 2: f.end.epoch = *hostile_number(3); break;
    case 3: f.end.hash = *hostile_number(hash_of(f.max)); break;
    default: break;
  }
  object = object_claiming(f);
  if (*rc::gen::inRange(0, 3) == 0) object.size = *hostile_number(5'000);
  if (*rc::gen::inRange(0, 3) == 0) object.chunks = *rc::gen::arbitrary<std::uint32_t>();
  if (*rc::gen::inRange(0, 3) == 0 && !object.headers.empty())
    object.headers[*rc::gen::inRange<std::size_t>(0, object.headers.size())].second =
        *rc::gen::oneOf(rc::gen::arbitrary<std::string>(),
                        rc::gen::element(std::string("9999-12-31T23:59:59Z"),
                                         std::string("1969-12-31T23:59:59Z"), std::string("1"),
                                         std::string("18446744073709551616")));
  if (*rc::gen::inRange(0, 6) == 0) object.name = *rc::gen::arbitrary<std::string>();
  // It may have come out as one that is possible: then it is none of these.
  for (const auto& read : listing_of({object}, 1'000'000).files)
    if (may_be(read, stream)) return std::nullopt;
  return object;
}

RC_GTEST_PROP(StoredClaims, WhatCantBeChangesNothing, ()) {
  const Txid last = *rc::gen::inRange<Txid>(30, 60);
  const StreamRange stream = stream_of(*rc::gen::inRange<Txid>(2, 25), last);
  std::vector<nats::ObjectInfo> objects;
  for (Txid at = 10; at <= last; at += 10) objects.push_back(object_claiming(claimed(9, 1, at)));
  for (Txid at = 11; at + 4 <= last; at += 5)
    objects.push_back(object_claiming(claimed(1, at, at + 4)));
  const auto kept = [&](const std::vector<nats::ObjectInfo>& all) {
    StoreListing listing = listing_of(all, 1'000'000);
    Records records{stream};
    find_impossible(listing, stream, records.at());
    return listing;
  };
  std::set<std::string> names;
  for (const auto& object : objects) names.insert(object.name);
  const Files ours = kept(objects).files;
  RC_ASSERT(ours.size() == objects.size());
  auto with = objects;
  const int count = *rc::gen::inRange(1, 8);
  for (int i = 0; i < count; ++i)
    if (auto one = hostile(stream, last); one && !names.contains(one->name)) with.push_back(*one);
  const StoreListing listing = kept(with);
  RC_ASSERT(listing.files == ours);
  RC_ASSERT(listing.led_ms == kept(objects).led_ms);
  RC_ASSERT(listing.foreign.size() == with.size() - objects.size());
}

// And what can't be told from ours by what it says breaks nothing either.
RC_GTEST_PROP(StoredClaims, NoMetadataBreaksAPlan, ()) {
  const Txid last = 40;
  std::vector<nats::ObjectInfo> objects;
  const int count = *rc::gen::inRange(0, 12);
  for (int i = 0; i < count; ++i) {
    StoredFile f = claimed(*rc::gen::inRange(1, 10), 1, 1 + *hostile_number(last) / 2);
    if (!f.snapshot()) f.min = 1 + *rc::gen::arbitrary<Txid>() % f.max;
    f.end = {*rc::gen::element(kOurHistory, kOurHistory + 1), *hostile_number(3),
             *hostile_number(last + 10), *rc::gen::arbitrary<std::uint64_t>()};
    f.size = *hostile_number(5'000);
    f.time_ns = *rc::gen::inRange<std::int64_t>(-1'000, 4'000'000'000'000'000'000);
    f.led_ms = *rc::gen::inRange<std::int64_t>(0, 1'000'000'000'000'000);
    auto object = object_claiming(f);
    object.mtime_ns = *rc::gen::element(std::int64_t{0}, object.mtime_ns);
    object.chunks = *rc::gen::arbitrary<std::uint32_t>();
    object.chunk_size = *rc::gen::element(0U, 128U * 1024U, 0xffffffffU);
    objects.push_back(object);
  }
  const auto files = listing_of(objects).files;
  const StreamRange stream = stream_of(20, last);
  const Files own = files_of(files, stream);
  const std::int64_t led = 3'600'000;
  const Files chain = plan_restore(own);
  for (std::size_t i = 1; i < chain.size(); ++i) {
    RC_ASSERT(chain[i].min <= chain[i - 1].max + 1);
    RC_ASSERT(chain[i].max > chain[i - 1].max);
  }
  static_cast<void>(snapshot_due(own, stream, last, {kNs, led}, {}));
  static_cast<void>(plan_merges(own, {}));
  static_cast<void>(files_meant(files, stream));
  for (const auto& gone : plan_deletions(files, kOurHistory, led, {}))
    RC_ASSERT(std::find(files.begin(), files.end(), gone) != files.end());
  RC_ASSERT(plan_trim(own, stream, led, {}) >= stream.first);
  RC_ASSERT(plan_trim(own, stream, led, {}) <= stream.last);
}

}  // namespace
}  // namespace cluster::sqlite
