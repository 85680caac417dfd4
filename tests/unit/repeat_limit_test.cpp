#include "core/repeat_limit.h"

#include <gtest/gtest.h>

namespace cluster {
namespace {

using std::chrono::seconds;

TEST(RepeatLimit, TellsFirstAndThenOncePerInterval) {
  RepeatLimit limit(seconds(10));
  const Time start{};
  EXPECT_EQ(limit.tell("a", start), 0);
  EXPECT_EQ(limit.tell("a", start + seconds(1)), std::nullopt);
  EXPECT_EQ(limit.tell("b", start + seconds(1)), 0);
  EXPECT_EQ(limit.tell("a", start + seconds(9)), std::nullopt);
  EXPECT_EQ(limit.tell("a", start + seconds(10)), 2);
  EXPECT_EQ(limit.tell("a", start + seconds(19)), std::nullopt);
  EXPECT_EQ(limit.tell("b", start + seconds(30)), 0);
}

TEST(RepeatLimit, ForgetsWhatItToldLongestAgo) {
  RepeatLimit limit(seconds(1000));
  const Time now{};
  for (std::size_t i = 0; i < RepeatLimit::kTexts; ++i) limit.tell(std::to_string(i), now);
  EXPECT_EQ(limit.tell("0", now), std::nullopt);
  EXPECT_EQ(limit.tell("one more", now), 0);
  EXPECT_EQ(limit.tell("1", now), std::nullopt);
  EXPECT_EQ(limit.tell("0", now), 0);
}

}  // namespace
}  // namespace cluster
