// Values of a program's own types in calls, keys and events.
#include "cluster/json.h"

#include <future>

#include <gtest/gtest.h>

#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using testing::eventually;

struct Order {
  std::string article{};
  int count = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Order, article, count)

class JsonTest : public ::testing::Test {
 protected:
  JsonTest() {
    app = &node.platform->add_app({.name = "shop", .mode = Spread{}});
    handle_json<Order>(*app, "price", [](const Order& order) { return order.count * 2.5; });
    handle_json<Order>(*app, "who", [](const Order& order, const CallRequest& request) {
      return std::vector<std::string>{order.article, request.caller_app};
    });
    handle_json<int>(*app, "odd", [](int) { return std::string("\xff"); });
    node.run();
    EXPECT_TRUE(eventually([&] {
      try {
        node.platform->call("shop", "price", R"({"article":"a","count":1})");
        return true;
      } catch (const Error&) {
        return false;
      }
    }));
  }
  std::string fault_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      EXPECT_TRUE(error.errc() == Errc::invalid_argument) << error.what();
      return error.what();
    }
    return "no error";
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  testing::Node node{servers, folder.path()};
  App* app = nullptr;
};

TEST_F(JsonTest, CallsTakeAndGiveValues) {
  auto& platform = *node.platform;
  EXPECT_EQ(call_json<double>(platform, "shop", "price", Order{"a", 4}), 10.0);
  EXPECT_EQ(call_json<std::vector<std::string>>(*app, "shop", "who", Order{"a", 4}),
            (std::vector<std::string>{"a", "shop"}));
  const auto raw = [&](const std::string& payload) {
    return fault_of([&] { platform.call("shop", "price", payload); });
  };
  EXPECT_NE(raw("{").find("request of \"shop.price\": it is not the JSON"), std::string::npos);
  EXPECT_NE(raw(R"({"article":"a"})").find("'count' not found"), std::string::npos)
      << raw(R"({"article":"a"})");
  EXPECT_NE(raw(R"({"article":1,"count":1})").find("must be string, but is number"),
            std::string::npos);
  EXPECT_NE(fault_of([&] {
              call_json<Order>(platform, "shop", "price", Order{"a", 4});
            }).find("answer of \"shop.price\""),
            std::string::npos);
  EXPECT_NE(fault_of([&] {
              call_json<std::string>(platform, "shop", "odd", 1);
            }).find("can't be written as JSON"),
            std::string::npos);
}

TEST_F(JsonTest, KeysAndEventsHoldValues) {
  const auto first = create_json(app->kv(), "o", Order{"a", 1});
  const auto entry = get_json<Order>(app->kv(), "o");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->revision, first);
  EXPECT_EQ(entry->value.count, 1);
  update_json(app->kv(), "o", Order{"a", 2}, first);
  EXPECT_EQ(get_json<Order>(app->kv(), "o")->value.count, 2);
  put_json(app->kv(), "o", 7);
  EXPECT_NE(fault_of([&] { get_json<Order>(app->kv(), "o"); }).find("value of \"o\""),
            std::string::npos);
  EXPECT_FALSE(get_json<Order>(app->kv(), "none"));
  std::promise<Order> came;
  const auto subscription = app->events().subscribe(
      "order", [&](const Event& event) { came.set_value(json_of<Order>(event)); });
  publish_json(app->events(), "order", Order{"b", 3});
  EXPECT_EQ(came.get_future().get().article, "b");
}

}  // namespace
}  // namespace cluster
