#include "sqlite/outgoing.h"

#include <random>

#include <gtest/gtest.h>

#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

// Whatever order it is filled and emptied in, and whether it ever outgrew the memory or not.
TEST(Outgoing, GivesWhatItWasGivenInOrder) {
  const testing::TemporaryFolder folder;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{50'000}, std::size_t{1'000'000}}) {
    for (unsigned seed = 1; seed <= 5; ++seed) {
      std::mt19937 random(seed);
      Outgoing queue(folder / "", piece);
      std::string given, taken;
      const auto take = [&] {
        const auto before = queue.size();
        const std::string bytes = queue.take(piece);
        ASSERT_EQ(bytes.size(), std::min<std::uint64_t>(piece, before));
        taken += bytes;
      };
      // It is filled faster than it is emptied, then the other way round, and again.
      for (int i = 0; i < 120; ++i) {
        const std::size_t most = piece == 1 ? 4 : 1 + piece * 2;
        const bool filling = i / 30 % 2 == 0;
        const std::string bytes(random() % (filling ? most : most / 8 + 1),
                                static_cast<char>('a' + i % 26));
        queue.append(bytes);
        given += bytes;
        ASSERT_EQ(queue.size(), given.size() - taken.size());
        if (random() % 3 != 0) take();
        ASSERT_EQ(queue.size(), given.size() - taken.size());
      }
      while (queue.size() > 0) take();
      EXPECT_EQ(queue.take(piece), "");
      EXPECT_TRUE(taken == given) << "seed " << seed;
    }
  }
}

// A server that takes less has come in the place of another one.
TEST(Outgoing, GivesNoMoreThanIsAskedFor) {
  const testing::TemporaryFolder folder;
  for (const std::size_t size : {std::size_t{3'500}, Outgoing::kMemory + 3'500}) {
    Outgoing queue(folder / "", 1'000'000);
    std::string given(size, 'a'), taken;
    for (std::size_t i = 0; i < size; i += 7) given[i] = static_cast<char>('b' + i % 23);
    for (std::size_t at = 0; at < size; at += 100'000) queue.append(given.substr(at, 100'000));
    for (std::size_t most = 1'000'000; queue.size() > 0; most = most / 2 + 300) {
      const std::string bytes = queue.take(most);
      ASSERT_FALSE(bytes.empty());
      ASSERT_LE(bytes.size(), most);
      taken += bytes;
    }
    EXPECT_TRUE(taken == given) << size;
  }
}

}  // namespace
}  // namespace cluster::sqlite
