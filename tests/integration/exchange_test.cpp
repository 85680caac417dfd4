// Requests of threads that are not the loop's, against a real server.
#include "nats/exchange.h"

#include <algorithm>
#include <atomic>
#include <future>

#include <gtest/gtest.h>

#include "integration/nats_fixture.h"
#include "nats/blocking_jetstream.h"

namespace cluster::nats {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::connect;
using testing::kSoon;

class ExchangeTest : public ::testing::Test {
 protected:
  ExchangeTest() { EXPECT_TRUE(connect(*connection)); }

  /// Answers each request on the subject with what it carried and `suffix`.
  void echo(const std::string& subject, const std::string& suffix = "") {
    subscriptions.push_back(
        connection->subscribe_direct(subject, [exchange = exchange, suffix](const Message& m) {
          exchange->publish({.subject = m.reply, .data = m.data + suffix});
        }));
    ready();
  }
  void ready() {
    testing::must(loop, [&](auto done) { connection->flush(kSoon, done); });
  }
  template <typename Work>
  auto on_thread(Work work) {
    return std::async(std::launch::async, std::move(work));
  }
  template <typename T>
  T result_of(std::future<T> future) {
    EXPECT_TRUE(loop.run_until(
        [&] { return future.wait_for(seconds(0)) == std::future_status::ready; }, kSoon));
    return future.get();
  }
  Errc request_fails(Message message, Duration timeout = kSoon) {
    auto answer = exchange->request(std::move(message), timeout);
    return answer ? Errc{} : answer.error().errc();
  }

  testing::NatsServers servers;
  Loop loop;
  std::shared_ptr<Exchange> exchange = std::make_shared<Exchange>();
  std::unique_ptr<Connection> connection =
      std::make_unique<Connection>(loop, servers.options(), exchange);
  std::vector<Subscription> subscriptions;
};

TEST_F(ExchangeTest, ARequestNeedsNoLoop) {
  echo("e", "!");
  auto answer = exchange->request({.subject = "e", .data = "hello"}, kSoon);
  ASSERT_TRUE(answer) << answer.error().what();
  EXPECT_EQ(answer.value().data, "hello!");
  EXPECT_EQ(exchange->waiting(), 0u);
}

// A lead ends while calls come: each caller hears something at once, whenever he asked.
TEST_F(ExchangeTest, WhoAsksWhileASubscriptionEndsIsAnswered) {
  std::atomic<bool> over{false};
  std::atomic<int> answered{0};
  std::vector<std::future<std::string>> threads;
  for (int t = 0; t < 4; ++t)
    threads.push_back(on_thread([&] {
      while (!over) {
        const auto answer = exchange->request({.subject = "e"}, kSoon);
        if (answer)
          ++answered;
        else if (answer.error().errc() != Errc::no_responders)
          return std::string(answer.error().what());
      }
      return std::string();
    }));
  for (int round = 0; round < 30; ++round) {
    echo("e");
    const int before = answered;
    EXPECT_TRUE(loop.run_until([&] { return answered > before + 20; }, kSoon));
    subscriptions.clear();
  }
  over = true;
  for (auto& thread : threads) EXPECT_EQ(result_of(std::move(thread)), "");
}

TEST_F(ExchangeTest, ManyThreadsGetTheirOwnAnswers) {
  echo("e");
  std::vector<std::future<int>> threads;
  for (int t = 0; t < 8; ++t)
    threads.push_back(on_thread([this, t] {
      int right = 0;
      for (int i = 0; i < 200; ++i) {
        const std::string mine = std::to_string(t) + "/" + std::to_string(i);
        auto answer = exchange->request({.subject = "e", .data = mine}, kSoon);
        if (answer && answer.value().data == mine) ++right;
      }
      return right;
    }));
  for (auto& thread : threads) EXPECT_EQ(thread.get(), 200);
  EXPECT_EQ(exchange->waiting(), 0u);
}

TEST_F(ExchangeTest, SaysWhatBecameOfARequestThatFails) {
  EXPECT_EQ(request_fails({.subject = "nobody"}), Errc::no_responders);
  EXPECT_EQ(request_fails({.subject = "no subject"}), Errc::invalid_argument);
  EXPECT_EQ(request_fails({.subject = "e", .data = std::string(2'000'000, 'x')}),
            Errc::invalid_argument);
  subscriptions.push_back(connection->subscribe_direct("silent", [](const Message&) {}));
  ready();
  EXPECT_EQ(request_fails({.subject = "silent"}, milliseconds(20)), Errc::timeout);
  std::stop_source stop;
  stop.request_stop();
  auto stopped = exchange->request({.subject = "silent"}, kSoon, stop.get_token());
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().errc(), Errc::unknown_outcome);
  EXPECT_EQ(exchange->waiting(), 0u);
}

TEST_F(ExchangeTest, ALostConnectionLeavesTheOutcomeUnknown) {
  const auto heard = std::make_shared<std::atomic<bool>>(false);
  subscriptions.push_back(
      connection->subscribe_direct("silent", [heard](const Message&) { *heard = true; }));
  ready();
  auto waiting = on_thread([this] { return request_fails({.subject = "silent"}); });
  // Until it has been sent: one that has not is known not to have taken effect.
  ASSERT_TRUE(loop.run_until([&] { return heard->load(); }, kSoon));
  servers[0].kill_hard();
  EXPECT_EQ(result_of(std::move(waiting)), Errc::unknown_outcome);
  EXPECT_EQ(request_fails({.subject = "silent"}), Errc::unavailable) << "nothing was sent";
  servers[0].start_again();
  ASSERT_TRUE(connect(*connection));
  echo("e");
  EXPECT_TRUE(exchange->request({.subject = "e"}, kSoon));
}

TEST_F(ExchangeTest, GathersSeveralAnswersUntilItHasEnough) {
  for (const char* suffix : {"a", "b", "c"}) echo("all", suffix);
  std::string got;
  EXPECT_FALSE(exchange->gather({.subject = "all"}, kSoon, {}, [&](const Message& m) {
    got += m.data;
    return got.size() < 3;
  }));
  std::sort(got.begin(), got.end());  // the server asks them in any order
  EXPECT_EQ(got, "abc");
  auto more = exchange->gather({.subject = "all"}, milliseconds(50), {},
                               [](const Message&) { return true; });
  ASSERT_TRUE(more);
  EXPECT_EQ(more->errc(), Errc::timeout);
}

TEST_F(ExchangeTest, NothingWorksOnceItIsClosed) {
  subscriptions.push_back(connection->subscribe_direct("silent", [](const Message&) {}));
  ready();
  auto waiting = on_thread([this] { return request_fails({.subject = "silent"}); });
  ASSERT_TRUE(loop.run_until([&] { return exchange->waiting() == 1; }, kSoon));
  exchange->close();
  EXPECT_EQ(result_of(std::move(waiting)), Errc::unknown_outcome);
  EXPECT_EQ(request_fails({.subject = "silent"}), Errc::shutting_down);
  EXPECT_TRUE(exchange->publish({.subject = "silent"}));
  EXPECT_FALSE(exchange->wait_connected(kSoon));
}

TEST_F(ExchangeTest, OutlivesItsConnectionWhileThreadsUseIt) {
  echo("e");
  std::atomic<bool> stop{false};
  auto requests = on_thread([&] {
    int answered = 0;
    while (!stop)
      if (exchange->request({.subject = "e"}, milliseconds(500))) ++answered;
    return answered;
  });
  subscriptions.clear();
  connection.reset();
  stop = true;
  requests.get();
  EXPECT_EQ(request_fails({.subject = "e"}), Errc::unavailable);
}

TEST_F(ExchangeTest, PublishesToAStreamAndReadsItsLastMessage) {
  const BlockingJetStream js(exchange);
  StreamConfig config;
  config.name = "S";
  config.subjects = {"s.>"};
  config.allow_direct = true;
  auto made = js.ensure_stream(config, kSoon);
  ASSERT_TRUE(made) << made.error().what();
  EXPECT_TRUE(made.value().config.allow_direct);
  EXPECT_EQ(js.last_message("S", "s.a", kSoon).error().errc(), Errc::not_found);
  EXPECT_EQ(js.last_message_direct("S", "s.a", kSoon).error().errc(), Errc::not_found);
  Expect empty;
  empty.last_subject_sequence = 0;
  auto stored = js.publish({.subject = "s.a", .data = "v", .headers = {{"K", "w"}}}, empty, kSoon);
  ASSERT_TRUE(stored) << stored.error().what();
  EXPECT_EQ(stored.value().sequence, 1u);
  EXPECT_EQ(js.publish({.subject = "s.a"}, empty, kSoon).error().errc(), Errc::wrong_revision);
  for (const auto& last :
       {js.last_message("S", "s.a", kSoon), js.last_message_direct("S", "s.a", kSoon)}) {
    ASSERT_TRUE(last) << last.error().what();
    EXPECT_EQ(last.value().data, "v");
    EXPECT_EQ(last.value().subject, "s.a");
    EXPECT_EQ(last.value().sequence, 1u);
    EXPECT_EQ(last.value().header("K"), "w");
    EXPECT_GT(last.value().time_ns, 0);
  }
  EXPECT_EQ(js.stream("none", kSoon).error().errc(), Errc::not_found);
}

}  // namespace
}  // namespace cluster::nats
