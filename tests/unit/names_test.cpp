#include "core/names.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cluster {
namespace {

TEST(Names, AppAndPlatformNamesAreDnsLabels) {
  EXPECT_EQ(platform_name_fault("a"), "");
  EXPECT_EQ(app_name_fault("data-base-2"), "");
  EXPECT_EQ(app_name_fault(std::string(32, 'a')), "");
  EXPECT_NE(app_name_fault(std::string(33, 'a')), "");
  for (auto bad : {"", "A", "1a", "a_b", "_x", "-a", "a.b", "a b", "ä"})
    EXPECT_NE(app_name_fault(bad), "") << bad;
}

TEST(Names, NodeNamesMayHaveCapitals) {
  EXPECT_EQ(node_name_fault("Node-1"), "");
  EXPECT_EQ(node_name_fault("1"), "");
  EXPECT_EQ(node_name_fault(std::string(63, 'a')), "");
  for (auto bad : {"", "-a", "a.b", "a_b", "a/b"}) EXPECT_NE(node_name_fault(bad), "") << bad;
  EXPECT_NE(node_name_fault(std::string(64, 'a')), "");
}

TEST(Names, AMisspeltNameFindsItsNearest) {
  std::vector<std::string> known{"platform", "node", "labels", "timing"};
  EXPECT_EQ(nearest_name("lables", known), "labels");
  EXPECT_EQ(nearest_name("platfrom", known), "platform");
  EXPECT_EQ(nearest_name("zzzzzz", known), "");
}

}  // namespace
}  // namespace cluster
