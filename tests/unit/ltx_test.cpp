// LTX files: ours are read back, files that the format's own library has written are read and
// merged as it does, and what is damaged is refused. tests/data/ltx was written by superfly/ltx
// 0.5.3: pages of page_bytes() below, their generations in kSnapshot, kGrown and kShrunk.
#include "sqlite/ltx.h"
#include "built.h"

#include <fstream>
#include <map>
#include <sstream>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "cluster/error.h"
#include "sqlite/bytes.h"

namespace cluster::sqlite {
namespace {

using Pages = std::map<PageNumber, std::string>;
using Generations = std::map<PageNumber, int>;

struct File {
  LtxHeader header;
  Pages pages;
  std::uint64_t checksum = 0;
};

std::string page_bytes(std::size_t size, PageNumber number, int generation) {
  std::string bytes(size, '\0');
  std::uint32_t x = number * 7919 + static_cast<std::uint32_t>(generation) * 104729 + 1;
  for (std::size_t i = 0; i < size / 2; i += 4) {
    x = x * 1664525 + 1013904223;
    put_be(bytes.data() + i, x);
  }
  return bytes;
}

Pages pages_of(std::size_t size, const Generations& generations) {
  Pages pages;
  for (auto [number, generation] : generations)
    pages[number] = page_bytes(size, number, generation);
  return pages;
}

const Generations kSnapshot{{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}};
const Generations kGrown{{1, 1}, {2, 1}, {3, 0}, {4, 0}, {5, 0}, {6, 1}, {7, 1}, {8, 1}};
const Generations kShrunk{{1, 2}, {2, 1}, {3, 0}, {4, 2}};

std::string fixture(const std::string& name) {
  std::ifstream in(std::string(built::kDataFolder) + "/ltx/" + name, std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  EXPECT_TRUE(in) << name;
  return bytes.str();
}

File decode(LtxDecoder& decoder) {
  File file{decoder.header(), {}};
  PageNumber number = 0;
  std::string_view page;
  while (decoder.next(number, page)) file.pages[number] = std::string(page);
  file.checksum = decoder.checksum();
  return file;
}

File decode(std::string_view bytes) {
  LtxDecoder decoder(source_of(bytes));
  return decode(decoder);
}

std::string encode(const LtxHeader& header, const Pages& pages) {
  std::string out;
  LtxEncoder encoder(header, [&](std::string_view bytes) { out += bytes; });
  for (const auto& [number, bytes] : pages) encoder.add(number, bytes);
  const auto checksum = encoder.finish();
  EXPECT_EQ(decode(out).checksum, checksum);
  EXPECT_EQ(encoder.size(), out.size());
  return out;
}

std::string merge(const std::vector<std::string>& files) {
  std::vector<std::unique_ptr<LtxDecoder>> decoders;
  std::vector<LtxDecoder*> all;
  for (const auto& file : files) {
    decoders.push_back(std::make_unique<LtxDecoder>(source_of(file)));
    all.push_back(decoders.back().get());
  }
  std::string out;
  merge_ltx(all, [&](std::string_view bytes) { out += bytes; });
  return out;
}

std::string refusal_of(const std::function<void()>& what, Errc expected = Errc::corrupt) {
  try {
    what();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), expected) << error.what();
    return error.what();
  }
  return "it was accepted";
}

TEST(Crc64, HasTheCheckValueOfCrc64Iso) {
  Crc64 crc;
  crc.add("1234");
  crc.add("56789");
  EXPECT_EQ(crc.value(), 0xb90956c775a41001U);
}

TEST(Ltx, ReadsAFileOfTheFormatsOwnLibrary) {
  const File file = decode(fixture("grow.ltx"));
  EXPECT_EQ(file.header.page_size, 512U);
  EXPECT_EQ(file.header.commit, 8U);
  EXPECT_EQ(file.header.min_txid, 2U);
  EXPECT_EQ(file.header.max_txid, 3U);
  EXPECT_EQ(file.header.timestamp_ms, 1'700'000'001'000);
  EXPECT_EQ(file.header.wal_offset, 32);
  EXPECT_EQ(file.header.wal_size, 4 * 536);
  EXPECT_EQ(file.header.wal_salt1, 11U);
  EXPECT_EQ(file.header.wal_salt2, 12U);
  EXPECT_EQ(file.pages, pages_of(512, {{1, 1}, {2, 1}, {6, 1}, {7, 1}, {8, 1}}));
}

TEST(Ltx, ReadsAFileWithoutChecksumsOfTheDatabase) {
  const File file = decode(fixture("plain.ltx"));
  EXPECT_EQ(file.pages, pages_of(4096, {{2, 3}}));
}

TEST(Ltx, MergesAsTheFormatsOwnLibraryDoes) {
  const File theirs = decode(fixture("merged.ltx"));
  const File ours =
      decode(merge({fixture("snapshot.ltx"), fixture("grow.ltx"), fixture("shrink.ltx")}));
  EXPECT_EQ(ours.pages, theirs.pages);
  EXPECT_EQ(ours.pages, pages_of(512, kShrunk));
  EXPECT_EQ(ours.header.commit, theirs.header.commit);
  EXPECT_EQ(ours.header.min_txid, 1U);
  EXPECT_EQ(ours.header.max_txid, 4U);
  EXPECT_EQ(ours.header.timestamp_ms, theirs.header.timestamp_ms);
}

TEST(Ltx, MergedInAnyOrderOfStepsIsTheSame) {
  const auto a = fixture("snapshot.ltx"), b = fixture("grow.ltx"), c = fixture("shrink.ltx");
  const auto all = merge({a, b, c});
  EXPECT_EQ(merge({merge({a, b}), c}), all);
  EXPECT_EQ(merge({a, merge({b, c})}), all);
}

// Litestream refuses a chain whose last file has them.
TEST(Ltx, WritesNoChecksumsOfTheDatabase) {
  const auto merged = merge({fixture("snapshot.ltx"), fixture("grow.ltx")});
  EXPECT_EQ(get_be<std::uint32_t>(merged.data() + 4), kLtxNoDatabaseChecksums);
  EXPECT_EQ(get_be<std::uint64_t>(merged.data() + 40), 0U) << "before";
  EXPECT_EQ(get_be<std::uint64_t>(merged.data() + merged.size() - kLtxTrailerSize), 0U) << "after";
}

TEST(Ltx, RefusesToMergeWhatIsNotAdjacent) {
  auto refused = [](const std::vector<std::string>& files) {
    return refusal_of([&] { merge(files); }, Errc::invalid_argument);
  };
  EXPECT_NE(
      refused({fixture("snapshot.ltx"), fixture("shrink.ltx")}).find("4 to 4 do not follow 1 to 1"),
      std::string::npos);
  EXPECT_NE(refused({fixture("shrink.ltx"), fixture("plain.ltx")}).find("page sizes"),
            std::string::npos);
  EXPECT_NE(refused({}).find("none"), std::string::npos);
}

TEST(Ltx, RefusesToMergeASnapshotThatLacksPages) {
  // Page 6 comes into being without ever having been written.
  LtxHeader header{.page_size = 512, .commit = 7, .min_txid = 2, .max_txid = 2};
  const auto gap = encode(header, pages_of(512, {{7, 1}}));
  EXPECT_NE(refusal_of([&] { merge({fixture("snapshot.ltx"), gap}); }).find("page 6"),
            std::string::npos);
  header.commit = 6;
  const auto end = encode(header, pages_of(512, {{1, 1}}));
  EXPECT_NE(refusal_of([&] { merge({fixture("snapshot.ltx"), end}); }).find("page 6"),
            std::string::npos);
}

RC_GTEST_PROP(Ltx, ReadsBackWhatItWrote, ()) {
  const auto page_size = *rc::gen::element<std::uint32_t>(512, 1024, 4096, 65536);
  const auto commit = *rc::gen::inRange<PageNumber>(1, 40);
  Pages pages;
  for (PageNumber n :
       *rc::gen::container<std::set<PageNumber>>(rc::gen::inRange<PageNumber>(1, commit + 1))) {
    std::string bytes = page_bytes(page_size, n, *rc::gen::inRange(0, 1000));
    if (*rc::gen::arbitrary<bool>()) bytes.assign(page_size, static_cast<char>(n));
    pages[n] = std::move(bytes);
  }
  LtxHeader header{.page_size = page_size,
                   .commit = commit,
                   .min_txid = *rc::gen::inRange<Txid>(2, 1'000'000),
                   .timestamp_ms = *rc::gen::inRange<std::int64_t>(0, 1LL << 50),
                   .wal_offset = 32,
                   .wal_size = 17,
                   .wal_salt1 = *rc::gen::arbitrary<std::uint32_t>(),
                   .wal_salt2 = *rc::gen::arbitrary<std::uint32_t>(),
                   .node_id = *rc::gen::arbitrary<std::uint64_t>()};
  header.max_txid = header.min_txid + *rc::gen::inRange<Txid>(0, 100);
  const File file = decode(encode(header, pages));
  RC_ASSERT(file.pages == pages);
  RC_ASSERT(file.header.max_txid == header.max_txid);
  RC_ASSERT(file.header.wal_salt2 == header.wal_salt2);
  RC_ASSERT(file.header.node_id == header.node_id);
  RC_ASSERT(file.header.timestamp_ms == header.timestamp_ms);
}

// A compressed page may have several forms: what is accepted has the same content.
TEST(Ltx, RefusesAFileWithAnyBitFlippedThatMatters) {
  const auto whole = fixture("grow.ltx");
  const auto content = decode(whole).pages;
  int accepted = 0;
  for (std::size_t i = 0; i < whole.size() * 8; ++i) {
    auto damaged = whole;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
    try {
      ASSERT_EQ(decode(damaged).pages, content) << "bit " << i % 8 << " of byte " << i / 8;
      ++accepted;
    } catch (const Error& error) {
      EXPECT_TRUE(error.errc() == Errc::corrupt || error.errc() == Errc::incompatible);
    }
  }
  EXPECT_LT(accepted, 100);
}

TEST(Ltx, RefusesAFileThatIsCutOffOrTooLong) {
  const auto whole = fixture("snapshot.ltx");
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(
        refusal_of([&] { decode(std::string_view(whole).substr(0, size)); }).find("too early"),
        std::string::npos);
  EXPECT_NE(refusal_of([&] { decode(whole + "x"); }).find("follow"), std::string::npos);
}

}  // namespace
}  // namespace cluster::sqlite
