// The connection against real servers: messages, requests, states, loss and return of servers.
#include "nats/connection.h"

#include <atomic>
#include <thread>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "integration/nats_fixture.h"

namespace cluster::nats {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::connect;
using testing::kSoon;
using testing::NatsServers;

Message message(const std::string& subject, const std::string& data = {}) {
  Message m;
  m.subject = subject;
  m.data = data;
  return m;
}

Result<Message> ask(Connection& c, Message m, Duration limit = kSoon) {
  return await<Message>(c.loop(), kSoon, [&](auto done) { c.request(std::move(m), limit, done); });
}

TEST(Connection, ConnectsAndSaysToWhat) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  EXPECT_EQ(c.state(), ConnectionState::connecting);
  std::vector<ConnectionState> states;
  c.on_state([&](ConnectionState s, const std::string& why) {
    // On a slow machine the first attempts are given up, and told of.
    if (s == ConnectionState::connecting && why.ends_with("no answer within the time limit"))
      return;
    states.push_back(s);
    EXPECT_EQ(why, "");
  });
  ASSERT_TRUE(connect(c));
  EXPECT_EQ(states, std::vector{ConnectionState::connected});
  auto server = c.server();
  EXPECT_EQ(server.url, servers[0].url());
  EXPECT_EQ(server.server_name, "nats-1");
  EXPECT_TRUE(server.jetstream);
  EXPECT_GT(server.max_payload, 0);
  EXPECT_EQ(server.version.substr(0, 2), "2.");
}

TEST(Connection, MessagesArriveInOrderAcrossSubscriptions) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  std::vector<std::string> got;
  auto a = c.subscribe("a.*", [&](Message m) { got.push_back(m.data); });
  auto b = c.subscribe("b", [&](Message m) { got.push_back(m.data); });
  std::vector<std::string> sent;
  for (int i = 0; i < 1000; ++i) {
    sent.push_back(std::to_string(i));
    ASSERT_TRUE(c.publish(message(i % 3 == 0 ? "b" : "a.x", sent.back())));
  }
  ASSERT_TRUE(loop.run_until([&] { return got.size() == sent.size(); }, kSoon));
  EXPECT_EQ(got, sent);
}

TEST(Connection, HeadersAndEmptyAndBinaryDataTravel) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  std::vector<Message> got;
  auto sub = c.subscribe("x", [&](Message m) { got.push_back(std::move(m)); });
  Message m = message("x", std::string("\0\r\n\xff", 4));
  m.headers = {{"One", "1"}, {"Two", "a"}, {"Two", "b: c"}};
  m.reply = "back";
  ASSERT_TRUE(c.publish(m));
  ASSERT_TRUE(c.publish(message("x")));
  ASSERT_TRUE(loop.run_until([&] { return got.size() == 2; }, kSoon));
  EXPECT_EQ(got[0].data, m.data);
  EXPECT_EQ(got[0].reply, "back");
  EXPECT_EQ(got[0].status, 0);
  EXPECT_EQ(got[0].headers.size(), 3u);
  EXPECT_EQ(got[0].header("One"), "1");
  EXPECT_EQ(got[0].header("Two"), "a");
  EXPECT_EQ(got[1].data, "");
}

TEST(Connection, AnEndedSubscriptionGetsNothingMore) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  int first = 0;
  int second = 0;
  Subscription ends;
  ends = c.subscribe("x", [&](Message) {
    ++first;
    ends = {};
  });
  auto stays = c.subscribe("x", [&](Message) { ++second; });
  for (int i = 0; i < 100; ++i) c.publish(message("x"));
  ASSERT_TRUE(loop.run_until([&] { return second == 100; }, kSoon));
  EXPECT_EQ(first, 1);
}

TEST(Connection, SubscriptionsThatComeAndGoUnderLoadDoNoHarm) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  Connection other(loop, servers.options("sender"));
  ASSERT_TRUE(connect(c));
  ASSERT_TRUE(connect(other));
  int got = 0;
  std::vector<Subscription> subs;
  // On a slow machine much comes for a subscription that has ended: until enough has come in time.
  const Time end = BootClock::now() + kSoon;
  for (int round = 0; round < 200 || (got <= 2000 && BootClock::now() < end); ++round) {
    subs.push_back(c.subscribe("load.>", [&](Message) { ++got; }));
    if (subs.size() > 3) subs.erase(subs.begin());
    for (int i = 0; i < 20; ++i) other.publish(message("load.x", "data"));
    loop.run_once(milliseconds(1));
  }
  EXPECT_GT(got, 2000);
}

TEST(Connection, QueueGroupsShareMessages) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  int a = 0;
  int b = 0;
  auto sub_a = c.subscribe("work", [&](Message) { ++a; }, "workers");
  auto sub_b = c.subscribe("work", [&](Message) { ++b; }, "workers");
  for (int i = 0; i < 200; ++i) c.publish(message("work"));
  ASSERT_TRUE(loop.run_until([&] { return a + b == 200; }, kSoon));
  EXPECT_GT(a, 0);
  EXPECT_GT(b, 0);
}

TEST(Connection, RequestsAreAnswered) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  auto echo = c.subscribe("echo", [&](Message m) { c.publish(message(m.reply, m.data + "!")); });
  for (int i = 0; i < 50; ++i) {
    auto answer = ask(c, message("echo", std::to_string(i)));
    ASSERT_TRUE(answer) << answer.error().what();
    EXPECT_EQ(answer.value().data, std::to_string(i) + "!");
  }
}

TEST(Connection, ARequestThatNobodyHearsFailsAtOnce) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  auto answer = ask(c, message("nobody.there"));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::no_responders);
  EXPECT_NE(std::string(answer.error().what()).find("nobody.there"), std::string::npos);
}

TEST(Connection, ARequestWithoutAnAnswerTimesOut) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  auto deaf = c.subscribe("deaf", [](Message) {});
  Time begin = BootClock::now();
  auto answer = ask(c, message("deaf"), milliseconds(100));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::timeout);
  EXPECT_GE(BootClock::now() - begin, milliseconds(100));
}

TEST(Connection, TimeoutsOfManyRequestsComeInTheirOrder) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  auto deaf = c.subscribe("deaf", [](Message) {});
  std::vector<int> order;
  // Only those that were made at once are due in a known order.
  Duration took{};
  for (int tries = 0; tries == 0 || (took >= milliseconds(40) && tries < 100); ++tries) {
    order.clear();
    const Time begin = BootClock::now();
    for (int i : {3, 1, 2})
      c.request(message("deaf"), milliseconds(50 * i), [&order, i](Result<Message> r) {
        EXPECT_EQ(r.error().errc(), Errc::timeout);
        order.push_back(i);
      });
    took = BootClock::now() - begin;
    ASSERT_TRUE(loop.run_until([&] { return order.size() == 3; }, kSoon));
  }
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST(Connection, WhileNotConnectedNothingIsSentOrQueued) {
  Loop loop;
  ConnectOptions o;
  o.nats.servers = {"nats://127.0.0.1:1"};
  Connection c(loop, o);
  std::vector<std::string> reasons;
  c.on_state([&](ConnectionState s, const std::string& why) {
    EXPECT_EQ(s, ConnectionState::connecting);
    reasons.push_back(why);
  });
  EXPECT_FALSE(c.publish(message("x")));
  auto answer = ask(c, message("x"));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::unavailable);
  ASSERT_TRUE(loop.run_until([&] { return !reasons.empty(); }, kSoon));
  EXPECT_EQ(reasons[0], "nats://127.0.0.1:1: connection refused");
}

TEST(Connection, AMessageOverTheServersLimitIsRefused) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  Message big =
      message("x", std::string(static_cast<std::size_t>(c.server().max_payload) + 1, 'x'));
  EXPECT_THROW(c.publish(big), Error);
  auto answer = ask(c, big);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().errc(), Errc::invalid_argument);
  EXPECT_NE(std::string(answer.error().what()).find("max_payload"), std::string::npos);
  big.data.pop_back();
  EXPECT_TRUE(c.publish(big));
  Message bad = message("x");
  bad.headers = {{"A", "b\r\nPUB evil 0"}};
  EXPECT_THROW(c.publish(bad), Error);
  EXPECT_THROW(c.publish(message("two words")), Error);
}

TEST(Connection, BadOptionsAreRefusedAllAtOnce) {
  Loop loop;
  ConnectOptions o;
  o.nats.servers = {"http://x", "nats://y:99999"};
  o.nats.creds_file = "/nowhere/user.creds";
  o.nats.token = "t";
  try {
    Connection c(loop, o);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::invalid_argument);
    for (const char* part : {"http://x", "nats://y:99999", "/nowhere/user.creds", "at most one"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Connection, ALostServerIsNoticedAndItsReturnToo) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  ASSERT_TRUE(connect(c));
  std::vector<std::pair<ConnectionState, std::string>> states;
  c.on_state([&](ConnectionState s, const std::string& why) { states.emplace_back(s, why); });
  int got = 0;
  auto sub = c.subscribe("x", [&](Message) { ++got; });
  auto deaf = c.subscribe("deaf", [](Message) {});
  Failure outcome;
  c.request(message("deaf"), seconds(60), [&](Result<Message> r) { outcome = r.error(); });
  servers[0].kill_hard();
  ASSERT_TRUE(loop.run_until([&] { return outcome.has_value(); }, kSoon));
  EXPECT_EQ(outcome->errc(), Errc::unavailable);
  ASSERT_FALSE(states.empty());
  EXPECT_EQ(states[0].first, ConnectionState::reconnecting);
  EXPECT_NE(states[0].second.find(servers[0].url()), std::string::npos);
  EXPECT_FALSE(c.publish(message("x")));
  ASSERT_TRUE(loop.run_until(
      [&] { return states.back().second.find("refused") != std::string::npos; }, kSoon));
  servers[0].start_again();
  ASSERT_TRUE(connect(c));
  EXPECT_EQ(states.back().first, ConnectionState::connected);
  ASSERT_TRUE(c.publish(message("x")));
  ASSERT_TRUE(loop.run_until([&] { return got == 1; }, kSoon));  // the one that was dropped is gone
}

TEST(Connection, AFrozenServerCountsAsLost) {
  NatsServers servers;
  Loop loop;
  auto o = servers.options();
  o.ping_interval = milliseconds(100);
  Connection c(loop, o);
  ASSERT_TRUE(connect(c));
  testing::freeze(servers[0].pid());
  EXPECT_TRUE(loop.run_until([&] { return c.state() == ConnectionState::reconnecting; }, kSoon));
  testing::thaw(servers[0].pid());
  EXPECT_TRUE(connect(c));
}

// Greets as a server does, and then says nothing more.
class MuteServer {
 public:
  MuteServer() {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(::listen(listener_, 16), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      const std::string greeting =
          "INFO "
          "{\"server_id\":\"mute\",\"version\":\"2.10.27\",\"proto\":1,\"headers\":true,\"max_"
          "payload\":1048576}\r\n";
      for (int fd = 0; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
        [[maybe_unused]] auto n = ::send(fd, greeting.data(), greeting.size(), MSG_NOSIGNAL);
        clients_.push_back(fd);
      }
    });
  }
  ~MuteServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    for (int fd : clients_) ::close(fd);
  }
  std::string url() const { return "nats://127.0.0.1:" + std::to_string(port_); }

 private:
  int listener_ = -1;
  int port_ = 0;
  std::vector<int> clients_;
  std::thread thread_;
};

TEST(Connection, AServerThatGoesSilentAmidTheHandshakeIsGivenUp) {
  MuteServer mute;
  NatsServers servers;
  Loop loop;
  auto o = servers.options();
  o.nats.servers.insert(o.nats.servers.begin(), mute.url());
  Connection c(loop, o);
  ASSERT_TRUE(connect(c));
  EXPECT_EQ(c.server().url, servers[0].url());

  o.nats.servers = {mute.url()};
  auto never = std::make_unique<Connection>(loop, o);
  std::string why;
  never->on_state([&](ConnectionState, const std::string& reason) { why = reason; });
  ASSERT_TRUE(loop.run_until([&] { return !why.empty(); }, kSoon));
  EXPECT_EQ(why, mute.url() + ": no answer within the time limit");
  never.reset();  // comes back, with an attempt under way
  testing::must(loop, [&](auto done) { c.flush(kSoon, done); });
}

TEST(Connection, EachServerOfThreeKilledInTurnIsReplacedQuickly) {
  NatsServers servers(3);
  Loop loop;
  auto o = servers.options();
  o.nats.servers.resize(1);  // the others are learned from it
  Connection c(loop, o);
  ASSERT_TRUE(connect(c));
  int lost = 0;
  c.on_state([&](ConnectionState state, const std::string&) {
    lost += state == ConnectionState::reconnecting;
  });
  for (int round = 0; round < 3; ++round) {
    // It may have lost the one that it had when another came back.
    ASSERT_TRUE(connect(c));
    const std::string url = c.server().url;
    std::size_t victim = 0;
    while (victim < servers.size() && servers[victim].url() != url) ++victim;
    ASSERT_LT(victim, servers.size()) << "connected to none of them, but to " << url;
    // It is told of each reason why an attempt fails.
    const int before = lost;
    Time begin = BootClock::now();
    servers[victim].kill_hard();
    auto replaced = [&] { return lost > before && c.state() == ConnectionState::connected; };
    ASSERT_TRUE(loop.run_until(replaced, kSoon));
    auto took = std::chrono::duration_cast<milliseconds>(BootClock::now() - begin).count();
    RecordProperty("reconnect_ms_" + std::to_string(round), static_cast<int>(took));
    std::cout << "reconnected after " << took << " ms\n";
    EXPECT_NE(c.server().url, servers[victim].url());
    // That it takes clients is enough here: JetStream may wait for an election.
    servers[victim].start_again();
    auto again = servers.options("again");
    again.nats.servers = {servers[victim].url()};
    Connection other(loop, again);
    ASSERT_TRUE(connect(other));
  }
}

TEST(Connection, AFloodThatIsNotTakenIsDroppedAndReported) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  Connection sender(loop, servers.options("sender"));
  ASSERT_TRUE(connect(c));
  ASSERT_TRUE(connect(sender));
  std::vector<Error> errors;
  c.on_error([&](const Error& e) { errors.push_back(e); });
  int got = 0;
  auto sub = c.subscribe("flood", [&](Message) { ++got; }, {}, 100);
  // Counts on the thread that takes them in, behind the one above.
  const auto arrived = std::make_shared<std::atomic<int>>(0);
  auto counter = c.subscribe_direct("flood", [arrived](const Message&) { ++*arrived; });
  testing::must(loop, [&](auto done) { c.flush(kSoon, done); });
  // The loop stands still while these come in on the other threads.
  for (int i = 0; i < 20'000; ++i) ASSERT_TRUE(sender.publish(message("flood", "x")));
  for (const Time end = BootClock::now() + kSoon; *arrived < 20'000;) {
    ASSERT_LT(BootClock::now(), end) << *arrived;
    std::this_thread::sleep_for(milliseconds(1));
  }
  ASSERT_TRUE(loop.run_until([&] { return !errors.empty(); }, kSoon));
  EXPECT_NE(std::string(errors[0].what()).find("\"flood\""), std::string::npos);
  EXPECT_GE(got, 100);
  EXPECT_LT(got, 20'000);
  // And it goes on.
  int before = got;
  testing::must(loop, [&](auto done) { c.flush(kSoon, done); });
  loop.run_until([&] { return false; }, milliseconds(0));
  ASSERT_TRUE(sender.publish(message("flood", "last")));
  ASSERT_TRUE(loop.run_until([&] { return got > before; }, kSoon));
}

TEST(Connection, FlushIsAProofThatAllWasProcessed) {
  NatsServers servers;
  Loop loop;
  Connection c(loop, servers.options());
  auto before = [&](auto done) { c.flush(seconds(1), done); };
  EXPECT_THROW(testing::must(loop, before), Error);
  ASSERT_TRUE(connect(c));
  testing::must(loop, [&](auto done) { c.flush(kSoon, done); });
  testing::freeze(servers[0].pid());
  Failure failure;
  c.flush(milliseconds(100), [&](Failure f) { failure = f; });
  ASSERT_TRUE(loop.run_until([&] { return failure.has_value(); }, kSoon));
  testing::thaw(servers[0].pid());
}

TEST(Connection, CallbacksMayDestroyTheConnection) {
  NatsServers servers;
  Loop loop;
  auto c = std::make_unique<Connection>(loop, servers.options());
  ASSERT_TRUE(connect(*c));
  int calls = 0;
  auto sub = c->subscribe("x", [&](Message) {
    ++calls;
    c.reset();
  });
  c->request(message("x"), seconds(5),
             [&](Result<Message>) { ADD_FAILURE() << "dropped with the connection"; });
  for (int i = 0; i < 10; ++i) c->publish(message("x"));
  ASSERT_TRUE(loop.run_until([&] { return !c; }, kSoon));
  loop.run_until([] { return false; }, milliseconds(50));
  EXPECT_EQ(calls, 1);
}

TEST(Connection, MayBeDestroyedInAnyState) {
  NatsServers servers;
  Loop loop;
  for (int i = 0; i < 30; ++i) {
    Connection c(loop, servers.options());
    auto sub = c.subscribe("x", [](Message) {});
    for (int j = 0; j < i; ++j) loop.run_once(milliseconds(0));
    c.request(message("x"), seconds(1), [](Result<Message>) {});
  }
  ConnectOptions o;
  o.nats.servers = {"nats://127.0.0.1:1"};
  Connection never(loop, o);
}

}  // namespace
}  // namespace cluster::nats
