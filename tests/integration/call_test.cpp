// Calls between apps, against a real server.
#include "cluster/call.h"

#include <atomic>
#include <future>
#include <latch>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/call_message.h"
#include "data/call_server.h"
#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::eventually;
using testing::kSoon;

/// Nodes a and b, each with the spread app "echo" and the singleton "single", and a caller "c".
class CallTest : public ::testing::Test {
 protected:
  static constexpr int kMostAtATime = 8;

  void start(int nodes_with_apps = 2) {
    for (int i = 0; i < nodes_with_apps; ++i) {
      auto& node = add(std::string(1, static_cast<char>('a' + i)));
      auto& echo = node.platform->add_app(
          {.name = "echo", .mode = Spread{}, .calls = {.concurrency = kMostAtATime}});
      auto& single = node.platform->add_app({.name = "single"});
      const std::string name = node.platform->node();
      for (App* app : {&echo, &single}) {
        app->handle("echo", [](const CallRequest& r) { return r.payload; });
        app->handle("where", [name](const CallRequest&) { return name; });
      }
      if (adjust) adjust(echo, single);
      apps.push_back(&echo);
      singles.push_back(&single);
    }
    add("c");
    for (auto& node : nodes) node->run();
    for (auto& node : nodes)
      ASSERT_TRUE(eventually([&] { return node->platform->members().size() == nodes.size(); }));
    ASSERT_TRUE(eventually([&] {
      return answers("echo", {.route = Route::node, .node = "a"}) &&
             answers("single", {.route = Route::leader}) &&
             (nodes_with_apps < 2 || answers("echo", {.route = Route::node, .node = "b"}));
    }));
  }
  testing::Node& add(const std::string& name) {
    auto options = testing::Node::options(servers, folder.path(), name, seconds(30));
    options.timing = testing::patient_timing(testing::kSteady);
    nodes.push_back(std::make_unique<testing::Node>(std::move(options)));
    return *nodes.back();
  }
  Platform& caller() { return *nodes.back()->platform; }
  bool answers(const std::string& app, CallOptions options) {
    options.retries = 0;
    try {
      return caller().call(app, "echo", "x", options).payload == "x";
    } catch (const Error&) {
      return false;
    }
  }
  CallError error_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const CallError& error) {
      return error;
    } catch (const Error& error) {
      return {error.errc(), "not a CallError", error.what(), {}};
    }
    return {Errc{}, "none", "no error", {}};
  }
  CallError error_of_call(const std::string& app, const std::string& method,
                          const CallOptions& options = {}, const std::string& payload = {}) {
    return error_of([&] { caller().call(app, method, payload, options); });
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  std::function<void(App& echo, App& single)> adjust;
  std::vector<std::unique_ptr<testing::Node>> nodes;
  std::vector<App*> apps, singles;
};

TEST_F(CallTest, EachRouteLeadsToWhomItNames) {
  start();
  EXPECT_EQ(caller().call("echo", "where", "", {.node = "a"}).payload, "a");
  EXPECT_EQ(caller().call("echo", "where", "", {.route = Route::node, .node = "b"}).payload, "b");
  std::set<std::string> seen;
  for (int i = 0; i < 200 && seen.size() < 2; ++i)
    seen.insert(caller().call("echo", "where", "", {.route = Route::any}).payload);
  EXPECT_EQ(seen, (std::set<std::string>{"a", "b"})) << "any of two is always the same";

  const auto leader = singles[0]->election().leader();
  ASSERT_TRUE(leader);
  for (const Route route : {Route::leader, Route::key, Route::automatic}) {
    const auto reply = caller().call("single", "where", "", {.route = route, .key = "k"});
    EXPECT_EQ(reply.payload, leader->node);
    EXPECT_EQ(reply.node, leader->node);
    EXPECT_EQ(reply.epoch, singles[0]->election().leader()->epoch);
  }
  EXPECT_EQ(error_of_call("echo", "where", {.route = Route::leader}).errc(), Errc::no_leader);
  const auto answers = caller().call_all("single", "where", "");
  ASSERT_EQ(answers.size(), 2U);
  EXPECT_EQ(answers[0].reply.payload, "a");
  EXPECT_EQ(answers[1].reply.payload, "b");
  // The caller has a say, too: a node calls itself.
  EXPECT_EQ(apps[0]->call("echo", "where", "", {.node = "a"}).payload, "a");
}

TEST_F(CallTest, HandlersSeeWhoCallsAndCallersSeeHeaders) {
  std::promise<CallRequest> seen;
  adjust = [&seen, once = false](App& echo, App&) mutable {
    if (std::exchange(once, true)) return;
    echo.handle_async("look", [&seen](const CallRequest& r, const CallResponder& responder) {
      seen.set_value(r);
      EXPECT_TRUE(responder.reply("yes", {{"Colour", "red"}}));
      EXPECT_FALSE(responder.reply("again"));
      EXPECT_FALSE(responder.fail("late", "too late"));
    });
  };
  start();
  CallOptions options{.node = "a", .headers = {{"X-One", "1"}}};
  options.key = "schlüssel %\n";
  const auto reply = singles[1]->call("echo", "look", std::string("\0\xff", 2), options);
  EXPECT_EQ(reply.payload, "yes");
  EXPECT_EQ(reply.headers, (CallHeaders{{"Colour", "red"}}));
  const auto request = seen.get_future().get();
  EXPECT_EQ(request.app, "echo");
  EXPECT_EQ(request.method, "look");
  EXPECT_EQ(request.payload, std::string("\0\xff", 2));
  EXPECT_EQ(request.headers, options.headers);
  EXPECT_EQ(request.caller_app, "single");
  EXPECT_EQ(request.caller_node, "b");
  EXPECT_EQ(request.key, options.key);
  EXPECT_EQ(request.route, Route::node);
  EXPECT_EQ(request.attempt, 1);
  EXPECT_FALSE(request.id.empty());
  EXPECT_EQ(request.epoch, 0U);
}

TEST_F(CallTest, ErrorsSayWhatWhereAndWhoSaysSo) {
  adjust = [](App& echo, App&) {
    echo.handle("sold_out", [](const CallRequest&) -> std::string {
      throw CallError("out_of_stock", "no more of 4711\nat all");
    });
    echo.handle("forbidden", [](const CallRequest&) -> std::string {
      throw Error(Errc::permission_denied, "not you");
    });
    echo.handle("throws",
                [](const CallRequest&) -> std::string { throw std::runtime_error("a bug"); });
    echo.handle("throws_odd", [](const CallRequest&) -> std::string { throw 42; });
    echo.handle_async("silent", [](const CallRequest&, const CallResponder&) {});
    echo.handle("huge", [](const CallRequest&) { return std::string(10'000'000, 'x'); });
  };
  start();
  CallOptions a{.node = "a"};
  auto error = error_of_call("echo", "sold_out", a);
  EXPECT_EQ(error.errc(), Errc::call_failed);
  EXPECT_EQ(error.name(), "out_of_stock");
  EXPECT_EQ(error.node(), "a");
  EXPECT_STREQ(error.what(),
               "call to \"echo.sold_out\": node \"a\" answers: no more of 4711 at all "
               "(out_of_stock)");
  error = error_of_call("echo", "forbidden", a);
  EXPECT_EQ(error.errc(), Errc::permission_denied);
  EXPECT_EQ(error.name(), "permission_denied");
  EXPECT_EQ(error_of_call("echo", "throws", a).name(), "handler_failed");
  EXPECT_EQ(error_of_call("echo", "throws_odd", a).name(), "handler_failed");
  EXPECT_EQ(error_of_call("echo", "silent", a).name(), "no_answer");
  error = error_of_call("echo", "huge", a);
  EXPECT_EQ(error.name(), "answer_unsendable");
  EXPECT_NE(std::string(error.what()).find("max_payload"), std::string::npos) << error.what();

  error = error_of_call("echo", "ecko", a);
  EXPECT_EQ(error.errc(), Errc::not_found);
  EXPECT_NE(std::string(error.what()).find("did you mean \"echo\"?"), std::string::npos);
  error = error_of_call("echo", "echo", a, std::string(10'000'000, 'x'));
  EXPECT_EQ(error.errc(), Errc::invalid_argument);
  EXPECT_NE(std::string(error.what()).find("max_payload"), std::string::npos) << error.what();
  EXPECT_EQ(error_of_call("nosuch", "echo").errc(), Errc::no_responders);
  EXPECT_EQ(error_of_call("echo", "echo", {.node = "z"}).errc(), Errc::no_responders);
  EXPECT_EQ(error_of_call("echo", "a.b").errc(), Errc::invalid_argument);
  EXPECT_EQ(error_of_call("Echo", "echo").errc(), Errc::invalid_argument);
  EXPECT_EQ(error_of_call("echo", "echo", {.timeout = seconds(0)}).errc(), Errc::invalid_argument);
  EXPECT_EQ(error_of_call("echo", "echo", {.headers = {{"Cluster-Call", "x"}}}).errc(),
            Errc::invalid_argument);
  EXPECT_EQ(error_of([&] { caller().call_all("nosuch", "echo", ""); }).errc(), Errc::no_responders);
  // All is well afterwards.
  EXPECT_EQ(caller().call("echo", "echo", "x", a).payload, "x");
}

TEST_F(CallTest, AHandlerThatBlocksEndsAtItsDeadlineAndOthersGoOn) {
  std::atomic<int> begun{0}, told{0};
  std::promise<void> release;
  adjust = [&, released = release.get_future().share()](App& echo, App&) {
    echo.handle("block", [&begun, &told, released](const CallRequest& r) {
      ++begun;
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any ends;
      ends.wait(lock, r.stop, [] { return false; });
      ++told;
      released.wait();  // its answer is not to come while its caller is about to give up
      return std::string();
    });
  };
  start();
  // What has not begun when its time is up does not begin: a slow machine needs a longer time.
  CallError error{Errc{}, "none", "not called", {}};
  for (auto timeout = milliseconds(200); begun == 0 && timeout < kSoon; timeout *= 2)
    error = error_of_call("echo", "block", {.node = "a", .timeout = timeout});
  EXPECT_EQ(error.errc(), Errc::unknown_outcome) << error.what();
  EXPECT_TRUE(eventually([&] { return told >= 1 && told == begun; }));
  // Cancelled by the caller, long before its time limit.
  const int before = begun;
  std::stop_source stop;
  auto call = std::async(std::launch::async, [&] {
    return error_of_call("echo", "block",
                         {.node = "a", .timeout = 5 * kSoon, .stop = stop.get_token()});
  });
  EXPECT_TRUE(eventually([&] { return begun == before + 1; }));
  EXPECT_EQ(told, before) << "its time is not up";
  stop.request_stop();
  EXPECT_EQ(call.get().errc(), Errc::unknown_outcome);
  EXPECT_TRUE(eventually([&] { return told == before + 1; }));
  release.set_value();
}

TEST_F(CallTest, AQuickHandlerIsKeptFromBlocking) {
  adjust = [](App& echo, App&) {
    echo.handle("quick", [](const CallRequest& r) { return r.payload; }, {.quick = true});
    echo.handle("blocks",
                [&echo](const CallRequest&) { return echo.call("echo", "echo", "").payload; },
                {.quick = true});
    echo.handle("reads", [&echo](const CallRequest&) { return echo.kv().get("k")->value; },
                {.quick = true});
    echo.handle_async(
        "later",
        [](const CallRequest& r, const CallResponder& responder) {
          std::thread([responder, text = r.payload] { responder.reply(text + "!"); }).detach();
        },
        {.quick = true});
  };
  start();
  EXPECT_EQ(caller().call("echo", "quick", "x", {.node = "a"}).payload, "x");
  EXPECT_EQ(caller().call("echo", "later", "x", {.node = "a"}).payload, "x!");
  for (const char* method : {"blocks", "reads"}) {
    const auto error = error_of_call("echo", method, {.node = "a"});
    EXPECT_EQ(error.errc(), Errc::invalid_argument) << method;
    EXPECT_NE(std::string(error.what()).find("quick handler"), std::string::npos) << error.what();
  }
}

TEST_F(CallTest, MoreThanMayRunAreRefusedAtOnce) {
  std::promise<void> go;
  const auto open = go.get_future().share();
  std::atomic<int> running{0};
  adjust = [&](App& echo, App&) {
    echo.handle("wait", [&](const CallRequest&) {
      ++running;
      open.wait();
      return std::string("done");
    });
  };
  start();
  std::vector<std::future<CallReply>> calls;
  for (int i = 0; i < kMostAtATime; ++i)
    calls.push_back(std::async(std::launch::async, [&] {
      return caller().call("echo", "wait", "", {.node = "a", .timeout = 5 * kSoon});
    }));
  ASSERT_TRUE(eventually([&] { return running == kMostAtATime; }));
  const auto error = error_of_call("echo", "echo", {.node = "a", .retries = 0});
  EXPECT_EQ(error.errc(), Errc::overloaded);
  EXPECT_EQ(error.node(), "a");
  EXPECT_NE(std::string(error.what()).find("apps.echo.calls.concurrency"), std::string::npos);
  go.set_value();
  for (auto& call : calls) EXPECT_EQ(call.get().payload, "done");
  EXPECT_TRUE(eventually([&] { return answers("echo", {.node = "a"}); }));
}

TEST_F(CallTest, OnlyWhatMayRunTwiceIsTriedAgain) {
  std::atomic<int> tries{0}, waiting{0};
  std::atomic<bool> go_on{false};
  adjust = [&](App& echo, App&) {
    echo.handle("slow_at_first", [&](const CallRequest& r) {
      ++waiting;
      if (++tries == 1) eventually([&] { return go_on || tries > 1; });
      --waiting;
      return std::to_string(r.attempt);
    });
  };
  start();
  // What has not begun when its time is up does not begin: a slow machine needs a longer time.
  CallOptions options{.node = "a"};
  CallError error{Errc{}, "none", "not called", {}};
  for (auto timeout = milliseconds(300); tries == 0 && timeout < kSoon; timeout *= 2) {
    options.timeout = timeout;
    error = error_of_call("echo", "slow_at_first", options);
  }
  EXPECT_EQ(error.errc(), Errc::unknown_outcome) << error.what();
  // Another try would have come before this call.
  EXPECT_TRUE(eventually([&] { return answers("echo", {.node = "a"}); }));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(tries, 1);
  go_on = true;
  EXPECT_TRUE(eventually([&] { return waiting == 0; }));
  go_on = false;
  options.idempotent = true;
  options.timeout = kSoon;
  // The second try has to be answered in that time, too.
  std::string attempt;
  for (auto limit = milliseconds(300); attempt != "2" && limit < kSoon / 4; limit *= 2) {
    tries = 0;
    options.try_timeout = limit;
    try {
      attempt = caller().call("echo", "slow_at_first", "", options).payload;
    } catch (const CallError& slow) {
      attempt = slow.what();
    }
  }
  EXPECT_EQ(attempt, "2");
  EXPECT_EQ(tries, 2);
  // The first one may be at work still, with what this test goes away with.
  EXPECT_TRUE(eventually([&] { return waiting == 0; }));
}

TEST_F(CallTest, TheOldLeaderAnswersNotLeaderAndTheNewOneIsFound) {
  start();
  const auto before = singles[0]->election().leader();
  ASSERT_TRUE(before);
  App& old = before->node == "a" ? *singles[0] : *singles[1];
  auto stepping = std::async(std::launch::async, [&] { old.election().step_down(); });
  const auto reply = caller().call("single", "where", "",
                                   {.route = Route::leader, .timeout = kSoon, .retries = 1'000});
  stepping.get();
  if (reply.node == before->node) {
    EXPECT_EQ(reply.epoch, before->epoch);
  } else {
    EXPECT_GT(reply.epoch, before->epoch);
  }
  const auto next = caller().call("single", "where", "",
                                  {.route = Route::leader, .timeout = kSoon, .retries = 1'000});
  EXPECT_NE(next.node, before->node);
  EXPECT_GT(next.epoch, before->epoch);
}

TEST_F(CallTest, AllGivesAnAnswerOrAnErrorOfEachNode) {
  adjust = [](App& echo, App&) {
    echo.handle("odd",
                [](const CallRequest&) -> std::string { throw CallError("odd", "so am I"); });
  };
  start();
  auto answers = caller().call_all("echo", "odd", "");
  ASSERT_EQ(answers.size(), 2U);
  for (const auto& answer : answers) {
    ASSERT_TRUE(answer.error);
    EXPECT_EQ(answer.error->name(), "odd");
    EXPECT_EQ(answer.error->node(), answer.node);
  }
  // Until it has ended: for a moment a node that stops still answers, that it stops.
  nodes[0]->stop();
  ASSERT_TRUE(eventually([&] { return caller().members().size() == 2; }));
  answers = caller().call_all("echo", "echo", "x");
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].reply.payload, "x");
}

TEST_F(CallTest, ABreakerKeepsCallsFromATargetThatDoesNotAnswer) {
  std::atomic<bool> broken{true};
  std::mutex mutex;
  std::set<std::string> came;
  adjust = [&](App& echo, App&) {
    echo.handle("flaky", [&](const CallRequest& r) {
      {
        const std::lock_guard lock(mutex);
        came.insert(r.payload);
      }
      eventually([&] { return !broken; });
      return std::string("well");
    });
  };
  start();
  const CallOptions options{.node = "a", .timeout = milliseconds(100), .retries = 0};
  // On a slow machine the target may still say that a call came too late, which is an answer, and a
  // breaker may let one through again before the next call is made.
  int calls = 0, unanswered = 0;
  CallError error{Errc{}, "none", "not called", {}};
  do {
    error = error_of_call("echo", "flaky", options, std::to_string(++calls));
    if (error.errc() == Errc::timeout) unanswered = 0;
    if (error.errc() == Errc::unknown_outcome || error.errc() == Errc::overloaded) ++unanswered;
  } while (error.errc() != Errc::unavailable && calls < 100);
  EXPECT_GE(unanswered, 5);
  EXPECT_EQ(error.errc(), Errc::unavailable);
  EXPECT_NE(std::string(error.what()).find("not tried"), std::string::npos) << error.what();
  {
    const std::lock_guard lock(mutex);
    EXPECT_FALSE(came.contains(std::to_string(calls)));
  }
  EXPECT_EQ(caller().call("echo", "echo", "x", {.node = "b"}).payload, "x") << "another target";
  broken = false;
  EXPECT_TRUE(
      eventually([&] { return error_of_call("echo", "flaky", {.node = "a"}).errc() == Errc{}; }));
}

TEST_F(CallTest, MiddlewareStandsAroundHandlersAndCallers) {
  std::mutex mutex;
  std::vector<std::string> order;
  std::vector<CallOutcome> outcomes;
  // Those by which it is found out whether all runs do not count: the last may be told of late.
  const auto counts = [](const CallRequest& r) { return r.method != "echo"; };
  adjust = [&](App& echo, App& single) {
    echo.use([&](const CallRequest& r, const CallResponder& responder, const CallHandler& next) {
      if (!counts(r)) return next(r, responder);
      {
        const std::lock_guard lock(mutex);
        order.push_back("outer " + r.method);
      }
      responder.on_answered([&](const CallOutcome& outcome) {
        const std::lock_guard lock(mutex);
        outcomes.push_back(outcome);
      });
      next(r, responder);
    });
    echo.use([&](const CallRequest& r, const CallResponder& responder, const CallHandler& next) {
      if (counts(r)) {
        const std::lock_guard lock(mutex);
        order.push_back("inner");
      }
      next(r, responder);
    });
    echo.use(log_calls());
    single.use(allow_callers({"_"}));
    single.use(limit_calls(1, 1'000));
  };
  start();
  EXPECT_EQ(caller().call("echo", "where", "", {.node = "a"}).payload, "a");
  EXPECT_EQ(error_of_call("echo", "nosuch", {.node = "a"}).errc(), Errc::not_found);
  ASSERT_TRUE(eventually([&] {
    const std::lock_guard lock(mutex);
    return outcomes.size() == 1;
  }));
  EXPECT_EQ(order, (std::vector<std::string>{"outer where", "inner"}));
  EXPECT_EQ(outcomes[0].error, "");
  const auto refused = error_of([&] { apps[0]->call("single", "where", ""); });
  EXPECT_EQ(refused.errc(), Errc::permission_denied);
  EXPECT_NE(std::string(refused.what()).find("app \"echo\" may not call"), std::string::npos);
  EXPECT_EQ(caller().call("single", "echo", "x").payload, "x");
  EXPECT_THROW(caller().use(log_outgoing_calls()), Error) << "it runs already";
}

TEST_F(CallTest, EachAppIsAMicroServiceAndAnyClientMayCall) {
  start();
  Loop loop;
  nats::ConnectOptions options;
  options.nats.servers = servers.urls();
  nats::Connection connection(loop, options);
  ASSERT_TRUE(testing::connect(connection));
  const auto ask = [&](const std::string& subject, const std::string& payload) {
    nats::Message message;
    message.subject = subject;
    message.data = payload;
    return nats::await<nats::Message>(
               loop, kSoon, [&](auto done) { connection.request(message, kSoon, std::move(done)); })
        .value();
  };
  const std::string platform = caller().name();
  const std::string any = platform + ".echo.calls.any.";
  EXPECT_EQ(ask(any + "echo._", "plain").data, "plain");
  const auto fault = ask(any + "nosuch._", "");
  EXPECT_EQ(fault.header("Nats-Service-Error-Code"), "404");
  EXPECT_EQ(fault.header("Cluster-Error"), "not_found not-run");
  const auto info = nlohmann::json::parse(ask("$SRV.INFO." + platform + "_echo", "").data);
  ASSERT_EQ(info["endpoints"].size(), 2U);
  EXPECT_EQ(info["endpoints"][0]["name"], "echo");
  EXPECT_EQ(info["endpoints"][0]["subject"], any + "echo.*");
  EXPECT_EQ(info["metadata"]["app"], "echo");
  for (int i = 0; i < 10; ++i) caller().call("echo", "where", "", {.node = "a"});
  EXPECT_TRUE(eventually([&] {
    const auto stats = nlohmann::json::parse(ask("$SRV.STATS." + platform + "_echo", "").data);
    return stats["metadata"]["node"] == "a" && stats["endpoints"][1]["num_requests"] >= 10 &&
           stats["endpoints"][1]["processing_time"] > 0;
  }));
  // What can't be read is refused, and nothing comes of it.
  nats::Message odd;
  odd.subject = any + "echo._";
  for (const char* header : {"x", "id 0 5 n", "id 1 0 n", "id 1 99999999999 n", "i/d 1 5 n"}) {
    odd.headers = {{"Cluster-Call", header}};
    const auto answer = nats::await<nats::Message>(
        loop, kSoon, [&](auto done) { connection.request(odd, kSoon, std::move(done)); });
    EXPECT_EQ(answer.value().header("Nats-Service-Error-Code"), "400") << header;
  }
}

// It was stopped for longer than its session, and does not know yet that another leads.
TEST(CallServerTest, WhoseLeadHasPassedAnswersNotLeader) {
  testing::NatsServers servers;
  Loop loop;
  nats::ConnectOptions options;
  options.nats.servers = servers.urls();
  const auto exchange = std::make_shared<nats::Exchange>();
  nats::Connection connection(loop, options, exchange);
  ASSERT_TRUE(testing::connect(connection));
  StrandPool strands;
  std::atomic<std::uint64_t> lead{7};
  std::atomic<int> ran{0};
  const auto server = std::make_shared<CallServer>(
      loop, strands, exchange, CallServer::Options{"p", "n", "app", true, {}, [&] {
                                                     return lead == 0 ? std::nullopt
                                                                      : std::optional(lead.load());
                                                   }});
  server->handle("m", [&](const CallRequest& r, const CallResponder& responder) {
    ++ran;
    responder.reply(std::to_string(r.epoch));
  });
  server->open(connection);
  server->lead_begins();
  const auto ask = [&](const std::string& route) {
    nats::Message message;
    message.subject = call_subject("p", "app", route, "", "m", "_");
    return nats::await<nats::Message>(
               loop, kSoon, [&](auto done) { connection.request(message, kSoon, std::move(done)); })
        .value();
  };
  EXPECT_EQ(ask("leader").data, "7");
  lead = 0;
  EXPECT_EQ(ask("leader").header("Cluster-Error"), "not_leader not-run");
  EXPECT_EQ(ask("key").header("Cluster-Error"), "not_leader not-run");
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(ask("any").data, "0");
  server->close();
}

TEST_F(CallTest, AServerThatDiesLeavesNoCallInDoubtUntold) {
  std::atomic<int> done{0};
  adjust = [&](App& echo, App&) {
    echo.handle("count", [&](const CallRequest&) {
      ++done;
      return std::string("ok");
    });
  };
  start();
  std::atomic<bool> over{false};
  std::atomic<int> fine{0}, unknown{0}, not_run{0};
  std::vector<std::string> odd;
  std::thread work([&] {
    while (!over) {
      const auto error =
          error_of_call("echo", "count", {.node = "a", .timeout = seconds(2), .retries = 0});
      // timeout: the node says that it came too late to begin.
      if (error.errc() == Errc{})
        ++fine;
      else if (error.errc() == Errc::unknown_outcome)
        ++unknown;
      else if (error.errc() == Errc::unavailable || error.errc() == Errc::no_responders ||
               error.errc() == Errc::shutting_down || error.errc() == Errc::timeout)
        ++not_run;
      else
        odd.push_back(error.what());
    }
  });
  for (int i = 0; i < 3; ++i) {
    const int before = fine, lost = not_run;
    EXPECT_TRUE(eventually([&] { return fine > before; }));
    servers[0].kill_hard();
    EXPECT_TRUE(eventually([&] { return not_run > lost; }));
    servers[0].start_again();
    servers[0].wait_ready(kSoon);
    EXPECT_TRUE(eventually([&] { return answers("echo", {.node = "a"}); }));
  }
  over = true;
  work.join();
  EXPECT_TRUE(odd.empty()) << odd.front();
  EXPECT_GT(fine, 0);
  EXPECT_GT(not_run, 0);
  // Never more than were acknowledged or are in doubt, never less than were acknowledged.
  EXPECT_GE(done, fine);
  EXPECT_LE(done, fine + unknown);
}

TEST_F(CallTest, AfterTheEndAndBeforeTheBeginningThereIsAClearError) {
  auto& node = add("a");
  auto& app = node.platform->add_app({.name = "echo", .mode = Spread{}});
  EXPECT_THROW(app.handle("a b", [](const CallRequest&) { return std::string(); }), Error);
  EXPECT_THROW(app.handle("m", nullptr), Error);
  app.handle("m", [](const CallRequest&) { return std::string(); });
  EXPECT_THROW(app.handle("m", [](const CallRequest&) { return std::string(); }), Error);
  EXPECT_THROW(app.use(nullptr), Error);
  EXPECT_THROW(limit_calls(0, 1), Error);
  EXPECT_EQ(error_of([&] { node.platform->call("echo", "m", ""); }).errc(), Errc::unavailable);
  node.run();
  ASSERT_TRUE(eventually(
      [&] { return error_of([&] { node.platform->call("echo", "m", ""); }).errc() == Errc{}; }));
  EXPECT_THROW(app.handle("late", [](const CallRequest&) { return std::string(); }), Error);
}

}  // namespace
}  // namespace cluster
