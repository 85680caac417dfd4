#include "core/duration.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster {
namespace {

using std::chrono::milliseconds;

TEST(Duration, EachUnitIsRead) {
  EXPECT_EQ(parse_duration("700ms").value(), milliseconds(700));
  EXPECT_EQ(parse_duration("15s").value(), milliseconds(15'000));
  EXPECT_EQ(parse_duration("2m").value(), milliseconds(120'000));
  EXPECT_EQ(parse_duration("1h").value(), milliseconds(3'600'000));
  EXPECT_EQ(parse_duration("1m30s").value(), milliseconds(90'000));
  EXPECT_EQ(parse_duration("0s").value(), milliseconds(0));
}

TEST(Duration, ABareNumberIsRefusedWithTheUnitsItCouldHaveMeant) {
  const auto result = parse_duration("500");
  ASSERT_FALSE(result.ok());
  EXPECT_STREQ(result.error().what(), "\"500\" has no unit: write 500ms, 500s, 500m or 500h");
}

TEST(Duration, WhatIsNoDurationIsRefused) {
  for (auto bad : {"", "s", "-5s", "5 s", "5x", "1s1s", "1s2m", "1.5s", "99999999999999999999s",
                   "9999999999h", "5sec"})
    EXPECT_FALSE(parse_duration(bad).ok()) << bad;
}

RC_GTEST_PROP(Duration, WhatIsWrittenIsReadBack, ()) {
  const auto ms = *rc::gen::inRange<std::int64_t>(0, 1'000'000'000);
  RC_ASSERT(parse_duration(format_duration(milliseconds(ms))).value() == milliseconds(ms));
}

}  // namespace
}  // namespace cluster
