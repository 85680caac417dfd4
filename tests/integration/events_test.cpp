// Events of apps, against real servers, also while these die.
#include "cluster/events.h"

#include <atomic>
#include <csignal>
#include <map>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using testing::eventually;
using testing::kSoon;

/// What a subscription has been told.
class EventsTold {
 public:
  std::function<void(const Event&)> handler() {
    return [this](const Event& event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(event);
    };
  }
  std::vector<Event> events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  std::vector<std::string> payloads() const {
    std::vector<std::string> all;
    for (const auto& event : events()) all.push_back(event.payload);
    return all;
  }
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

using Payloads = std::vector<std::string>;

class EventsTest : public ::testing::Test {
 protected:
  struct Member {
    explicit Member(PlatformOptions options)
        : node(std::move(options)),
          shop(&node.platform->add_app({.name = "shop", .mode = Spread{}})),
          bank(&node.platform->add_app({.name = "bank", .mode = Spread{}})) {
      node.run();
    }
    testing::Node node;
    App *shop, *bank;
  };
  Member& start(const std::string& name, const std::function<void(PlatformOptions&)>& change = {}) {
    auto options = testing::Node::options(servers, folder.path(), name, 30s);
    options.timing = testing::patient_timing(testing::kVerySteady);
    if (change) change(options);
    members.push_back(std::make_unique<Member>(std::move(options)));
    EXPECT_TRUE(eventually(
        [&] { return members.back()->node.platform->members().size() >= members.size(); }));
    return *members.back();
  }
  template <typename Work>
  Errc errc_of(Work work) {
    return testing::errc_of(std::move(work), &last_text);
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  std::vector<std::unique_ptr<Member>> members;
  std::string last_text;
};

TEST_F(EventsTest, ASubscriptionGetsWhatFitsItsPatternAndItsApp) {
  auto& a = start("a");
  auto& b = start("b");
  EventsTold own, wild, all, platform, bank;
  const auto s1 = b.shop->events().subscribe("order.*", own.handler());
  const auto s2 = b.shop->events().subscribe(">", wild.handler());
  const auto s3 = b.node.platform->events().subscribe("order.>", all.handler());
  const auto s4 = b.shop->events().subscribe(">", platform.handler(), {.app = "_"});
  const auto s5 = b.shop->events().subscribe("order.created", bank.handler(), {.app = "bank"});
  const std::string binary("\0\xff\n", 3);
  const auto first = a.shop->events().publish(
      "order.created", binary, {.id = "id-1", .timeout = kSoon, .headers = {{"Trace", "7"}}});
  a.shop->events().publish("order.created.twice", "2");
  a.bank->events().publish("order.created", "3");
  a.node.platform->events().publish("upgrade", "4");
  ASSERT_TRUE(eventually([&] {
    return own.count() == 1 && wild.count() == 2 && all.count() == 3 && platform.count() == 1 &&
           bank.count() == 1;
  }));
  const Event event = own.events()[0];
  EXPECT_EQ(event.subject, "order.created");
  EXPECT_EQ(event.app, "shop");
  EXPECT_EQ(event.payload, binary);
  EXPECT_EQ(event.id, "id-1");
  EXPECT_EQ(event.sequence, first.sequence);
  EXPECT_EQ(event.headers, (EventHeaders{{"Trace", "7"}}));
  EXPECT_LT(std::chrono::abs(std::chrono::system_clock::now() - event.time), 1min);
  EXPECT_EQ(platform.events()[0].app, "_");
  EXPECT_EQ(bank.payloads(), Payloads{"3"});
}

TEST_F(EventsTest, OneIdIsStoredOnce) {
  auto& a = start("a");
  const auto first = a.shop->events().publish("s", "1", {.id = "same"});
  EXPECT_FALSE(first.duplicate);
  const auto again = a.shop->events().publish("s", "2", {.id = "same"});
  EXPECT_TRUE(again.duplicate);
  EXPECT_EQ(again.sequence, first.sequence);
  EXPECT_EQ(a.shop->events().publish("s", "3").sequence, first.sequence + 1);
}

TEST_F(EventsTest, ASubscriptionBeginsWhereItIsTold) {
  auto& a = start("a");
  auto events = a.shop->events();
  for (const char* text : {"1", "2", "3"}) events.publish("s", text);
  EventsTold all, third, new_ones, early, late;
  const auto s1 = events.subscribe("s", all.handler(), {.from = AllEvents{}});
  ASSERT_TRUE(eventually([&] { return all.count() == 3; }));
  const auto s2 = events.subscribe("s", third.handler(),
                                   {.from = EventsFromSequence{all.events()[2].sequence}});
  const auto s3 = events.subscribe("s", new_ones.handler());
  const auto s4 =
      events.subscribe("s", early.handler(), {.from = EventsFromTime{all.events()[1].time}});
  const auto s5 =
      events.subscribe("s", late.handler(), {.from = EventsFromTime{all.events()[2].time + 1us}});
  events.publish("s", "4");
  EXPECT_TRUE(eventually([&] {
    return third.count() == 2 && new_ones.count() == 1 && early.count() == 3 && late.count() == 1;
  }));
  EXPECT_EQ(new_ones.payloads(), Payloads{"4"});
  EXPECT_EQ(late.payloads(), Payloads{"4"});
  EXPECT_EQ(third.payloads(), (Payloads{"3", "4"}));
}

TEST_F(EventsTest, RefusesWhatCantBeAndSaysWhy) {
  auto& a = start("a");
  auto events = a.shop->events();
  const auto publish = [&](const std::string& subject, const PublishOptions& options = {}) {
    return errc_of([&] { events.publish(subject, "x", options); });
  };
  for (const char* subject :
       {"", "a..b", ".a", "a.", "a b", "a.*", ">", "\xc3\xa4", "_dead.x", "a\"b"})
    EXPECT_EQ(publish(subject), Errc::invalid_argument) << subject;
  EXPECT_EQ(publish(std::string(201, 'a')), Errc::invalid_argument);
  EXPECT_EQ(publish("a", {.id = "with blank"}), Errc::invalid_argument);
  EXPECT_EQ(publish("a", {.headers = {{"Nats-Rollup", "all"}}}), Errc::invalid_argument);
  const auto subscribe = [&](const std::string& pattern, SubscribeOptions options = {}) {
    return errc_of(
        [&] { const auto s = events.subscribe(pattern, [](const Event&) {}, std::move(options)); });
  };
  for (const char* pattern : {"", "a.>.b", "a b", "a..b"})
    EXPECT_EQ(subscribe(pattern), Errc::invalid_argument) << pattern;
  EXPECT_EQ(subscribe("a", {.app = "No App"}), Errc::invalid_argument);
  EXPECT_EQ(subscribe("a", {.durable = "a_b"}), Errc::invalid_argument);
  EXPECT_EQ(subscribe("_dead.>", {.durable = "d"}), Errc::invalid_argument);
  EXPECT_EQ(subscribe("a", {.durable = "d", .max_deliver = 0}), Errc::invalid_argument);
  EXPECT_EQ(errc_of([&] { events.publish("large", std::string(10'000'000, 'x')); }),
            Errc::invalid_argument);
  EXPECT_NE(last_text.find("max_payload of 1048576"), std::string::npos) << last_text;
}

TEST_F(EventsTest, BeforeThePlatformRunsAndAfterItHasEndedThereAreNone) {
  testing::Node node(testing::Node::options(servers, folder.path(), "n", 30s));
  auto events = node.platform->events();
  EXPECT_EQ(errc_of([&] { events.publish("s", "", {.timeout = 50ms}); }), Errc::unavailable);
  node.run();
  EventsTold told;
  auto subscription = events.subscribe("s", told.handler(), {.timeout = kSoon});
  node.stop();
  EXPECT_EQ(errc_of([&] { events.publish("s", ""); }), Errc::shutting_down);
  node.platform.reset();
  EXPECT_EQ(errc_of([&] { events.publish("s", ""); }), Errc::shutting_down);
}

TEST_F(EventsTest, LimitsOfTheStreamFollowTheOptions) {
  start("a").shop->events().publish("s", "1");
  start("b",
        [](PlatformOptions& o) {
          o.events = {.max_age = 1h,
                      .max_bytes = 10'000'000,
                      .max_message_size = 2'000,
                      .duplicate_window = 1min};
        })
      .shop->events()
      .publish("s", "2");
  Loop loop;
  nats::Connection connection(loop, servers.options());
  ASSERT_TRUE(testing::connect(connection));
  nats::JetStream js(connection);
  const auto config = nats::await<nats::StreamState>(
                          loop, kSoon, [&](auto done) { js.stream("test_events", done); })
                          .value()
                          .config;
  EXPECT_EQ(config.max_age, 1h);
  EXPECT_EQ(config.max_bytes, 10'000'000);
  EXPECT_EQ(config.max_msg_size, 2'000);
  EXPECT_EQ(config.duplicate_window, 1min);
  EXPECT_EQ(errc_of([&] { members[1]->shop->events().publish("s", std::string(3'000, 'x')); }),
            Errc::invalid_argument);
}

TEST_F(EventsTest, NothingAcknowledgedIsLostOrStoredTwiceWhenTheServerIsKilled) {
  auto& a = start("a");
  EventsTold told;
  const auto subscription = a.shop->events().subscribe("n", told.handler());
  std::atomic<bool> stop{false};
  std::atomic<int> acknowledged{0};
  std::mutex mutex;
  std::map<std::string, std::uint64_t> stored;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const std::string id = std::to_string(t) + "/" + std::to_string(i);
        try {
          const auto done = a.shop->events().publish("n", id, {.id = id, .timeout = kSoon});
          const std::lock_guard lock(mutex);
          stored[id] = done.sequence;
          ++acknowledged;
        } catch (const Error& error) {
          ADD_FAILURE() << error.what();
          return;
        }
      }
    });
  for (int round = 0; round < 2; ++round) {
    const int before = acknowledged;
    EXPECT_TRUE(eventually([&] { return acknowledged >= before + 200; }));
    ::kill(servers[0].pid(), SIGKILL);
    ASSERT_TRUE(eventually([&] { return !servers[0].running(nullptr); }));
    servers[0].start_again();
  }
  const int before = acknowledged;
  EXPECT_TRUE(eventually([&] { return acknowledged >= before + 200; }));
  stop = true;
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(eventually([&] { return told.count() >= stored.size(); }));
  std::map<std::string, int> times;
  std::uint64_t last = 0;
  for (const auto& event : told.events()) {
    ++times[event.payload];
    EXPECT_GT(event.sequence, last) << "out of order, or repeated";
    last = event.sequence;
  }
  for (const auto& [id, sequence] : stored) EXPECT_EQ(times[id], 1) << id;
  EXPECT_EQ(subscription.counts().gaps, 0u);
}

TEST_F(EventsTest, ASlowHandlerMissesNothingAndIsToldOf) {
  auto& a = start("a");
  auto events = a.shop->events();
  std::promise<void> go;
  auto gate = go.get_future().share();
  EventsTold told;
  std::atomic<int> troubles{0};
  SubscribeOptions options;
  options.on_trouble = [&](const Error& error) {
    if (error.errc() == Errc::overloaded) ++troubles;
  };
  const auto handler = told.handler();
  const auto subscription = events.subscribe(
      "s",
      [&](const Event& event) {
        gate.wait();
        handler(event);
      },
      options);
  constexpr std::size_t kThreads = 4, kEach = 400;  // more than wait for a handler
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < kEach; ++i) events.publish("s", "x", {.timeout = kSoon});
    });
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(eventually([&] { return subscription.counts().interrupted >= 1; }));
  go.set_value();
  ASSERT_TRUE(eventually([&] { return told.count() >= kThreads * kEach; }));
  std::uint64_t last = 0;
  for (const auto& event : told.events()) {
    EXPECT_GT(event.sequence, last);
    last = event.sequence;
  }
  EXPECT_EQ(told.count(), kThreads * kEach);
  EXPECT_TRUE(eventually([&] { return troubles >= 1; }));
}

TEST_F(EventsTest, DestroyingASubscriptionWaitsForItsHandlerButNotFromWithinIt) {
  auto& a = start("a");
  auto events = a.shop->events();
  std::atomic<bool> entered{false}, left{false};
  std::promise<void> go;
  auto outer = std::make_unique<EventSubscription>(events.subscribe("s", [&](const Event&) {
    entered = true;
    go.get_future().wait();
    left = true;
  }));
  events.publish("s", "1");
  events.publish("s", "2");
  ASSERT_TRUE(eventually([&] { return entered.load(); }));
  auto ending = std::async(std::launch::async, [&] { outer.reset(); });
  EXPECT_EQ(ending.wait_for(50ms), std::future_status::timeout);
  go.set_value();
  ending.get();
  EXPECT_TRUE(left);

  const auto over = std::make_shared<std::promise<void>>();
  std::unique_ptr<EventSubscription> inner;
  std::mutex mutex;
  {
    const std::lock_guard lock(mutex);
    inner = std::make_unique<EventSubscription>(events.subscribe("t", [&, over](const Event&) {
      const auto told = over;
      {
        const std::lock_guard wait(mutex);
        inner.reset();
      }
      told->set_value();
    }));
  }
  events.publish("t", "1");
  EXPECT_EQ(over->get_future().wait_for(kSoon), std::future_status::ready);
}

TEST_F(EventsTest, NodesShareADurableSubscriptionWhichRemembersWhatWasHandled) {
  auto& a = start("a");
  auto& b = start("b");
  SubscribeOptions options{.durable = "booking", .concurrency = 2};
  EventsTold at_a, at_b;
  std::size_t published = 0;
  {
    const auto s1 = a.shop->events().subscribe("s", at_a.handler(), options);
    const auto s2 = b.shop->events().subscribe("s", at_b.handler(), options);
    // One of them may be held up for a while: until both have had some.
    const auto end = BootClock::now() + kSoon;
    for (; published < 100 || ((at_a.count() == 0 || at_b.count() == 0) && BootClock::now() < end);
         ++published)
      a.shop->events().publish("s", std::to_string(published), {.timeout = kSoon});
    ASSERT_TRUE(eventually([&] { return at_a.count() + at_b.count() >= published; }));
    ASSERT_TRUE(eventually([&] { return s1.counts().handled + s2.counts().handled == published; }));
  }
  EXPECT_EQ(at_a.count() + at_b.count(), published);
  EXPECT_GT(at_a.count(), 0u);
  EXPECT_GT(at_b.count(), 0u);
  a.shop->events().publish("s", "while nobody listened");
  EventsTold later;
  const auto s3 = b.shop->events().subscribe("s", later.handler(), options);
  ASSERT_TRUE(eventually([&] { return later.count() >= 1; }));
  EXPECT_EQ(later.payloads(), Payloads{"while nobody listened"});
}

TEST_F(EventsTest, WhatFailsIsTriedAgainAndEndsAsADeadLetter) {
  auto& a = start("a");
  auto events = a.shop->events();
  EventsTold dead;
  const auto graveyard = events.subscribe("_dead.booking.>", dead.handler());
  std::atomic<int> poison{0}, good{0}, seen_dead{0};
  const auto subscription = events.subscribe(
      ">",
      [&](const Event& event) {
        if (event.subject.starts_with("_")) ++seen_dead;
        if (event.payload == "poison") {
          ++poison;
          throw std::runtime_error("can't\nbe booked");
        }
        if (event.payload == "second time" && event.deliveries == 1)
          throw std::runtime_error("not yet");
        ++good;
      },
      {.durable = "booking", .max_deliver = 3, .backoff_min = 10ms, .backoff_max = 20ms});
  const auto published =
      events.publish("order.x", "poison", {.id = "p1", .headers = {{"Trace", "7"}}});
  events.publish("order.y", "second time");
  ASSERT_TRUE(eventually([&] { return dead.count() == 1 && good == 1; }));
  EXPECT_EQ(poison, 3);
  const Event letter = dead.events()[0];
  EXPECT_EQ(letter.subject, "_dead.booking.order.x");
  EXPECT_EQ(letter.payload, "poison");
  const std::map<std::string, std::string> headers(letter.headers.begin(), letter.headers.end());
  EXPECT_EQ(headers.at("Cluster-Dead-Sequence"), std::to_string(published.sequence));
  EXPECT_EQ(headers.at("Cluster-Dead-Deliveries"), "3");
  EXPECT_EQ(headers.at("Cluster-Dead-Reason"), "can't be booked");
  EXPECT_EQ(headers.at("Cluster-Dead-App"), "shop");
  EXPECT_EQ(headers.at("Cluster-Dead-Id"), "p1");
  EXPECT_EQ(headers.at("Trace"), "7");
  EXPECT_TRUE(eventually([&] { return subscription.counts().dead == 1; }));
  events.publish("order.z", "after");
  EXPECT_TRUE(eventually([&] { return good == 2; }));
  EXPECT_EQ(seen_dead, 0) << "a dead letter came back";
}

TEST_F(EventsTest, WhatNoHandlerEverReturnedFromBecomesADeadLetterUnhandled) {
  auto& a = start("a");
  auto events = a.shop->events();
  EventsTold dead, handled;
  const SubscribeOptions options{.durable = "d", .ack_wait = 1s, .max_deliver = 1};
  {
    const auto made = events.subscribe("s", [](const Event&) {}, options);
  }
  const auto graveyard = events.subscribe("_dead.d.s", dead.handler());
  events.publish("s", "poison");
  {
    // Somebody takes it, and is gone.
    Loop loop;
    nats::Connection connection(loop, servers.options());
    ASSERT_TRUE(testing::connect(connection));
    std::string taken;
    const auto inbox = connection.new_inbox();
    const auto heard = connection.subscribe(inbox, [&](const nats::Message& m) { taken = m.data; });
    connection.publish(
        {.subject = "$JS.API.CONSUMER.MSG.NEXT.test_events.shop_d", .data = "1", .reply = inbox});
    ASSERT_TRUE(loop.run_until([&] { return !taken.empty(); }, kSoon));
    EXPECT_EQ(taken, "poison");
  }
  const auto subscription = events.subscribe("s", handled.handler(), options);
  ASSERT_TRUE(eventually([&] { return dead.count() == 1; }));
  EXPECT_EQ(handled.count(), 0u);
  events.publish("s", "good");
  EXPECT_TRUE(eventually([&] { return handled.payloads() == Payloads{"good"}; }));
}

TEST_F(EventsTest, WhatANodeLeavesUnfinishedGoesToAnother) {
  auto& a = start("a");
  auto& b = start("b");
  /// An event that a handler at node a has, and does not return from. Nodes share the durable.
  struct Round {
    std::promise<void> go;
    std::atomic<bool> entered{false};
    EventsTold at_b;
    EventSubscription s1, s2;
  };
  std::unique_ptr<Round> round;
  // For longer than ack_wait nobody else has it, since its node lives, and says so. One that stands
  // still for longer than that is taken for dead, rightly: tried again with a longer one then.
  for (auto ack_wait = 1'000ms;; ack_wait *= 2) {
    round = std::make_unique<Round>();
    const SubscribeOptions options{.durable = "d" + std::to_string(ack_wait.count()),
                                   .ack_wait = ack_wait};
    round->s1 = a.shop->events().subscribe(
        "s",
        [&round = *round](const Event&) {
          round.entered = true;
          round.go.get_future().wait();
        },
        options);
    b.shop->events().publish("s", "1");
    ASSERT_TRUE(eventually([&] { return round->entered.load(); }));
    round->s2 = b.shop->events().subscribe("s", round->at_b.handler(), options);
    std::this_thread::sleep_for(ack_wait * 3 / 2);
    if (round->at_b.count() == 0) break;
    round->go.set_value();
    ASSERT_LT(ack_wait, 10s) << "it went to another though its node lives";
  }
  auto stopped = std::async(std::launch::async, [&] {
    a.node.platform->stop();
    a.node.over.wait();
  });
  EXPECT_TRUE(eventually([&] { return round->at_b.count() == 1; }));
  EXPECT_EQ(round->at_b.events()[0].deliveries, 2u);
  round->go.set_value();
  stopped.get();
}

TEST_F(EventsTest, OptionsOfADurableSubscriptionAreBroughtUpToDateAndItCanBeRemoved) {
  auto& a = start("a");
  auto events = a.shop->events();
  {
    const auto s = events.subscribe("s", [](const Event&) {}, {.durable = "d"});
  }
  EventsTold told;
  std::atomic<int> removed{0};
  SubscribeOptions options{.durable = "d", .ack_wait = 5s, .max_in_flight = 7};
  options.on_trouble = [&](const Error& error) { removed += error.errc() == Errc::not_found; };
  const auto s = events.subscribe("t", told.handler(), options);
  events.publish("t", "1");
  EXPECT_TRUE(eventually([&] { return told.count() == 1; }));
  EXPECT_TRUE(events.remove_durable("d"));
  EXPECT_FALSE(events.remove_durable("d"));
  EXPECT_TRUE(eventually([&] { return removed == 1; }));
}

}  // namespace
}  // namespace cluster
