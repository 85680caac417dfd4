// What a node says of itself, in pieces where a NATS message has no room for all of it.
#include "platform/node_status.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace cluster {
namespace {

using Json = nlohmann::json;

NodeStatus with_apps(int count) {
  NodeStatus status;
  status.platform = "shop";
  status.node = "node-1";
  for (int i = 0; i < count; ++i) {
    AppStatus app;
    app.name = "app-" + std::to_string(1'000 + i);
    app.last_error = std::string(static_cast<std::size_t>(i * 7 % 300), 'x');
    status.apps.push_back(app);
  }
  return status;
}

TEST(NodeStatusInPieces, HaveAllAppsOnceAndFit) {
  const NodeStatus status = with_apps(200);
  for (const std::size_t most : {2'000, 8'000, 64'000, 1'000'000}) {
    std::vector<std::string> names;
    std::string after;
    for (bool more = true; more;) {
      const std::string text = to_json(status, after, most);
      EXPECT_LE(text.size(), most);
      const Json json = Json::parse(text);
      EXPECT_EQ(json["node"], "node-1");
      for (const auto& app : json["apps"]) names.push_back(app["name"]);
      more = json.value("more", false);
      ASSERT_FALSE(names.empty());
      ASSERT_LE(names.size(), 200U);
      after = names.back();
    }
    ASSERT_EQ(names.size(), 200U) << most;
    for (int i = 0; i < 200; ++i)
      EXPECT_EQ(names[static_cast<std::size_t>(i)], "app-" + std::to_string(1'000 + i));
  }
}

TEST(NodeStatusInPieces, AreOneWhereAllFits) {
  const NodeStatus status = with_apps(3);
  EXPECT_EQ(to_json(status, "", 100'000), to_json(status));
  EXPECT_EQ(Json::parse(to_json(status, "app-1002", 100'000))["apps"].size(), 0U);
}

}  // namespace
}  // namespace cluster
