// The file with the hashes of a database's pages: what is noted is read back, whatever a cut, a
// flipped bit or a full disk has made of the rest.
#include "sqlite/hash_file.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include <gtest/gtest.h>

#include "cluster/error.h"
#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

class HashFileTest : public ::testing::Test {
 protected:
  std::string path() const { return folder_ / "a.db-cluster-hashes"; }

  static std::string page(PageNumber number, int generation) {
    return std::string(512, static_cast<char>(number * 31 + static_cast<unsigned>(generation)));
  }
  static HashMark mark_of(const PageHashes& hashes, std::uint64_t txid) {
    return {.history = 7,
            .at = {3, txid, txid * 2, hashes.database(), 512, {{1, 2}, 30, {4, 5}}},
            .pages = hashes.size(),
            .file = {6, 7, std::uint64_t{hashes.size()} * 512, 1'700'000'000'123'456'789}};
  }
  static PageHashes hashes_of(PageNumber pages, int generation) {
    PageHashes hashes(512);
    for (PageNumber n = 1; n <= pages; ++n) hashes.set(n, page(n, generation));
    return hashes;
  }
  static void expect_same(const PageHashes& a, const PageHashes& b) {
    ASSERT_EQ(a.size(), b.size());
    for (PageNumber n = 1; n <= a.size(); ++n) ASSERT_EQ(a.at(n), b.at(n)) << n;
    EXPECT_EQ(a.database(), b.database());
  }
  std::string bytes() const {
    std::ifstream in(path(), std::ios::binary);
    std::stringstream all;
    all << in.rdbuf();
    return all.str();
  }
  void write(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
  }

 private:
  testing::TemporaryFolder folder_;
};

TEST_F(HashFileTest, ReadsBackWhatWasNoted) {
  EXPECT_FALSE(HashFile(path()).mark());
  PageHashes hashes = hashes_of(1000, 0);
  const auto first = mark_of(hashes, 5);
  {
    HashFile file(path());
    file.note(first, hashes);
    EXPECT_EQ(file.mark(), first);
  }
  HashFile file(path());
  ASSERT_EQ(file.mark(), first);
  expect_same(file.load(), hashes);
}

TEST_F(HashFileTest, TakesWhatHasChangedOnly) {
  std::mt19937 random(3);
  PageHashes hashes = hashes_of(3000, 0);
  HashFile file(path());
  file.note(mark_of(hashes, 1), hashes);
  for (std::uint64_t txid = 2; txid < 40; ++txid) {
    const PageNumber pages = 2000 + random() % 3000;
    std::vector<PageNumber> changed;
    const PageNumber before = hashes.size();
    hashes.resize(pages);
    for (PageNumber n = 1; n <= pages; ++n)
      if (n > before || random() % 50 == 0) {
        hashes.set(n, page(n, static_cast<int>(txid)));
        changed.push_back(n);
      }
    std::shuffle(changed.begin(), changed.end(), random);
    for (const PageNumber n : changed) file.touch(n);
    file.note(mark_of(hashes, txid), hashes);
    HashFile again(path());
    ASSERT_EQ(again.mark(), mark_of(hashes, txid));
    expect_same(again.load(), hashes);
  }
}

TEST_F(HashFileTest, NotesThatTheDatabasesFileIsAnotherOne) {
  const PageHashes hashes = hashes_of(10, 0);
  auto mark = mark_of(hashes, 1);
  HashFile file(path());
  file.note(mark, hashes);
  mark.file.changed_ns += 1;
  file.note_file(mark.file);
  HashFile again(path());
  EXPECT_EQ(again.mark(), mark);
  expect_same(again.load(), hashes);
}

// Of another page size: nothing is taken over.
TEST_F(HashFileTest, WritesAllForAnotherPageSize) {
  const PageHashes old = hashes_of(10, 0), other = hashes_of(10, 1);
  HashFile file(path());
  file.note(mark_of(old, 1), old);
  auto mark = mark_of(other, 1);
  mark.at.page_size = 1024;
  file.note(mark, other);
  expect_same(HashFile(path()).load(), other);
}

TEST_F(HashFileTest, ForgetsForGood) {
  const PageHashes hashes = hashes_of(10, 0);
  HashFile file(path());
  for (std::uint64_t txid = 1; txid < 4; ++txid) file.note(mark_of(hashes, txid), hashes);
  file.forget();
  EXPECT_FALSE(file.mark());
  EXPECT_FALSE(HashFile(path()).mark());
  const PageHashes other = hashes_of(12, 1);
  file.note(mark_of(other, 9), other);
  expect_same(HashFile(path()).load(), other);
}

// Any byte of a mark that was being written when the power went: the mark before it counts.
TEST_F(HashFileTest, AMarkThatIsNotWholeLeavesTheOneBefore) {
  const PageHashes hashes = hashes_of(10, 0);
  HashFile file(path());
  file.note(mark_of(hashes, 1), hashes);
  const auto before = bytes();
  file.note(mark_of(hashes, 2), hashes);
  const auto after = bytes();
  ASSERT_EQ(before.size(), after.size());
  int older = 0;
  for (std::size_t cut = 0; cut < 8192; ++cut) {
    if (before[cut] == after[cut]) continue;
    write(after.substr(0, cut) + before.substr(cut));
    const HashFile again(path());
    ASSERT_TRUE(again.mark()) << cut;
    ASSERT_EQ(again.mark()->at.txid, 1U) << cut;
    ++older;
  }
  EXPECT_GT(older, 10);
}

TEST_F(HashFileTest, AFlippedBitOfAMarkLeavesTheOtherOneOrNone) {
  const PageHashes hashes = hashes_of(10, 0);
  {
    HashFile file(path());
    file.note(mark_of(hashes, 1), hashes);
    file.note(mark_of(hashes, 2), hashes);
  }
  const auto whole = bytes();
  for (std::size_t i = 0; i < std::size_t{2} * 170 * 8; ++i) {
    const std::size_t bit = i % 2 * 4096 * 8 + i / 2;
    auto damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    write(damaged);
    const HashFile again(path());
    ASSERT_TRUE(again.mark()) << bit;
    const auto& found = *again.mark();
    ASSERT_TRUE(found == mark_of(hashes, 1) || found == mark_of(hashes, 2)) << bit;
  }
}

TEST_F(HashFileTest, SaysThatItIsCutOff) {
  const PageHashes hashes = hashes_of(500, 0);
  HashFile(path()).note(mark_of(hashes, 1), hashes);
  std::filesystem::resize_file(path(), 8192 + 400 * 8 + 3);
  const HashFile file(path());
  ASSERT_TRUE(file.mark());
  try {
    file.load();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::corrupt);
    EXPECT_NE(std::string(error.what()).find("page 401"), std::string::npos) << error.what();
  }
}

TEST_F(HashFileTest, KnowsAFileThatSomebodyHasTouched) {
  write("1");
  const auto before = FileState::of(path());
  ASSERT_TRUE(before);
  EXPECT_EQ(FileState::of(path()), before);
  EXPECT_FALSE(FileState::of(path() + "x"));
  // An older time may be set for the content, not for the change of the inode.
  std::filesystem::last_write_time(
      path(), std::filesystem::file_time_type::clock::now() - std::chrono::hours(5));
  EXPECT_NE(FileState::of(path()), before);
}

}  // namespace
}  // namespace cluster::sqlite
