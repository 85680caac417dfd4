// An app's keys and values, against a real server.
#include "cluster/kv.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "integration/platform_fixture.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::eventually;
using testing::kSoon;

class KvTest : public ::testing::Test {
 protected:
  explicit KvTest(KvOptions options = {.history = 64}) {
    for (const char* name : {"a", "b"}) start(name, options);
    for (const auto& node : nodes)
      EXPECT_TRUE(eventually([&] { return node->platform->members().size() == 2; }));
  }
  void start(const std::string& name, KvOptions kv_options) {
    auto options = testing::Node::options(servers, folder.path(), name, seconds(30));
    options.timing = testing::patient_timing(testing::kVerySteady);
    nodes.push_back(std::make_unique<testing::Node>(std::move(options)));
    apps.push_back(&nodes.back()->platform->add_app(
        {.name = "app", .mode = Spread{}, .kv = std::move(kv_options)}));
    nodes.back()->run();
  }
  Kv kv(std::size_t node = 0) { return apps[node]->kv(); }
  template <typename Work>
  Errc errc_of(Work work) {
    return testing::errc_of(std::move(work), &last_text);
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  std::vector<std::unique_ptr<testing::Node>> nodes;
  std::vector<App*> apps;
  std::string last_text;
};

/// What a watch has been told.
struct ChangesTold {
  std::function<void(const KvEntry&)> handler() {
    return [this](const KvEntry& entry) {
      const std::lock_guard lock(mutex);
      entries.push_back(entry);
    };
  }
  std::size_t count() {
    const std::lock_guard lock(mutex);
    return entries.size();
  }
  std::mutex mutex;
  std::vector<KvEntry> entries;
};

TEST_F(KvTest, WhatOneNodeWritesAnotherReads) {
  EXPECT_FALSE(kv().get("k")) << "there is no bucket yet";
  EXPECT_TRUE(kv().keys().empty());
  const auto revision = kv().put("k", "v");
  auto entry = kv(1).get("k");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->key, "k");
  EXPECT_EQ(entry->value, "v");
  EXPECT_EQ(entry->revision, revision);
  EXPECT_LT(std::chrono::abs(entry->time - std::chrono::system_clock::now()), seconds(60));
  kv(1).put("k", std::string("\0\xff", 2));
  EXPECT_EQ(kv().get("k")->value, std::string("\0\xff", 2));
  kv().put("empty", "");
  EXPECT_EQ(kv(1).get("empty")->value, "");
}

TEST_F(KvTest, AKeyGoesWhenItsTimeIsUp) {
  ChangesTold told;
  const auto watch = kv(1).watch("t", told.handler());
  kv().put("t/stays", "v");
  // From now on it is told of each write, also of what is soon gone again.
  ASSERT_TRUE(eventually([&] { return told.count() == 1; }));
  const auto begin = BootClock::now();
  kv().put("t/goes", "v", {.ttl = milliseconds(300)});
  kv().put("t/prolonged", "v", {.ttl = milliseconds(300)});
  EXPECT_EQ(kv(1).get("t/stays")->ttl, milliseconds(0));
  kv(1).put("t/prolonged", "w", {.ttl = seconds(600)});
  EXPECT_EQ(kv(1).get("t/prolonged")->ttl, seconds(600));
  EXPECT_TRUE(eventually([&] { return !kv(1).get("t/goes"); }));
  EXPECT_GE(BootClock::now() - begin, milliseconds(300));
  EXPECT_TRUE(kv().get("t/stays"));
  EXPECT_EQ(kv().get("t/prolonged")->value, "w");
  EXPECT_TRUE(eventually([&] {
    const std::lock_guard lock(told.mutex);
    return std::any_of(told.entries.begin(), told.entries.end(),
                       [](const KvEntry& entry) { return entry.removed && entry.key == "t/goes"; });
  }));
  {
    const std::lock_guard lock(told.mutex);
    const auto put = std::find_if(told.entries.begin(), told.entries.end(),
                                  [](const KvEntry& entry) { return entry.key == "t/goes"; });
    ASSERT_NE(put, told.entries.end());
    EXPECT_FALSE(put->removed);
    EXPECT_EQ(put->ttl, milliseconds(300));
  }
  // It is there no more, so it can be made.
  EXPECT_GT(kv().create("t/goes", "x", {.ttl = milliseconds(200)}), 0U);
  EXPECT_TRUE(eventually([&] { return !kv().get("t/goes"); }));
  EXPECT_EQ(errc_of([&] { kv().put("k", "v", {.ttl = milliseconds(5)}); }), Errc::invalid_argument);
}

TEST_F(KvTest, AKeyGoesThoughItsWriterHasEnded) {
  // On a slow machine the key may be gone before its writer is: tried again with another writer.
  auto ttl = milliseconds(1'000);
  kv().put("goes", "v", {.ttl = ttl});
  nodes.front()->stop();
  while (!kv(1).get("goes") && ttl < kSoon) {
    start("writer-" + std::to_string(ttl.count()), {});
    ttl *= 2;
    apps.back()->kv().put("goes", "v", {.ttl = ttl, .timeout = kSoon});
    nodes.back()->stop();
  }
  ASSERT_LT(ttl, kSoon);
  EXPECT_TRUE(eventually([&] { return !kv(1).get("goes"); }));
}

TEST_F(KvTest, AWriteMayStateWhatItExpects) {
  const auto first = kv().create("k", "1");
  EXPECT_EQ(errc_of([&] { kv(1).create("k", "x"); }), Errc::wrong_revision);
  const auto second = kv(1).update("k", "2", first);
  EXPECT_GT(second, first);
  EXPECT_EQ(errc_of([&] { kv().update("k", "x", first); }), Errc::wrong_revision);
  EXPECT_EQ(errc_of([&] { kv().remove_revision("k", first); }), Errc::wrong_revision);
  EXPECT_EQ(kv().get("k")->value, "2");
  kv().remove_revision("k", second);
  EXPECT_FALSE(kv().get("k"));
  EXPECT_GT(kv().create("k", "3"), second) << "what was removed can be made again";
  kv().purge("k");
  EXPECT_FALSE(kv().get("k"));
  EXPECT_EQ(kv().history("k").size(), 1u);
}

TEST_F(KvTest, ListsKeysByPrefixInOrder) {
  for (const char* key : {"user.1", "user.2", "user/3", "users", "a b", "ä", "."})
    kv().put(key, key);
  kv().put("gone", "");
  kv().remove("gone");
  EXPECT_EQ(kv(1).keys("user."), (std::vector<std::string>{"user.1", "user.2"}));
  EXPECT_EQ(kv(1).keys("user"), (std::vector<std::string>{"user.1", "user.2", "user/3", "users"}));
  EXPECT_EQ(kv(1).keys().size(), 7u);
  EXPECT_EQ(kv(1).keys("none"), std::vector<std::string>{});
  const auto entries = kv().entries("ä");
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].value, "ä");
  EXPECT_EQ(errc_of([&] { kv().keys("", 3); }), Errc::overloaded);
}

TEST_F(KvTest, WhatIsAskedBeforeTheNodeHasJoinedIsAnsweredThen) {
  testing::Node early(servers, folder.path(), "early");
  App& app = early.platform->add_app({.name = "app", .mode = Spread{}});
  kv().put("k", "v");
  auto keys = std::async(std::launch::async, [&] { return app.kv().keys("", 10, kSoon); });
  auto value = std::async(std::launch::async, [&] { return app.kv().get("k", kSoon); });
  ChangesTold told;
  auto watch = app.kv().watch("", told.handler());
  EXPECT_EQ(errc_of([&] { app.kv().keys("", 10, milliseconds(10)); }), Errc::unavailable);
  early.run();
  EXPECT_EQ(keys.get(), std::vector<std::string>{"k"});
  EXPECT_EQ(value.get()->value, "v");
  EXPECT_TRUE(eventually([&] { return told.count() == 1; }));
}

TEST_F(KvTest, KeepsAHistory) {
  for (int i = 0; i < 70; ++i) kv().put("k", std::to_string(i));
  kv().remove("k");
  const auto history = kv(1).history("k");
  ASSERT_EQ(history.size(), 64u);
  EXPECT_EQ(history.front().value, "7");
  EXPECT_TRUE(history.back().removed);
  EXPECT_TRUE(kv().history("other").empty());
}

TEST_F(KvTest, BadKeysAndValuesAreRefusedWithReasons) {
  EXPECT_EQ(errc_of([&] { kv().put("", "v"); }), Errc::invalid_argument);
  EXPECT_EQ(errc_of([&] { kv().get("\xff"); }), Errc::invalid_argument);
  EXPECT_NE(last_text.find("UTF-8"), std::string::npos) << last_text;
  EXPECT_EQ(errc_of([&] { kv().history(std::string(600, 'x')); }), Errc::invalid_argument);
  EXPECT_EQ(errc_of([&] { kv().put("k", std::string(10'000'000, 'x')); }), Errc::invalid_argument);
  EXPECT_NE(last_text.find("max_payload"), std::string::npos) << last_text;
}

class KvLimitsTest : public KvTest {
 protected:
  KvLimitsTest() : KvTest({.history = 1, .max_bytes = 10'000, .max_value_size = 1'000}) {}
};

TEST_F(KvLimitsTest, TheBucketKeepsItsLimits) {
  kv().put("k", std::string(900, 'x'));
  EXPECT_EQ(errc_of([&] { kv().put("k", std::string(1'100, 'x')); }), Errc::invalid_argument)
      << last_text;
  EXPECT_NE(errc_of([&] {
              for (int i = 0; i < 20; ++i)
                kv().put(std::to_string(i), std::string(900, 'x'), milliseconds(300));
            }),
            Errc{});
  EXPECT_EQ(kv().get("k")->value.size(), 900u) << "nothing was pushed out";
}

TEST_F(KvTest, AWatchTellsWhatIsThereAndThenEachWrite) {
  kv().put("u.1", "a");
  kv().put("x", "not asked for");
  ChangesTold told;
  std::atomic<bool> caught_up{false};
  auto watch = kv(1).watch("u.", told.handler(), {.caught_up = [&] { caught_up = true; }});
  ASSERT_TRUE(eventually([&] { return caught_up.load(); }));
  EXPECT_EQ(told.count(), 1u);
  kv().put("u.2", "b");
  kv().put("x", "");
  kv().remove("u.1");
  ASSERT_TRUE(eventually([&] { return told.count() == 3; }));
  EXPECT_EQ(told.entries[1].key, "u.2");
  EXPECT_EQ(told.entries[1].value, "b");
  EXPECT_TRUE(told.entries[2].removed);
  watch = {};
  kv().put("u.3", "c");
  ChangesTold all;
  auto from = kv(1).watch("u.", all.handler(), {.from_revision = told.entries[1].revision});
  ASSERT_TRUE(eventually([&] { return all.count() == 3; }));
  EXPECT_EQ(all.entries[0].key, "u.2");
  EXPECT_EQ(all.entries[2].key, "u.3");
  EXPECT_EQ(told.count(), 3u) << "the watch has ended";
}

TEST_F(KvTest, AWatchMayBeginBeforeTheBucket) {
  ChangesTold told;
  auto watch = kv(1).watch("", told.handler());
  kv().put("k", "v");
  EXPECT_TRUE(eventually([&] { return told.count() == 1; }));
}

TEST_F(KvTest, ASlowHandlerMissesNothingAndHoldsUpNobody) {
  constexpr int kWrites = 2'000;  // more than wait for a handler
  std::atomic<bool> go{false};
  ChangesTold slow;
  auto take = slow.handler();
  auto watch = kv(1).watch("", [&](const KvEntry& entry) {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    take(entry);
  });
  const testing::SetAtTheEnd let_go{go};
  for (int i = 0; i < kWrites; ++i) kv().put("k" + std::to_string(i), "v", kSoon);
  EXPECT_TRUE(kv(1).get("k1")) << "others go on";
  go = true;
  ASSERT_TRUE(eventually([&] { return slow.count() >= kWrites; }));
  ASSERT_EQ(slow.count(), static_cast<std::size_t>(kWrites));
  for (int i = 0; i < kWrites; ++i)
    EXPECT_EQ(slow.entries[static_cast<std::size_t>(i)].key, "k" + std::to_string(i));
}

TEST_F(KvTest, AHandlerMayEndItsWatchAndMayThrow) {
  kv().put("a", "");
  KvWatch watch;
  std::atomic<int> calls{0};
  std::atomic<bool> ready{false};
  watch = kv().watch("", [&](const KvEntry&) {
    while (!ready) std::this_thread::yield();
    if (++calls == 2) watch = {};
    throw std::runtime_error("as it comes");
  });
  ready = true;
  kv().put("b", "");
  ASSERT_TRUE(eventually([&] { return calls == 2; }));
  kv().put("c", "");
  ChangesTold told;
  auto other = kv().watch("", told.handler());
  ASSERT_TRUE(eventually([&] { return told.count() == 3; }));
  EXPECT_EQ(calls, 2);
}

TEST_F(KvTest, AReconnectLeavesNoGapAndRepeatsNothing) {
  ChangesTold told;
  std::uint64_t revision = kv().put("k", "0");
  int value = 0;
  auto watch = kv(1).watch("", told.handler());
  ASSERT_TRUE(eventually([&] { return told.count() == 1; }));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) {
      ++value;
      try {
        revision = kv().update("k", std::to_string(value), revision, kSoon);
      } catch (const Error& error) {
        ASSERT_EQ(error.errc(), Errc::unknown_outcome) << error.what();
        const auto entry = kv().get("k", kSoon);
        ASSERT_TRUE(entry);
        revision = entry->revision;
        value = std::stoi(entry->value);
      }
      if (i == 10) {
        servers[0].kill_hard();
        servers[0].start_again();
      }
    }
  }
  ASSERT_TRUE(eventually([&] { return told.count() == static_cast<std::size_t>(value) + 1; }))
      << "told " << told.count() << " of " << value + 1;
  for (int i = 0; i <= value; ++i)
    EXPECT_EQ(told.entries[static_cast<std::size_t>(i)].value, std::to_string(i));
}

TEST_F(KvTest, TellsApartWhatWasNotSentFromWhatMayHaveBeenStored) {
  kv().put("k", "v");
  // A client that is held up for seconds may first notice that the server does not answer pings,
  // and send nothing: tried again then.
  Errc code{};
  for (int tries = 0; tries < 5 && code != Errc::unknown_outcome; ++tries) {
    testing::thaw(servers[0].pid());
    ASSERT_TRUE(kv().get("k", kSoon));
    testing::freeze(servers[0].pid());
    code = errc_of([&] { kv().put("k", "w", milliseconds(100)); });
  }
  EXPECT_EQ(code, Errc::unknown_outcome) << last_text;
  EXPECT_NE(last_text.find("read the key"), std::string::npos) << last_text;
  EXPECT_EQ(errc_of([&] { (void)kv().get("k", milliseconds(100)); }), Errc::unavailable);
  testing::thaw(servers[0].pid());
  servers[0].kill_hard();
  ASSERT_TRUE(eventually([&] {
    return errc_of([&] { kv().put("k", "x", milliseconds(10)); }) == Errc::unavailable;
  })) << last_text;
  servers[0].start_again();
  EXPECT_GT(kv().put("k", "y", kSoon), 0u);
  EXPECT_EQ(kv(1).get("k", kSoon)->value, "y");
}

TEST_F(KvTest, EndsWithItsPlatform) {
  kv().put("k", "v");
  ChangesTold told;
  auto watch = kv().watch("", told.handler());
  Kv left = kv();
  nodes[0]->stop();
  EXPECT_EQ(errc_of([&] { (void)left.get("k"); }), Errc::shutting_down);
  EXPECT_EQ(errc_of([&] { left.put("k", "v"); }), Errc::shutting_down);
  EXPECT_EQ(errc_of([&] { left.keys(); }), Errc::shutting_down);
  EXPECT_EQ(errc_of([&] { (void)left.watch("", told.handler()); }), Errc::shutting_down);
  watch = {};
  nodes[0]->platform.reset();
  EXPECT_EQ(errc_of([&] { (void)left.get("k"); }), Errc::shutting_down) << "also once it is gone";
  EXPECT_EQ(errc_of([&] { (void)left.watch("", told.handler()); }), Errc::shutting_down);
}

}  // namespace
}  // namespace cluster
