// Hashes of pages and databases: published values, and that what programs do to pages changes them.
// An XOR of linear checksums, which stood here once, did not see a plain UPDATE of a column in rows
// of a fixed size: the same bytes changed in the same way, at the same place of several pages.
#include "sqlite/page_hash.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster::sqlite {
namespace {

using Pages = std::map<PageNumber, std::string>;

PageHashes hashes_of(const Pages& pages, std::uint32_t page_size) {
  PageHashes hashes(page_size);
  for (const auto& [number, bytes] : pages) hashes.set(number, bytes);
  return hashes;
}

std::string random_page(std::uint32_t page_size) {
  std::string bytes(page_size, '\0');
  // Most of a page is often zeros.
  const auto filled = *rc::gen::inRange<std::size_t>(0, page_size + 1);
  std::uint64_t x = *rc::gen::arbitrary<std::uint64_t>() | 1;
  for (std::size_t i = 0; i < filled; ++i) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    bytes[i] = static_cast<char>(x >> 56);
  }
  return bytes;
}

Pages some_pages(std::uint32_t page_size, PageNumber least) {
  Pages pages;
  const auto count = *rc::gen::inRange<PageNumber>(least, 40);
  const bool alike = *rc::gen::arbitrary<bool>();
  const std::string first = random_page(page_size);
  for (PageNumber n = 1; n <= count; ++n) pages[n] = alike ? first : random_page(page_size);
  return pages;
}

// From `least` to all of them.
std::set<PageNumber> some_of(const Pages& pages, std::size_t least) {
  std::vector<PageNumber> numbers;
  for (const auto& [number, bytes] : pages) numbers.push_back(number);
  std::mt19937 random(*rc::gen::arbitrary<std::uint32_t>());
  std::shuffle(numbers.begin(), numbers.end(), random);
  numbers.resize(*rc::gen::inRange<std::size_t>(least, numbers.size() + 1));
  return {numbers.begin(), numbers.end()};
}

constexpr std::uint32_t kPageSize = 512;

// The values were printed by the Python module xxhash 4.1, which has xxHash 0.8.4
// (xxh3_64_intdigest).
TEST(PageHash, IsXxh3WithThePagesNumberAsItsSeed) {
  std::string page(kPageSize, '\0');
  EXPECT_EQ(page_hash(1, page), 0x8a3b11577f6f69dbULL);
  EXPECT_EQ(page_hash(2, page), 0xbf6eaa6c73c0f547ULL);
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<char>(i);
  EXPECT_EQ(page_hash(7, page), 0x82381142f3703860ULL);
}

TEST(PageHashes, AreTheSameHoweverTheDatabaseCameToItsState) {
  PageHashes straight(kPageSize), detour(kPageSize);
  const auto page = [](PageNumber n, char generation) {
    return std::string(kPageSize, static_cast<char>(n * 16 + static_cast<unsigned>(generation)));
  };
  for (PageNumber n = 1; n <= 4; ++n) straight.set(n, page(n, 1));
  for (PageNumber n = 1; n <= 9; ++n) detour.set(n, page(n, 0));
  EXPECT_NE(straight.database(), detour.database());
  detour.resize(4);
  for (PageNumber n = 1; n <= 4; ++n) detour.set(n, page(n, 1));
  EXPECT_EQ(straight.database(), detour.database());
  EXPECT_EQ(detour.size(), 4U);
}

TEST(PageHashes, LeaveTheLockPageOut) {
  PageHashes hashes(65536);
  const auto before = hashes.database();
  hashes.set(lock_page(65536), std::string(65536, 'x'));
  EXPECT_EQ(hashes.database(), before);
  EXPECT_EQ(hashes.database_after(lock_page(65536), {{lock_page(65536), 5}}), before);
  EXPECT_EQ(lock_page(4096), 262145U);
  EXPECT_EQ(page_after(262144, 4096), 262146U);
}

TEST(PageHashes, OfNothingAndOfUnknownPagesAreNeverTheNumberForNone) {
  EXPECT_NE(PageHashes(kPageSize).database(), 0U);
  EXPECT_EQ(PageHashes(kPageSize).at(1), 0U);
  EXPECT_EQ(PageHashes::not_zero(0), PageHashes(kPageSize).database());
}

RC_GTEST_PROP(PageHashes, TellBeforehandWhatAChangeMakesOfThem, ()) {
  Pages pages = some_pages(kPageSize, 1);
  PageHashes hashes = hashes_of(pages, kPageSize);
  std::vector<PageHash> changed;
  const auto count = *rc::gen::inRange<PageNumber>(1, 60);
  for (PageNumber n = 1; n <= count; ++n)
    if (n > pages.size() || *rc::gen::arbitrary<bool>()) {
      pages[n] = random_page(kPageSize);
      changed.emplace_back(n, page_hash(n, pages[n]));
    }
  pages.erase(pages.upper_bound(count), pages.end());
  const auto told = hashes.database_after(count, changed);
  hashes.change(count, changed);
  RC_ASSERT(hashes.database() == told);
  RC_ASSERT(told == hashes_of(pages, kPageSize).database());
}

// The same bytes at the same place of several pages: what an UPDATE of rows of a fixed size does.
RC_GTEST_PROP(PageHashes, SeeTheSameChangeInSeveralPages, ()) {
  Pages pages = some_pages(kPageSize, 2);
  const auto before = hashes_of(pages, kPageSize).database();
  const auto at = *rc::gen::inRange<std::size_t>(0, kPageSize);
  const auto flip = static_cast<char>(*rc::gen::inRange(1, 256));
  const auto length = std::min<std::size_t>(*rc::gen::inRange<std::size_t>(1, 9), kPageSize - at);
  for (const PageNumber n : some_of(pages, 1))
    for (std::size_t i = at; i < at + length; ++i)
      pages[n][i] = static_cast<char>(pages[n][i] ^ flip);
  RC_ASSERT(hashes_of(pages, kPageSize).database() != before);
}

RC_GTEST_PROP(PageHashes, SeePagesThatChangePlaces, ()) {
  Pages pages = some_pages(kPageSize, 2);
  const auto some = some_of(pages, 2);
  const PageNumber a = *some.begin(), b = *some.rbegin();
  pages[b].back() = static_cast<char>(pages[a].back() + 1);
  const auto before = hashes_of(pages, kPageSize).database();
  std::swap(pages[a], pages[b]);
  RC_ASSERT(hashes_of(pages, kPageSize).database() != before);
}

RC_GTEST_PROP(PageHashes, SeeAPageThatMovesToAnotherNumber, ()) {
  Pages pages = some_pages(kPageSize, 2);
  const auto last = static_cast<PageNumber>(pages.size());
  const auto before = hashes_of(pages, kPageSize).database();
  // As auto_vacuum does it: the last page takes a free one's place.
  const auto place = *rc::gen::inRange<PageNumber>(1, last);
  pages[place] = pages[last];
  pages.erase(last);
  RC_ASSERT(hashes_of(pages, kPageSize).database() != before);
}

RC_GTEST_PROP(PageHashes, SeePagesOfZerosThatComeOrGo, ()) {
  Pages pages = some_pages(kPageSize, 1);
  const auto before = hashes_of(pages, kPageSize).database();
  const auto more = *rc::gen::inRange<PageNumber>(1, 9);
  for (PageNumber i = 0; i < more; ++i)
    pages[static_cast<PageNumber>(pages.size()) + 1] = std::string(kPageSize, '\0');
  RC_ASSERT(hashes_of(pages, kPageSize).database() != before);
}

}  // namespace
}  // namespace cluster::sqlite
