// The audit log's reading side and users' entries, against real servers, also while these die.
#include "cluster/audit.h"

#include <chrono>
#include <csignal>
#include <mutex>
#include <optional>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "integration/platform_fixture.h"
#include "ops/audit_entry.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using std::chrono::system_clock;
using testing::errc_of;
using testing::eventually;
using testing::kSoon;

using Texts = std::vector<std::string>;

std::string field(const AuditEntry& entry, const std::string& name) {
  for (const auto& [key, value] : entry.fields)
    if (key == name) return value;
  return {};
}

Texts numbers(const std::vector<AuditEntry>& entries) {
  Texts all;
  for (const auto& entry : entries) all.push_back(field(entry, "n"));
  return all;
}

/// What a subscription has been told.
class Told {
 public:
  std::function<void(const AuditEntry&)> handler() {
    return [this](const AuditEntry& entry) {
      const std::lock_guard lock(mutex_);
      entries_.push_back(entry);
    };
  }
  std::vector<AuditEntry> entries() const {
    const std::lock_guard lock(mutex_);
    return entries_;
  }
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<AuditEntry> entries_;
};

class AuditTest : public ::testing::Test {
 protected:
  struct Member {
    explicit Member(PlatformOptions options)
        : node(std::move(options)),
          shop(&node.platform->add_app({.name = "shop", .mode = Spread{}})),
          bank(&node.platform->add_app({.name = "bank", .mode = Spread{}})) {}
    testing::Node node;
    App *shop, *bank;
  };
  /// Not run yet.
  std::unique_ptr<Member> make(const std::string& name,
                               const std::function<void(PlatformOptions&)>& change = {}) {
    auto options = testing::Node::options(servers, folder.path(), name, 30s);
    options.timing = testing::patient_timing(testing::kVerySteady);
    if (change) change(options);
    return std::make_unique<Member>(std::move(options));
  }
  Member& start(const std::string& name, const std::function<void(PlatformOptions&)>& change = {}) {
    members.push_back(make(name, change));
    members.back()->node.run();
    EXPECT_TRUE(eventually(
        [&] { return members.back()->node.platform->members().size() >= members.size(); }));
    return *members.back();
  }
  /// What the node's status says of its audit log.
  static nlohmann::json status(const Member& member) {
    return nlohmann::json::parse(testing::status_of(*member.node.platform)).at("audit");
  }
  /// JetStream has all that the node has recorded, and the node knows it.
  static bool settled(const Member& member) { return status(member).at("waiting") == 0; }
  /// Once that many users' entries are stored.
  static std::vector<AuditEntry> stored(Audit audit, std::size_t count, AuditFilter filter = {}) {
    filter.limit = 10'000;
    if (filter.category.empty()) filter.category = "user";
    std::vector<AuditEntry> all;
    EXPECT_TRUE(eventually([&] { return (all = audit.query(filter, kSoon)).size() >= count; }));
    EXPECT_EQ(all.size(), count);
    return all;
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  std::vector<std::unique_ptr<Member>> members;
};

TEST_F(AuditTest, WhatAnAppRecordsIsFoundWithAllThatWasSaidOfIt) {
  auto& a = start("a");
  const auto before = system_clock::now();
  EXPECT_TRUE(a.shop->audit().record("order_refunded", {{"order", "4711"}, {"by", "alice"}}));
  EXPECT_TRUE(a.node.platform->audit().record("maintenance"));
  const auto all = stored(a.node.platform->audit(), 2);
  const auto& entry = all.front();
  EXPECT_EQ(entry.category, "user");
  EXPECT_EQ(entry.action, "order_refunded");
  EXPECT_EQ(entry.app, "shop");
  EXPECT_EQ(entry.node, "a");
  EXPECT_EQ(entry.level, "info");
  EXPECT_EQ(entry.fields, (AuditFields{{"by", "alice"}, {"order", "4711"}}));
  EXPECT_GE(entry.time, before);
  EXPECT_LE(entry.time, system_clock::now());
  EXPECT_LT(entry.sequence, all.back().sequence);
  EXPECT_EQ(all.back().app, "");
  EXPECT_EQ(a.shop->audit().dropped(), 0U);
}

TEST_F(AuditTest, EachPartOfAFilterLeavesOutWhatDoesNotFit) {
  auto& a = start("a");
  auto& b = start("b");
  a.shop->audit().record("one", {{"n", "1"}});
  stored(a.node.platform->audit(), 1);
  a.bank->audit().record("one", {{"n", "2"}});
  stored(a.node.platform->audit(), 2);
  b.shop->audit().record("two", {{"n", "3"}});
  stored(a.node.platform->audit(), 3);
  b.node.platform->audit().record("two", {{"n", "4"}});
  const auto all = stored(a.node.platform->audit(), 4);
  const auto find = [&](AuditFilter filter) {
    if (filter.category.empty()) filter.category = "user";
    return numbers(a.node.platform->audit().query(filter));
  };
  EXPECT_EQ(find({}), (Texts{"1", "2", "3", "4"}));
  EXPECT_EQ(find({.category = "lease"}), Texts{});
  EXPECT_EQ(find({.app = "shop"}), (Texts{"1", "3"}));
  EXPECT_EQ(find({.app = "_"}), (Texts{"4"}));
  EXPECT_EQ(find({.node = "b"}), (Texts{"3", "4"}));
  EXPECT_EQ(find({.action = "one"}), (Texts{"1", "2"}));
  EXPECT_EQ(find({.app = "shop", .action = "two"}), (Texts{"3"}));
  EXPECT_EQ(find({.since = all[1].time}), (Texts{"2", "3", "4"}));
  EXPECT_EQ(find({.until = all[1].time}), (Texts{"1", "2"}));
  EXPECT_EQ(find({.since = all[1].time, .until = all[2].time}), (Texts{"2", "3"}));
  EXPECT_EQ(find({.limit = 2}), (Texts{"3", "4"}));
  EXPECT_EQ(numbers(a.shop->audit().query({.category = "user"})), (Texts{"1", "3"}));
  EXPECT_EQ(numbers(a.shop->audit().query({.category = "user", .app = "*"})).size(), 4U);
  // Of all categories.
  const auto everything = a.node.platform->audit().query({.limit = 10'000});
  EXPECT_GT(everything.size(), 4U);
}

TEST_F(AuditTest, TheNewestThatFitAreFoundFarBehindOthers) {
  auto& a = start("a");
  a.shop->audit().record("old", {{"n", "first"}});
  a.shop->audit().record("old", {{"n", "second"}});
  stored(a.node.platform->audit(), 2);
  // Several windows. A node sends its entries one by one, has room for so many, and refuses others:
  // here they go to the stream together, as those of another node.
  constexpr std::size_t kMore = 3'000;
  Loop loop;
  nats::Connection connection(loop, servers.options());
  ASSERT_TRUE(testing::connect(connection));
  nats::JetStream js(connection, kSoon);
  const auto message = audit_message(
      "test", {.category = "user", .action = "new", .app = "bank", .level = "info", .node = "b"});
  std::size_t taken = 0, refused = 0;
  for (std::size_t i = 0; i < kMore; ++i)
    js.publish(message, {}, [&](const Result<nats::PubAck>& ack) { ack ? ++taken : ++refused; });
  ASSERT_TRUE(loop.run_until([&] { return taken + refused == kMore; }, kSoon));
  ASSERT_EQ(refused, 0U);
  stored(a.node.platform->audit(), kMore, {.action = "new"});
  EXPECT_EQ(numbers(a.shop->audit().query({.category = "user"}, kSoon)),
            (Texts{"first", "second"}));
  EXPECT_EQ(numbers(a.shop->audit().query({.action = "old", .limit = 1}, kSoon)),
            (Texts{"second"}));
}

TEST_F(AuditTest, WhatCanNotBeIsRefused) {
  auto& a = start("a");
  Audit audit = a.shop->audit();
  const auto bad = Errc::invalid_argument;
  EXPECT_EQ(errc_of([&] { audit.record(""); }), bad);
  EXPECT_EQ(errc_of([&] { audit.record("a.b"); }), bad);
  EXPECT_EQ(errc_of([&] { audit.record("a", {{"", "v"}}); }), bad);
  EXPECT_EQ(errc_of([&] { audit.record("a", {{"k", std::string(17'000, 'v')}}); }), bad);
  EXPECT_EQ(errc_of([&] { audit.record("a", AuditFields(65, {"k", "v"})); }), bad);
  EXPECT_EQ(errc_of([&] { audit.query({.category = ">"}); }), bad);
  EXPECT_EQ(errc_of([&] { audit.query({.app = "Shop"}); }), bad);
  EXPECT_EQ(errc_of([&] { audit.query({.limit = 0}); }), bad);
  EXPECT_EQ(errc_of([&] { (void)audit.follow({}, {}); }), bad);
  const auto now = system_clock::now();
  EXPECT_EQ(errc_of([&] { audit.query({.since = now, .until = now - 1s}); }), bad);
  EXPECT_EQ(errc_of([&] { (void)audit.follow({.until = now}, [](const AuditEntry&) {}); }), bad);
  a.node.stop();
  EXPECT_FALSE(audit.record("late"));
  EXPECT_EQ(audit.dropped(), 1U);
  EXPECT_EQ(errc_of([&] { audit.query(); }), Errc::shutting_down);
  EXPECT_EQ(errc_of([&] { (void)audit.follow({}, [](const AuditEntry&) {}); }),
            Errc::shutting_down);
}

TEST_F(AuditTest, AFollowerIsToldOfWhatFitsAndOfWhatWasThereSinceATime) {
  auto& a = start("a");
  a.shop->audit().record("x", {{"n", "1"}});
  stored(a.node.platform->audit(), 1);
  a.shop->audit().record("x", {{"n", "2"}});
  const auto before = stored(a.node.platform->audit(), 2);
  Told since, fresh, other;
  const Audit all = a.node.platform->audit();
  const auto s1 = all.follow({.category = "user", .since = before[1].time}, since.handler());
  const auto s2 = a.shop->audit().follow({.category = "user"}, fresh.handler());
  {
    const auto s3 = all.follow({.category = "user", .app = "bank"}, other.handler());
    a.shop->audit().record("x", {{"n", "3"}});
    a.bank->audit().record("y", {{"n", "4"}});
    EXPECT_TRUE(eventually([&] { return since.count() == 3 && other.count() == 1; }));
    EXPECT_TRUE(eventually([&] { return fresh.count() == 1; }));
  }
  a.bank->audit().record("y", {{"n", "5"}});
  EXPECT_TRUE(eventually([&] { return since.count() == 4; }));
  EXPECT_EQ(numbers(since.entries()), (Texts{"2", "3", "4", "5"}));
  EXPECT_EQ(numbers(fresh.entries()), (Texts{"3"}));
  EXPECT_EQ(numbers(other.entries()), (Texts{"4"})) << "its subscription is over";
}

TEST_F(AuditTest, AFollowerThatThrowsOrIsSlowMissesNothing) {
  auto& a = start("a");
  Told told;
  std::atomic<bool> go{false};
  const auto record = told.handler();
  const auto subscription =
      a.node.platform->audit().follow({.category = "user"}, [&](const AuditEntry& entry) {
        while (!go) std::this_thread::sleep_for(1ms);
        record(entry);
        if (field(entry, "n") == "7") throw std::runtime_error("seven");
      });
  const testing::SetAtTheEnd let_go{go};
  constexpr int kCount = 1'500;  // more than wait for a handler
  for (int i = 0; i < kCount; ++i)
    ASSERT_TRUE(
        eventually([&] { return a.shop->audit().record("x", {{"n", std::to_string(i)}}); }));
  ASSERT_TRUE(eventually([&] { return subscription.counts().interrupted > 0; }));
  go = true;
  ASSERT_TRUE(eventually([&] { return told.count() == kCount; }));
  const auto all = told.entries();
  for (int i = 0; i < kCount; ++i)
    ASSERT_EQ(field(all[static_cast<std::size_t>(i)], "n"), std::to_string(i));
  EXPECT_TRUE(eventually([&] { return subscription.counts().handled == kCount - 1; }));
  EXPECT_EQ(subscription.counts().failed, 1U);
  EXPECT_EQ(subscription.counts().gaps, 0U);
}

TEST_F(AuditTest, AFollowerGoesOnWithoutAGapBehindAServerThatWasKilled) {
  auto& a = start("a");
  Told told;
  const auto subscription = a.node.platform->audit().follow({.category = "user"}, told.handler());
  int n = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) a.shop->audit().record("x", {{"n", std::to_string(n++)}});
    ASSERT_TRUE(eventually([&] { return told.count() == static_cast<std::size_t>(n); }));
    ::kill(servers[0].pid(), SIGKILL);
    ASSERT_TRUE(eventually([&] { return !servers[0].running(); }));
    for (int i = 0; i < 20; ++i) a.shop->audit().record("x", {{"n", std::to_string(n++)}});
    servers[0].start_again();
    ASSERT_TRUE(eventually([&] { return told.count() == static_cast<std::size_t>(n); }))
        << told.count() << " of " << n;
  }
  const auto all = told.entries();
  for (int i = 0; i < n; ++i)
    EXPECT_EQ(field(all[static_cast<std::size_t>(i)], "n"), std::to_string(i));
  EXPECT_EQ(subscription.counts().gaps, 0U);
}

TEST_F(AuditTest, WhatFindsNoRoomWhileNatsIsAwayIsCountedAndTheRestComes) {
  auto& a = start("a");
  a.shop->audit().record("x", {{"n", "0"}});
  stored(a.node.platform->audit(), 1);
  // Until it knows so, it keeps the entry's place.
  ASSERT_TRUE(eventually([&] { return settled(a); }));
  testing::freeze(servers[0].pid());
  int taken = 0;
  for (int i = 1; i <= 1'050; ++i) taken += a.shop->audit().record("x", {{"n", std::to_string(i)}});
  EXPECT_EQ(taken, 1'000);
  EXPECT_EQ(a.shop->audit().dropped(), 50U);
  EXPECT_EQ(a.bank->audit().dropped(), 50U) << "the node's";
  EXPECT_EQ(status(a).at("dropped"), 50) << status(a);
  testing::thaw(servers[0].pid());
  ASSERT_TRUE(eventually([&] { return settled(a); }));
  const auto all = stored(a.node.platform->audit(), 1'001);
  EXPECT_EQ(field(all.back(), "n"), "1000");
  std::vector<AuditEntry> told;
  EXPECT_TRUE(eventually(
      [&] { return !(told = a.node.platform->audit().query({.action = "dropped"})).empty(); }));
  EXPECT_EQ(field(told.front(), "entries"), "50");
  EXPECT_TRUE(eventually([&] { return a.shop->audit().record("x"); })) << "there is room again";
  EXPECT_EQ(a.shop->audit().dropped(), 50U);
}

TEST_F(AuditTest, WhatIsRecordedBeforeTheNodeRunsAndAtItsEndIsStored) {
  auto early = make("a");
  EXPECT_TRUE(early->shop->audit().record("x", {{"n", "early"}}));
  early->shop->on_stop([&](std::stop_token) { early->shop->audit().record("x", {{"n", "late"}}); });
  early->node.run();
  ASSERT_TRUE(eventually([&] { return early->node.platform->members().size() == 1; }));
  stored(early->node.platform->audit(), 1);
  early->node.stop();
  auto& b = start("b");
  EXPECT_EQ(numbers(stored(b.node.platform->audit(), 2)), (Texts{"early", "late"}));
}

TEST_F(AuditTest, OneEntryTellsOfAMemberThatComesOrGoesHoweverManySeeIt) {
  const auto steady = [](PlatformOptions& o) {
    o.timing = testing::patient_timing(testing::kSteady);
  };
  auto& a = start("a", steady);
  start("b", steady);
  const Audit audit = a.node.platform->audit();
  // It is not to be the one that goes.
  ASSERT_TRUE(eventually([&] {
    return audit.query({.category = "node", .action = "coordinator"}, kSoon).size() == 1;
  }));
  start("c", steady);
  for (auto& member : members)
    ASSERT_TRUE(eventually([&] { return member->node.platform->members().size() == 3; }));
  const auto of_c = [&](const std::string& action) {
    std::vector<AuditEntry> found;
    for (const auto& entry : audit.query({.category = "member", .action = action}))
      if (field(entry, "member") == "c") found.push_back(entry);
    return found;
  };
  EXPECT_TRUE(eventually([&] { return of_c("joined").size() == 1; }));
  EXPECT_EQ(of_c("joined").front().node, "c");
  members.back()->node.stop();
  for (const std::size_t i : {0U, 1U})
    ASSERT_TRUE(eventually([&] { return members[i]->node.platform->members().size() == 2; }));
  // Both have told of it, and of what comes then.
  for (const std::size_t i : {0U, 1U}) members[i]->node.platform->audit().record("seen");
  stored(audit, 2);
  const auto left = of_c("left");
  ASSERT_EQ(left.size(), 1U);
  EXPECT_EQ(field(left.front(), "by"), "c: left");
  EXPECT_EQ(audit.query({.category = "node", .action = "coordinator"}).size(), 1U);
}

TEST_F(AuditTest, HooksThatThrowAndLocksThatAreLostAreEntries) {
  auto options = testing::Node::options(servers, folder.path(), "a", 30s);
  testing::Node node(options);
  App& shop = node.platform->add_app({.name = "shop", .mode = Spread{}});
  shop.on_member_join([](const cluster::Member&) { throw std::runtime_error("of the app"); });
  node.platform->on_member_join(
      [](const cluster::Member&) { throw std::runtime_error("of the platform"); });
  node.run();
  ASSERT_TRUE(eventually([&] { return node.platform->members().size() == 1; }));
  const Audit audit = node.platform->audit();
  std::vector<AuditEntry> threw;
  ASSERT_TRUE(eventually(
      [&] { return (threw = audit.query({.category = "hook", .action = "threw"})).size() == 2; }));
  for (const auto& entry : threw) {
    EXPECT_EQ(field(entry, "hook"), "on_member_join");
    EXPECT_EQ(field(entry, "why"), entry.app == "shop" ? "of the app" : "of the platform");
  }
  LockGuard guard = shop.lock("till").acquire();
  Loop loop;
  nats::Connection c(loop, servers.options());
  nats::JetStream js(c, kSoon);
  ASSERT_TRUE(testing::connect(c));
  // Somebody deletes the node's session; it ends, and with it what it holds.
  nats::KeyValue store(js, "test_members");
  const auto gone = nats::await<std::uint64_t>(
      loop, kSoon, [&](auto done) { store.remove("a", std::move(done)); });
  ASSERT_TRUE(gone);
  std::vector<AuditEntry> lost;
  ASSERT_TRUE(eventually([&] {
    return !(lost = audit.query({.category = "lock", .app = "shop", .action = "lost"})).empty();
  }));
  EXPECT_EQ(lost.size(), 1U);
  EXPECT_EQ(field(lost.front(), "name"), "till");
  EXPECT_TRUE(guard.lost().stop_requested());
  EXPECT_TRUE(eventually(
      [&] { return !audit.query({.category = "member", .action = "session_ended"}).empty(); }));
}

TEST_F(AuditTest, ALogThatIsThereIsKeptAsTheNodeThatStartsSays) {
  Loop loop;
  nats::Connection c(loop, servers.options());
  nats::JetStream js(c, kSoon);
  ASSERT_TRUE(testing::connect(c));
  const auto limits = [&] {
    const auto state = nats::await<nats::StreamState>(
        loop, kSoon, [&](auto done) { js.stream("test_audit", done); });
    return state
               ? std::pair(
                     std::chrono::duration_cast<std::chrono::minutes>(state.value().config.max_age)
                         .count(),
                     state.value().config.max_bytes)
               : std::pair<long, std::int64_t>();
  };
  auto* a = &start("a");
  a->shop->audit().record("x", {{"n", "1"}});
  stored(a->node.platform->audit(), 1);
  EXPECT_EQ(limits(), (std::pair<long, std::int64_t>(30 * 24 * 60, 256 << 20)));
  for (const auto& [age, bytes] :
       {std::pair(1L, std::int64_t{4} << 20), std::pair(0L, std::int64_t{0})}) {
    members.clear();
    a = &start("a", [&](PlatformOptions& o) {
      o.audit = {.max_age = std::chrono::minutes(age), .max_bytes = bytes};
    });
    const std::pair<long, std::int64_t> wanted(age, bytes == 0 ? -1 : bytes);
    EXPECT_TRUE(eventually([&] { return limits() == wanted; })) << age;
    EXPECT_EQ(numbers(stored(a->node.platform->audit(), 1)), (Texts{"1"})) << "nothing is lost";
  }
}

}  // namespace
}  // namespace cluster
