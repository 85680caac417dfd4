// Objects of a snapshot bucket: what is written is read back, and what nobody of ours writes is
// foreign, with a reason.
#include "sqlite/stored_file.h"

#include <algorithm>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster::sqlite {
namespace {

StoredFile some_file() {
  return {2, 18, 255, 1'700'000'000'123'456'789, {0xabc1, 7, 4711, 99}, 1234, 5678};
}

nats::ObjectInfo object_of(const StoredFile& file) {
  nats::ObjectInfo object;
  object.name = file.name();
  object.headers = headers_of(file);
  object.size = file.size;
  object.chunks = 1;
  return object;
}

std::string why_foreign(const nats::ObjectInfo& object) {
  const auto listing = listing_of({object});
  return listing.foreign.size() == 1 && listing.files.empty() ? listing.foreign[0].why : "";
}

TEST(StoredFile, IsNamedAsLitestreamNamesIt) {
  EXPECT_EQ(some_file().name(), "ltx/2/0000000000000012-00000000000000ff.ltx");
  EXPECT_EQ(stored_name(9, 1, ~Txid{0}), "ltx/9/0000000000000001-ffffffffffffffff.ltx");
  EXPECT_EQ(headers_of(some_file())[0],
            (nats::Header{"Litestream-Timestamp", "2023-11-14T22:13:20.123456789Z"}));
}

RC_GTEST_PROP(StoredFile, IsReadBack, ()) {
  StoredFile file;
  file.level = *rc::gen::inRange(1, 10);
  file.max = *rc::gen::arbitrary<Txid>() >> 2 | 1;
  file.min = file.snapshot() ? 1 : 1 + *rc::gen::arbitrary<Txid>() % file.max;
  file.time_ns = *rc::gen::inRange<std::int64_t>(0, 4'000'000'000'000'000'000);
  file.end = {
      *rc::gen::arbitrary<std::uint64_t>() | 1, *rc::gen::arbitrary<std::uint64_t>() >> 2 | 1,
      *rc::gen::arbitrary<std::uint64_t>() >> 2 | 1, *rc::gen::arbitrary<std::uint64_t>() | 1};
  file.size = std::max<std::uint64_t>(*rc::gen::arbitrary<std::uint64_t>(), 131);
  file.led_ms = *rc::gen::inRange<std::int64_t>(0, 1'000'000'000'000'000);
  const auto listing = listing_of({object_of(file)});
  RC_ASSERT(listing.foreign.empty());
  RC_ASSERT(listing.files == std::vector{file});
}

RC_GTEST_PROP(StoredFile, AnyNameAndHeadersAreReadOrForeign,
              (const std::string& name, const std::vector<nats::Header>& headers)) {
  nats::ObjectInfo object = object_of(some_file());
  if (*rc::gen::arbitrary<bool>()) object.name = name;
  if (*rc::gen::arbitrary<bool>()) object.headers = headers;
  if (!object.headers.empty() && *rc::gen::arbitrary<bool>())
    object.headers[*rc::gen::inRange<std::size_t>(0, object.headers.size())].second = name;
  const auto listing = listing_of({object});
  RC_ASSERT(listing.files.size() + listing.foreign.size() == 1U);
}

TEST(StoredFile, WhatIsNotOursIsForeignAndSaysWhy) {
  auto object = object_of(some_file());
  for (const char* name :
       {"", "ltx", "ltx/9/0000000000000012-00000000000000ff.ltx",  // a snapshot begins with 1
        "ltx/0/0000000000000012-00000000000000ff.ltx",
        "ltx/a/0000000000000012-00000000000000ff.ltx",
        "ltx/2/00000000000000FF-0000000000000100.ltx",
        "ltx/2/0000000000000012-0000000000000011.ltx",
        "ltx/2/0000000000000000-0000000000000011.ltx", "ltx/2/0000000000000012-00000000000000ff.lt",
        "ltx/2/0000000000000012_00000000000000ff.ltx"}) {
    object.name = name;
    EXPECT_EQ(why_foreign(object), "its name is not that of a snapshot or merged file") << name;
  }
  object = object_of(some_file());
  object.headers.resize(1);
  EXPECT_EQ(why_foreign(object), "not written by cpp-cluster");
  object = object_of(some_file());
  object.link = "other";
  EXPECT_EQ(why_foreign(object), "a link");
  const auto with = [](std::size_t header, const std::string& value) {
    auto changed = object_of(some_file());
    changed.headers[header].second = value;
    return why_foreign(changed);
  };
  EXPECT_EQ(with(0, "yesterday"), "header Litestream-Timestamp is \"yesterday\"");
  EXPECT_EQ(with(1, "0000000000000000"), "header Cpp-Cluster-History is \"0000000000000000\"");
  EXPECT_EQ(with(2, "0"), "header Cpp-Cluster-Epoch is \"0\"");
  EXPECT_EQ(with(3, "-1"), "header Cpp-Cluster-Sequence is \"-1\"");
  EXPECT_EQ(with(4, "0000000000000000"), "header Cpp-Cluster-Hash is \"0000000000000000\"");
  EXPECT_EQ(with(5, "-1"), "header Cpp-Cluster-Led is \"-1\"");
  EXPECT_EQ(with(5, "9223372036854775807"), "header Cpp-Cluster-Led is \"9223372036854775807\"");
  // Its time is that of a machine's clock, and may be hours off.
  object = object_of(some_file());
  object.headers.pop_back();
  EXPECT_EQ(
      why_foreign(object),
      "written by an earlier build, by its own machine's clock: remove it when newer snapshots "
      "are there");
}

TEST(StoredFile, TheTimeLedIsTheLongestThatAnyObjectSays) {
  nats::ObjectInfo led;
  led.name = kLedObject;
  led.headers = headers_of_led(6000);
  const auto object = object_of(some_file());
  EXPECT_EQ(listing_of({object}).led_ms, 5678);
  const auto listing = listing_of({object, led});
  EXPECT_EQ(listing.led_ms, 6000);
  EXPECT_EQ(listing.files.size(), 1U);
  EXPECT_TRUE(listing.foreign.empty()) << "it is ours";
  led.headers = {{"Cpp-Cluster-Led", "for ever"}};
  EXPECT_EQ(listing_of({led}).led_ms, 0);
}

TEST(StoredFile, WhatCantBeIsForeignAndSaysWhy) {
  const std::string cant = "what it claims can't be: ";
  const auto with = [](auto change, std::uint64_t bucket_bytes = 1'000'000) {
    auto object = object_of(some_file());
    change(object);
    const auto listing = listing_of({object}, bucket_bytes);
    return listing.foreign.size() == 1 ? listing.foreign[0].why : "";
  };
  const std::string most(16, 'f');
  EXPECT_EQ(with([&](auto& o) { o.name = "ltx/9/0000000000000001-" + most + ".ltx"; }),
            cant + "transaction 18446744073709551615");
  EXPECT_EQ(with([](auto& o) { o.headers[2].second = "9223372036854775807"; }),
            "header Cpp-Cluster-Epoch is \"9223372036854775807\"");
  EXPECT_EQ(with([](auto& o) { o.headers[3].second = "9223372036854775807"; }),
            "header Cpp-Cluster-Sequence is \"9223372036854775807\"");
  EXPECT_EQ(with([](auto& o) { o.size = 130; }), cant + "130 bytes are too few for an LTX file");
  EXPECT_EQ(with([](auto&) {}, 1'233), cant + "1234 bytes in a bucket of 1233");
  EXPECT_EQ(with([](auto& o) { o.chunks = 1'235; }), cant + "1234 bytes in 1235 chunks");
  EXPECT_EQ(with([](auto& o) { o.chunk_size = 1'233; }), cant + "1234 bytes in 1 chunks");
  EXPECT_EQ(with([](auto& o) { o.headers[0].second = "1969-12-31T23:59:59Z"; }),
            cant + "a time before 1970");
  const std::int64_t day = std::int64_t{24} * 3'600 * 1'000'000'000;
  const std::int64_t time = some_file().time_ns;
  EXPECT_EQ(with([&](auto& o) { o.mtime_ns = time - day - 1; }),
            cant + "a time after it was stored");
  EXPECT_EQ(with([&](auto& o) { o.mtime_ns = time - day; }), "") << "clocks differ";
  EXPECT_EQ(with([&](auto& o) {
              o.mtime_ns = time;
              o.headers[5].second = std::to_string(time / 1'000'000 + 1);
            }),
            cant + "led for " + std::to_string(time / 1'000'000 + 1) + " ms");
}

TEST(StoredFile, DeletedObjectsAreNotListed) {
  auto object = object_of(some_file());
  object.deleted = true;
  EXPECT_TRUE(listing_of({object}).files.empty());
  EXPECT_TRUE(listing_of({object}).foreign.empty());
}

}  // namespace
}  // namespace cluster::sqlite
