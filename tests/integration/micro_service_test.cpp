// Micro-services as other clients see them: the JSON of ADR-32, answers, errors, statistics.
#include "nats/micro_service.h"

#include <thread>

#include <nlohmann/json.hpp>

#include "integration/nats_fixture.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;
using testing::connect;
using testing::kSoon;
using testing::NatsServers;

class MicroServiceTest : public ::testing::Test {
 protected:
  MicroServiceTest() : c(loop, servers.options()) {}
  void SetUp() override { ASSERT_TRUE(connect(c)); }

  Message ask(const std::string& subject, const std::string& data = {}) {
    Message m;
    m.subject = subject;
    m.data = data;
    return await<Message>(loop, kSoon, [&](auto done) { c.request(std::move(m), kSoon, done); })
        .value();
  }
  Json ask_json(const std::string& subject) { return Json::parse(ask(subject).data); }

  NatsServers servers;
  Loop loop;
  Connection c;
  const ServiceConfig config{
      .name = "calc", .version = "1.2.3", .description = "sums", .metadata = {{"team", "a"}}};
};

TEST_F(MicroServiceTest, IsFoundByNameAndId) {
  MicroService service(c, config);
  service.add_endpoint("add", "calc.add", [](Message, Responder r) { r.reply("3"); }, "q",
                       {{"k", "v"}});
  for (const std::string& more : {std::string(), std::string(".calc"), ".calc." + service.id()}) {
    auto ping = ask_json("$SRV.PING" + more);
    EXPECT_EQ(ping, (Json{{"type", "io.nats.micro.v1.ping_response"},
                          {"name", "calc"},
                          {"id", service.id()},
                          {"version", "1.2.3"},
                          {"metadata", {{"team", "a"}}}}));
    auto info = ask_json("$SRV.INFO" + more);
    EXPECT_EQ(info["type"], "io.nats.micro.v1.info_response");
    EXPECT_EQ(info["description"], "sums");
    EXPECT_EQ(info["endpoints"], (Json::array({{{"name", "add"},
                                                {"subject", "calc.add"},
                                                {"queue_group", "q"},
                                                {"metadata", {{"k", "v"}}}}})));
    EXPECT_EQ(ask_json("$SRV.STATS" + more)["type"], "io.nats.micro.v1.stats_response");
  }
}

TEST_F(MicroServiceTest, AnswersAndErrorsAreCounted) {
  MicroService service(c, config);
  service.add_endpoint("add", "calc.add", [](Message request, Responder r) {
    if (request.data == "throw") throw std::runtime_error("broken\ninside");
    if (request.data == "drop") return;
    if (request.data == "refuse") return r.fail(400, "not a number");
    if (request.data == "huge") return r.reply(std::string(2'000'000, 'x'));
    r.reply("sum of " + request.data, {{"Unit", "m"}});
    r.reply("a second answer counts for nothing");
  });
  auto good = ask("calc.add", "1 2");
  EXPECT_EQ(good.data, "sum of 1 2");
  EXPECT_EQ(good.header("Unit"), "m");
  EXPECT_EQ(good.header("Nats-Service-Error-Code"), "");
  auto refused = ask("calc.add", "refuse");
  EXPECT_EQ(refused.header("Nats-Service-Error-Code"), "400");
  EXPECT_EQ(refused.header("Nats-Service-Error"), "not a number");
  EXPECT_EQ(ask("calc.add", "drop").header("Nats-Service-Error-Code"), "500");
  EXPECT_EQ(ask("calc.add", "throw").header("Nats-Service-Error"), "broken inside");
  EXPECT_EQ(ask("calc.add", "huge").header("Nats-Service-Error-Code"), "500");
  auto stats = ask_json("$SRV.STATS.calc");
  auto endpoint = stats["endpoints"][0];
  EXPECT_EQ(endpoint["name"], "add");
  EXPECT_EQ(endpoint["num_requests"], 5);
  EXPECT_EQ(endpoint["num_errors"], 4);
  EXPECT_EQ(endpoint["last_error"].get<std::string>().substr(0, 4), "500:");
  EXPECT_GT(endpoint["processing_time"].get<std::int64_t>(), 0);
  EXPECT_EQ(endpoint["average_processing_time"],
            endpoint["processing_time"].get<std::int64_t>() / 5);
  EXPECT_EQ(stats["started"].get<std::string>().back(), 'Z');
}

TEST_F(MicroServiceTest, AnswersMayComeFromAnotherThreadAndAfterTheServiceHasGone) {
  auto service = std::make_unique<MicroService>(c, config);
  std::vector<std::thread> threads;
  std::optional<Responder> kept;
  service->add_endpoint("work", "calc.work", [&](Message request, Responder r) {
    if (request.data == "keep") {
      kept = std::move(r);
      return;
    }
    threads.emplace_back([r = std::move(r)]() mutable { r.reply("from a thread"); });
  });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(ask("calc.work").data, "from a thread");
  for (auto& t : threads) t.join();
  Message m;
  m.subject = "calc.work";
  m.data = "keep";
  std::optional<Errc> outcome;
  c.request(m, std::chrono::milliseconds(300),
            [&](Result<Message> r) { outcome = r.error().errc(); });
  ASSERT_TRUE(loop.run_until([&] { return kept.has_value(); }, kSoon));
  service.reset();
  kept->reply("too late");
  ASSERT_TRUE(loop.run_until([&] { return outcome.has_value(); }, kSoon));
  EXPECT_EQ(outcome, Errc::timeout);
}

TEST_F(MicroServiceTest, ClosedItAnswersWhatItHasAndTakesNoMore) {
  MicroService service(c, config);
  std::optional<Responder> kept;
  service.add_endpoint("work", "calc.work", [&](Message, Responder r) { kept = std::move(r); });
  std::optional<std::string> answer;
  const auto ask_once = [&](Callback<Message> done) {
    Message m;
    m.subject = "calc.work";
    c.request(m, kSoon, std::move(done));
  };
  ask_once([&](Result<Message> r) { answer = r ? r.value().data : r.error().what(); });
  ASSERT_TRUE(loop.run_until([&] { return kept.has_value(); }, kSoon));
  service.close();
  std::optional<Errc> second;
  ask_once([&](Result<Message> r) { second = r ? Errc::corrupt : r.error().errc(); });
  ASSERT_TRUE(loop.run_until([&] { return second.has_value(); }, kSoon));
  EXPECT_EQ(second, Errc::no_responders);
  kept->reply("in time");
  ASSERT_TRUE(loop.run_until([&] { return answer.has_value(); }, kSoon));
  EXPECT_EQ(answer, "in time");
}

TEST_F(MicroServiceTest, AQueueGroupSharesRequestsAndNoneGivesThemToAll) {
  MicroService a(c, config);
  MicroService b(c, config);
  int shared = 0;
  int all = 0;
  for (auto* s : {&a, &b}) {
    s->add_endpoint("shared", "calc.shared",
                    [&](Message, Responder r) { ++shared, r.reply("ok"); });
    s->add_endpoint("all", "calc.all", [&](Message, Responder r) { ++all, r.reply("ok"); }, "");
  }
  ask("calc.shared");
  ask("calc.all");
  ASSERT_TRUE(loop.run_until([&] { return all == 2; }, kSoon));
  EXPECT_EQ(shared, 1);
  EXPECT_EQ(ask_json("$SRV.INFO.calc." + a.id())["endpoints"][1]["queue_group"], "");
}

TEST_F(MicroServiceTest, BadNamesAndVersionsAreRefused) {
  EXPECT_THROW(MicroService(c, {.name = "a b", .version = "1.0.0"}), Error);
  EXPECT_THROW(MicroService(c, {.name = "a", .version = "1.0"}), Error);
  EXPECT_THROW(MicroService(c, {.name = "", .version = "1.0.0"}), Error);
  MicroService fine(c, {.name = "a", .version = "1.0.0-rc.1+5"});
  EXPECT_THROW(fine.add_endpoint("x.y", "s", [](Message, Responder) {}), Error);
}

}  // namespace
}  // namespace cluster::nats
