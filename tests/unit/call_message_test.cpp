#include "data/call_message.h"

#include <gtest/gtest.h>

#include "data/circuit_breaker.h"
#include "data/token_bucket.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(CallMessage, ARequestComesAcrossWhole) {
  const CallEnvelope envelope{"id-1", 3, milliseconds(250), "node-7"};
  nats::Message message;
  message.subject = call_subject("p", "app", "node", "n1", "get", "shop");
  EXPECT_EQ(message.subject, "p.app.calls.node.n1.get.shop");
  message.data = "x";
  message.headers = {{"Mine", "1"}, {"Cluster-Call", text_of(envelope)}};
  message.headers.emplace_back("Cluster-Key", escaped_header("a%\n\xc3\xa4 "));
  const Time now(seconds(5));
  auto request = call_request(message, "p", now);
  ASSERT_TRUE(request) << request.error().what();
  const auto& r = request.value();
  EXPECT_EQ(r.app, "app");
  EXPECT_EQ(r.method, "get");
  EXPECT_EQ(r.caller_app, "shop");
  EXPECT_EQ(r.caller_node, "node-7");
  EXPECT_EQ(r.id, "id-1");
  EXPECT_EQ(r.attempt, 3);
  EXPECT_EQ(r.route, Route::node);
  EXPECT_EQ(r.key, "a%\n\xc3\xa4 ");
  EXPECT_EQ(r.headers, (CallHeaders{{"Mine", "1"}}));
  EXPECT_EQ(r.deadline, now + milliseconds(250));
}

TEST(CallMessage, RoutesAreReadFromTheSubject) {
  const auto route = [](const std::string& subject) {
    nats::Message message;
    message.subject = subject;
    auto request = call_request(message, "p", Time{});
    return request ? route_name(request.value().route) : request.error().what();
  };
  EXPECT_EQ(route("p.a.calls.any.m._"), "any");
  EXPECT_EQ(route("p.a.calls.leader.m._"), "leader");
  EXPECT_EQ(route("p.a.calls.key.m._"), "key");
  EXPECT_EQ(route("p.a.calls.all.m._"), "any");
  EXPECT_EQ(route("p.a.calls.node.n.m._"), "node");
  for (const char* odd : {"q.a.calls.any.m._", "p.a.calls.any.m", "p.a.calls.any.x.m._", "p", ""})
    EXPECT_NE(route(odd).find("can't be read"), std::string::npos) << odd;
}

TEST(CallMessage, WhatCantBeReadIsSaid) {
  for (const char* odd : {"", "x", "id 1 5", "id 0 5 n", "id x 5 n", "id 1 0 n", "id 1 -1 n",
                          "id 1 3600001 n", "i.d 1 5 n", "id 1 99999999999999999999 n"})
    EXPECT_FALSE(call_envelope(odd)) << odd;
  EXPECT_EQ(call_envelope("id 1 5 -").value().node, "");
  EXPECT_EQ(call_envelope("id 1 5 n more later").value().node, "n") << "newer versions may add";
  nats::Message message;
  message.subject = "p.a.calls.any.m._";
  for (const char* key : {"%", "%4", "%zz", "a%-1"}) {
    message.headers = {{"Cluster-Key", key}};
    EXPECT_FALSE(call_request(message, "p", Time{})) << key;
  }
}

TEST(CallMessage, AnswersComeAcrossWhole) {
  auto fine = read_answer(call_answer("yes", {{"A", "b"}}, "n1", 7), "call");
  EXPECT_FALSE(fine.error);
  EXPECT_EQ(fine.reply.payload, "yes");
  EXPECT_EQ(fine.reply.headers, (CallHeaders{{"A", "b"}}));
  EXPECT_EQ(fine.reply.node, "n1");
  EXPECT_EQ(fine.reply.epoch, 7U);
  auto bad = read_answer(call_failure("overloaded", "too\nmuch", false, "n1", 0), "call");
  ASSERT_TRUE(bad.error);
  EXPECT_FALSE(bad.ran);
  EXPECT_EQ(bad.error->errc(), Errc::overloaded);
  EXPECT_STREQ(bad.error->what(), "call: node \"n1\" answers: too much (overloaded)");
  EXPECT_TRUE(read_answer(call_failure("mine", "x", true, "n1", 0), "call").ran);
  EXPECT_EQ(read_answer(call_failure("mine", "x", true, "n1", 0), "call").error->errc(),
            Errc::call_failed);
  // Of a micro-service that is not ours.
  nats::Message foreign;
  foreign.headers = {{"Nats-Service-Error-Code", "500"}, {"Nats-Service-Error", "broken"}};
  auto of_others = read_answer(foreign, "call");
  ASSERT_TRUE(of_others.error);
  EXPECT_TRUE(of_others.ran);
  EXPECT_EQ(of_others.error->name(), "handler_failed");
}

TEST(CallMessage, EachErrorHasAName) {
  EXPECT_EQ(errc_from("not_leader"), Errc::not_leader);
  EXPECT_EQ(errc_from("call_failed"), Errc::call_failed);
  EXPECT_EQ(errc_from("unknown"), Errc::call_failed);
  EXPECT_EQ(errc_from(""), Errc::call_failed);
}

TEST(CallMessage, OptionsAreChecked) {
  EXPECT_EQ(call_options_fault({}), "");
  EXPECT_NE(call_options_fault({.timeout = milliseconds(0)}), "");
  EXPECT_NE(call_options_fault({.timeout = std::chrono::hours(2)}), "");
  EXPECT_NE(call_options_fault({.retries = -1}), "");
  EXPECT_NE(call_options_fault({.route = Route::node}), "");
  EXPECT_NE(call_options_fault({.route = Route::any, .node = "n"}), "");
  EXPECT_NE(call_options_fault({.node = "n.m"}), "");
  EXPECT_NE(call_options_fault({.key = std::string(1'025, 'x')}), "");
  EXPECT_NE(call_options_fault({.headers = {{"Nats-X", ""}}}), "");
}

// ---- circuit breaker

class BreakerTest : public ::testing::Test {
 protected:
  void fail(int times) {
    for (int i = 0; i < times; ++i) breaker.failed(now);
  }
  CircuitBreaker breaker{{.failures = 3, .open = seconds(1)}};
  Time now{seconds(100)};
  using State = CircuitBreaker::State;
};

TEST_F(BreakerTest, OpensAfterFailuresInARowOnly) {
  fail(2);
  breaker.succeeded();
  fail(2);
  EXPECT_TRUE(breaker.allow(now));
  fail(1);
  EXPECT_FALSE(breaker.allow(now));
  EXPECT_EQ(breaker.state(now), State::open);
}

TEST_F(BreakerTest, LetsOneThroughToSee) {
  fail(3);
  now += seconds(1);
  EXPECT_EQ(breaker.state(now), State::half_open);
  EXPECT_TRUE(breaker.allow(now));
  EXPECT_FALSE(breaker.allow(now)) << "one is on its way";
  breaker.unknown();
  EXPECT_TRUE(breaker.allow(now)) << "it told nothing";
  breaker.succeeded();
  EXPECT_EQ(breaker.state(now), State::closed);
  EXPECT_TRUE(breaker.allow(now));
  EXPECT_TRUE(breaker.allow(now));
}

TEST_F(BreakerTest, StaysOpenLongerEachTimeUpToALimit) {
  fail(3);
  Duration last{};
  for (int i = 0; i < 8; ++i) {
    last = breaker.open_until() - now;
    EXPECT_EQ(last, seconds(1) * (1 << std::min(i, 4)));
    now = breaker.open_until();
    ASSERT_TRUE(breaker.allow(now));
    breaker.failed(now);
  }
  // Stragglers from before do not prolong it.
  const Time until = breaker.open_until();
  fail(10);
  EXPECT_EQ(breaker.open_until(), until);
}

TEST(Breaker, MayBeOff) {
  CircuitBreaker breaker({.failures = 0});
  for (int i = 0; i < 100; ++i) breaker.failed(Time(seconds(1)));
  EXPECT_TRUE(breaker.allow(Time(seconds(1))));
}

TEST(TokenBucketTest, GivesABurstAndThenItsRate) {
  TokenBucket bucket(10, 5);
  Time now(seconds(1));
  int given = 0;
  for (int i = 0; i < 20; ++i) given += bucket.take(now);
  EXPECT_EQ(given, 5);
  for (int i = 0; i < 20; ++i) given += bucket.take(now += milliseconds(50));
  EXPECT_EQ(given, 15);
  now += seconds(100);
  given = 0;
  for (int i = 0; i < 20; ++i) given += bucket.take(now);
  EXPECT_EQ(given, 5) << "no more than the burst is saved up";
  EXPECT_THROW(TokenBucket(0, 5), Error);
  EXPECT_THROW(TokenBucket(5, 0.5), Error);
}

}  // namespace
}  // namespace cluster
