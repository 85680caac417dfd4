// Locks, semaphores and barriers of nodes, against a real server.
#include "cluster/lock.h"

#include <atomic>
#include <set>

#include <gtest/gtest.h>

#include "coord/lock_sweeper.h"
#include "coord/records_json.h"
#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::eventually;
using testing::kSoon;

class LockTest : public ::testing::Test {
 protected:
  /// A node takes no lock before it has voters, or session_timeout has passed.
  testing::Node& node(const std::string& name, milliseconds session_timeout = testing::kSteady) {
    auto options = testing::Node::options(servers, folder.path(), name, seconds(30));
    options.timing = testing::patient_timing(session_timeout);
    options.timing.lease_ttl = seconds(100);
    nodes.push_back(std::make_unique<testing::Node>(std::move(options)));
    nodes.back()->platform->add_app({.name = "app", .mode = Spread{}});
    nodes.back()->run();
    return *nodes.back();
  }
  /// Its session lasts for lease_ttl all the same.
  testing::Node& node_alone(const std::string& name) { return node(name, testing::patience()); }
  template <typename Work>
  Errc errc_of(Work work) {
    return testing::errc_of(std::move(work), &last_text);
  }
  template <typename Work>
  auto on_thread(Work work) {
    return std::async(std::launch::async, std::move(work));
  }
  std::size_t waiters(const std::string& key) {
    Loop loop;
    nats::Connection connection(loop, servers.options());
    EXPECT_TRUE(testing::connect(connection));
    nats::JetStream js(connection);
    auto message = nats::await<nats::StoredMessage>(loop, kSoon, [&](auto done) {
      js.last_message("KV_test_locks", "$KV.test_locks." + key, done);
    });
    if (!message) return 0;
    const auto record = coord::lock_record_from(key, message.value().data);
    EXPECT_TRUE(record);
    return record ? record.value().waiters.size() : 0;
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  std::vector<std::unique_ptr<testing::Node>> nodes;
  std::string last_text;
};

TEST_F(LockTest, OneHoldsItAtATime) {
  auto& a = *node("a").platform;
  auto& b = *node("b").platform;
  LockGuard first = a.lock("l").acquire(kSoon);
  EXPECT_TRUE(first.held());
  EXPECT_GT(first.token(), 0u);
  EXPECT_EQ(first.name(), "l");
  EXPECT_FALSE(b.lock("l").try_acquire(kSoon));
  EXPECT_FALSE(a.lock("l").try_acquire(kSoon)) << "not by another thread of the same node either";
  // It looks who holds it for no longer than it has waited.
  const auto named = [&] { return last_text.find("node \"a\" holds it") != std::string::npos; };
  for (auto wait = milliseconds(50); !named() && wait < kSoon; wait *= 2)
    EXPECT_EQ(errc_of([&] { b.lock("l").acquire(wait); }), Errc::timeout);
  EXPECT_TRUE(named()) << last_text;
  auto holder = b.lock("l").holder();
  ASSERT_TRUE(holder);
  EXPECT_EQ(holder->node, "a");
  EXPECT_EQ(holder->token, first.token());
  first.release();
  EXPECT_FALSE(first.held());
  auto second = b.lock("l").try_acquire(kSoon);
  ASSERT_TRUE(second);
  EXPECT_GT(second->token(), first.token());
  second.reset();
  EXPECT_TRUE(eventually([&] { return !a.lock("l").holder(); }));
}

TEST_F(LockTest, AReleaseHandsItToWhoeverHasWaitedLongest) {
  auto& a = *node("a").platform;
  auto& b = *node("b").platform;
  auto& c = *node("c").platform;
  LockGuard held = a.lock("l").acquire(kSoon);
  std::mutex mutex;
  std::vector<std::string> order;
  auto take = [&](Platform& platform, const std::string& name) {
    return on_thread([&platform, name, &mutex, &order] {
      platform.lock("l").run([&](LockGuard& guard) {
        EXPECT_TRUE(guard.held());
        const std::lock_guard lock(mutex);
        order.push_back(name);
      });
    });
  };
  std::vector<std::future<void>> all;
  int n = 0;
  for (auto* platform : {&b, &c, &a, &b}) {
    all.push_back(take(*platform, std::to_string(++n)));
    ASSERT_TRUE(eventually([&] { return waiters("_.l") == static_cast<std::size_t>(n); }));
  }
  held.release();
  for (auto& one : all) one.get();
  EXPECT_EQ(order, (std::vector<std::string>{"1", "2", "3", "4"}));
}

TEST_F(LockTest, OfManyThreadsOnSeveralNodesOneIsInsideAtATime) {
  for (const char* name : {"a", "b", "c"}) node(name);
  std::atomic<int> inside{0}, most{0}, entries{0};
  std::atomic<std::uint64_t> last_token{0};
  std::atomic<bool> grew{true};
  std::vector<std::future<void>> threads;
  for (auto& n : nodes)
    for (int t = 0; t < 4; ++t)
      threads.push_back(on_thread([&, platform = n->platform.get()] {
        for (int i = 0; i < 10; ++i)
          platform->lock("l").run(
              [&](LockGuard& guard) {
                most = std::max(most.load(), ++inside);
                if (guard.token() <= last_token.exchange(guard.token())) grew = false;
                ++entries;
                --inside;
              },
              2 * kSoon);
      }));
  for (auto& thread : threads) thread.get();
  EXPECT_EQ(entries, 120);
  EXPECT_EQ(most, 1);
  EXPECT_TRUE(grew);
}

TEST_F(LockTest, AStoppedNodeLeavesItToTheNext) {
  auto& a = node("a");
  auto& b = *node("b").platform;
  LockGuard guard = a.platform->lock("l").acquire(kSoon);
  auto next = on_thread([&] { return b.lock("l").acquire(kSoon); });
  ASSERT_TRUE(eventually([&] { return waiters("_.l") == 1; }));
  a.stop();
  EXPECT_FALSE(guard.held());
  EXPECT_TRUE(guard.lost().stop_requested());
  LockGuard second = next.get();
  EXPECT_TRUE(second.held());
  EXPECT_GT(second.token(), guard.token());
  Lock left = a.platform->lock("l");
  EXPECT_EQ(errc_of([&] { left.acquire(kSoon); }), Errc::shutting_down);
  a.platform.reset();
  EXPECT_EQ(errc_of([&] { left.acquire(kSoon); }), Errc::shutting_down) << "also once it is gone";
  EXPECT_FALSE(guard.held());
}

TEST_F(LockTest, ASessionThatEndsLosesIt) {
  auto& a = *node("a").platform;
  auto& b = *node("b").platform;
  LockGuard guard = a.lock("l").acquire(kSoon);
  auto next = on_thread([&] { return b.lock("l").acquire(kSoon); });
  ASSERT_TRUE(eventually([&] { return waiters("_.l") == 1; }));
  // By hand, past the protocol: that the holder hears of it first is for the simulator to show.
  Loop loop;
  nats::Connection connection(loop, servers.options());
  ASSERT_TRUE(testing::connect(connection));
  nats::JetStream js(connection);
  nats::KeyValue members(js, "test_members");
  const Time end = BootClock::now() + kSoon * slowness();
  while (true) {
    auto entry =
        nats::await<nats::KvEntry>(loop, kSoon, [&](auto done) { members.get("a", done); });
    ASSERT_TRUE(entry);
    auto record = coord::session_record_from("a", entry.value().value).value();
    record.state = coord::SessionState::expired;
    record.ended_by = "the test";
    const auto updated = nats::await<std::uint64_t>(loop, kSoon, [&](auto done) {
      members.update("a", to_json(record), entry.value().revision, done);
    });
    if (updated) break;
    ASSERT_LT(BootClock::now(), end) << updated.error().what();
  }
  LockGuard second = next.get();
  EXPECT_TRUE(eventually([&] { return guard.lost().stop_requested(); }));
  EXPECT_FALSE(guard.held());
  EXPECT_TRUE(second.held());
  EXPECT_GT(second.token(), guard.token());
}

TEST_F(LockTest, AServerThatIsKilledAndComesBackTakesNoLockAway) {
  auto& a = *node_alone("a").platform;
  LockGuard guard = a.lock("l").acquire(kSoon);
  auto next = on_thread([&] { return a.lock("l").acquire(2 * kSoon); });
  ASSERT_TRUE(eventually([&] { return waiters("_.l") == 1; }));
  servers[0].kill_hard();
  servers[0].start_again();
  servers[0].wait_ready(kSoon);
  // A node alone keeps its session by JetStream, for lease_ttl.
  EXPECT_TRUE(guard.held());
  guard.release(kSoon);
  EXPECT_TRUE(next.get().held());
}

TEST_F(LockTest, ASemaphoreHasSoManyHolders) {
  auto& a = *node("a").platform;
  auto& b = *node("b").platform;
  auto first = a.semaphore("s", 2).acquire(kSoon);
  auto second = b.semaphore("s", 2).try_acquire(kSoon);
  ASSERT_TRUE(second);
  EXPECT_FALSE(a.semaphore("s", 2).try_acquire(kSoon));
  EXPECT_EQ(b.semaphore("s", 2).holders().size(), 2u);
  EXPECT_EQ(errc_of([&] { a.semaphore("s", 3).acquire(kSoon); }), Errc::invalid_argument);
  EXPECT_NE(last_text.find("a semaphore of 2"), std::string::npos) << last_text;
  EXPECT_EQ(errc_of([&] { b.lock("s").acquire(kSoon); }), Errc::invalid_argument);
  second.reset();
  EXPECT_TRUE(a.semaphore("s", 2).acquire(kSoon).held());
  first.release();
}

TEST_F(LockTest, WhatIsToBeDoneOnceIsDoneOnce) {
  for (const char* name : {"a", "b", "c"}) node(name);
  std::atomic<int> runs{0}, here{0};
  std::vector<std::future<void>> threads;
  for (auto& n : nodes)
    threads.push_back(on_thread([&, platform = n->platform.get()] {
      if (platform->barrier("migration").once([&](LockGuard&) { ++runs; })) ++here;
    }));
  auto waits_only = on_thread([&] { nodes[1]->platform->barrier("migration").wait(); });
  for (auto& thread : threads) thread.get();
  waits_only.get();
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(here, 1);
  EXPECT_TRUE(nodes[2]->platform->barrier("migration").is_open());
  EXPECT_FALSE(nodes[0]->platform->barrier("migration").once([&](LockGuard&) { ++runs; }));
  EXPECT_EQ(runs, 1);
}

TEST_F(LockTest, WhatFailsOnOneNodeIsTriedOnTheNext) {
  auto& a = *node("a").platform;
  auto& b = *node("b").platform;
  EXPECT_THROW(a.barrier("m").once([](LockGuard&) { throw std::runtime_error("disk full"); }),
               std::runtime_error);
  EXPECT_FALSE(b.barrier("m").is_open());
  EXPECT_EQ(errc_of([&] { b.barrier("m").wait(milliseconds(50)); }), Errc::timeout);
  EXPECT_TRUE(b.barrier("m").once([](LockGuard&) {}));
  a.barrier("m").wait();
}

TEST_F(LockTest, NamesMayBeAnyText) {
  auto& platform = *node_alone("a").platform;
  const std::set<std::string> names{"a.b", "a b", "ä/ö", ".", "=3D", "_", "*", ">"};
  std::vector<LockGuard> guards;
  for (const auto& name : names) guards.push_back(platform.lock(name).acquire(kSoon));
  for (const auto& guard : guards) EXPECT_TRUE(guard.held());
  EXPECT_EQ(errc_of([&] { platform.lock(""); }), Errc::invalid_argument);
  EXPECT_EQ(errc_of([&] { platform.lock("\xff"); }), Errc::invalid_argument);
  EXPECT_EQ(errc_of([&] { platform.semaphore("s", 0); }), Errc::invalid_argument);
}

TEST_F(LockTest, AnAppsLockIsItsOwn) {
  testing::Node n(servers, folder.path(), "a");
  App& app = n.platform->add_app({.name = "app", .mode = Spread{}});
  EXPECT_EQ(errc_of([&] { app.lock("l").acquire(milliseconds(10)); }), Errc::timeout)
      << "nothing runs yet";
  n.run();
  LockGuard of_platform = n.platform->lock("l").acquire(kSoon);
  LockGuard of_app = app.lock("l").acquire(kSoon);
  EXPECT_TRUE(of_platform.held() && of_app.held());
}

TEST_F(LockTest, RecordsThatNobodyUsesAreRemoved) {
  auto& platform = *node_alone("a").platform;
  ASSERT_TRUE(eventually([&] { return platform.members().size() == 1; }));
  const auto used = platform.lock("used").acquire(kSoon);
  platform.lock("old").acquire(kSoon).release();
  const auto token = platform.lock("old").acquire(kSoon).token();
  platform.barrier("open").open();
  ASSERT_TRUE(eventually([&] { return !platform.lock("old").holder(); }));
  Loop loop;
  nats::Connection connection(loop, servers.options());
  ASSERT_TRUE(testing::connect(connection));
  nats::JetStream js(connection);
  const auto there = [&](const std::string& key) {
    return nats::await<nats::StoredMessage>(loop, kSoon,
                                            [&](auto done) {
                                              js.last_message("KV_test_locks",
                                                              "$KV.test_locks._." + key, done);
                                            })
        .ok();
  };
  std::vector<int> rounds;
  {
    coord::LockSweeper::Options options;
    options.platform = "test";
    options.first = options.interval = milliseconds(10);
    options.swept = [&](int removed) { rounds.push_back(removed); };
    const coord::LockSweeper young(js, options);
    ASSERT_TRUE(loop.run_until([&] { return rounds.size() == 2; }, kSoon));
    EXPECT_EQ(rounds, (std::vector<int>{0, 0})) << "nothing is old enough";
    rounds.clear();
  }
  {
    coord::LockSweeper::Options options;
    options.platform = "test";
    options.idle = Duration(0);
    options.first = options.interval = milliseconds(10);
    options.swept = [&](int removed) { rounds.push_back(removed); };
    const coord::LockSweeper all(js, options);
    ASSERT_TRUE(loop.run_until([&] { return rounds.size() == 2; }, kSoon));
    EXPECT_EQ(rounds, (std::vector<int>{1, 0}));
  }
  EXPECT_TRUE(there("used"));
  EXPECT_TRUE(there("open"));
  EXPECT_FALSE(there("old"));
  EXPECT_TRUE(used.held());
  EXPECT_TRUE(platform.barrier("open").is_open());
  EXPECT_GT(platform.lock("old").acquire(kSoon).token(), token) << "tokens grow all the same";
}

}  // namespace
}  // namespace cluster
