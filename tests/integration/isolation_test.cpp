// Apps kept apart by the permissions that cpp-cluster nats permissions prints (docs/isolation.md),
// against a real server that has them as its configuration.
#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "built.h"
#include "cluster/cluster.h"
#include "integration/configured_server.h"
#include "integration/platform_fixture.h"
#include "integration/program.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;
using testing::ConfiguredServer;
using testing::connect;
using testing::eventually;
using testing::kSoon;
using testing::Node;
using testing::Outcome;
using testing::Program;

/// What `call` throws.
std::optional<Error> failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

::testing::AssertionResult denied(const std::optional<Error>& error, const std::string& subject) {
  if (!error) return ::testing::AssertionFailure() << "it is allowed";
  const std::string text = error->what();
  if (error->errc() == Errc::permission_denied && text.find(subject) != std::string::npos)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << error->code().message() << ": " << text << "; does not name " << subject;
}

class Isolation : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access(built::kProgram, X_OK) != 0) GTEST_SKIP() << built::kProgram << " is not built";
    start_server({});
  }
  /// With the users' block, without the line of a `subject` that is given.
  void start_server(std::vector<std::string> more, const std::string& without = {}) {
    std::vector<std::string> arguments{"nats",  "permissions", "--platform", "shop",      "--app",
                                       "notes", "--app",       "bank",       "--operator"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Outcome printed = outcome_of(arguments);
    ASSERT_EQ(printed.status, 0) << printed.err;
    const std::string line = "            \"" + without + "\"\n";
    for (auto at = printed.out.find(line); at != std::string::npos; at = printed.out.find(line))
      printed.out.erase(at, line.size());
    const std::string passwords =
        "SHOP_NOTES_PASSWORD: \"secret\"\nSHOP_BANK_PASSWORD: \"secret\"\n"
        "SHOP_OPERATOR_PASSWORD: \"secret\"\n";
    server = std::make_unique<ConfiguredServer>(
        "include \"../users.conf\"\n",
        std::map<std::string, std::string>{{"users.conf", passwords + printed.out}});
  }
  Outcome outcome_of(std::vector<std::string> arguments,
                     std::vector<std::string> environment = {}) {
    Program program(folder, std::move(arguments), std::move(environment));
    EXPECT_TRUE(eventually([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }
  /// A command of this user.
  Outcome run_as(const std::string& user, std::vector<std::string> arguments) {
    for (const std::string& more :
         {std::string("--nats"), "nats://" + server->place(), std::string("--platform"),
          std::string("shop"), std::string("--user"), user})
      arguments.push_back(more);
    return outcome_of(std::move(arguments), {"CPP_CLUSTER_NATS_PASSWORD=secret"});
  }
  PlatformOptions options(const std::string& node, const std::string& user) const {
    PlatformOptions o{.name = "shop", .node = node, .folder = folder / node, .http = ""};
    o.nats.servers = {"nats://" + server->place()};
    o.nats.user = user;
    o.nats.password = "secret";
    o.timing = testing::patient_timing(testing::quite_steady());
    o.guardian = built::kGuardian;
    return o;
  }
  App& add_notes(Node& node, const std::string& name) const {
    return node.platform->add_app(
        {.name = "notes",
         .sqlite = {.path = folder / (name + ".db"), .commit = Commit::replicated}});
  }

  testing::TemporaryFolder folder;
  std::unique_ptr<ConfiguredServer> server;
};

std::string trouble_of(const Node& node) {
  return Json::parse(testing::status_of(*node.platform))["trouble"].dump();
}

/// That something took too long, on a busy machine, is no refusal.
::testing::AssertionResult no_refusal(const Node& node) {
  const std::string trouble = trouble_of(node);
  for (const char* word : {"ermission", "refuse", "allowed"})
    if (trouble.find(word) != std::string::npos) return ::testing::AssertionFailure() << trouble;
  return ::testing::AssertionSuccess();
}

/// All that a node of an app does with NATS.
void use_everything(App& leading, App& standby, Platform& platform) {
  leading.kv().put("k", "v");
  EXPECT_EQ(standby.kv().get("k")->value, "v");
  EXPECT_EQ(standby.kv().keys(), std::vector<std::string>{"k"});
  leading.kv().purge("k");
  for (const char* key : {"a", "b", "c", "d", "e"})
    leading.kv().put(key, std::string(900'000, 'v'));
  EXPECT_EQ(standby.kv().entries().size(), 5u);
  std::atomic<int> came{0};
  const auto lasting = leading.events().subscribe("order.>", [&](const Event&) { ++came; },
                                                  {.durable = "bill", .max_deliver = 1});
  const auto passing = standby.events().subscribe("order.>", [&](const Event&) { ++came; });
  standby.events().publish("order.new", "1");
  EXPECT_TRUE(eventually([&] { return came == 2; }));
  EXPECT_TRUE(standby.lock("l").acquire(kSoon).held());
  EXPECT_TRUE(platform.semaphore("s", 2).acquire(kSoon).held());
  LockGuard first = leading.lock("handed on").acquire(kSoon);
  auto next =
      std::async(std::launch::async, [&] { return standby.lock("handed on").acquire(kSoon); });
  first.release();
  EXPECT_TRUE(next.get().held());
}

TEST_F(Isolation, AConfinedAppCanDoAllThatIsItsOwn) {
  const auto steady = [&](const std::string& name) {
    auto o = options(name, "shop-notes");
    o.timing = testing::patient_timing(testing::kSteady);
    return o;
  };
  Node first(steady("node-1"));
  App& one = add_notes(first, "node-1");
  first.run();
  ASSERT_TRUE(one.election().wait_for_leadership(kSoon));
  Node second(steady("node-2"));
  App& two = add_notes(second, "node-2");
  second.run();
  ASSERT_TRUE(eventually([&] { return second.platform->members().size() == 2; }));
  auto db = one.database().open();
  db.exec("CREATE TABLE t(v)");
  db.exec("INSERT INTO t VALUES(1)");
  for (int i = 0; i < 4; ++i)  // so much that JetStream controls its flow
    db.exec("INSERT INTO t VALUES(randomblob(4000000))");
  const auto position = one.database().sync(kSoon);
  ASSERT_TRUE(
      eventually([&] { return !failure_of([&] { two.database().wait_for(position, kSoon); }); }));
  const auto older = two.snapshots().create(kSoon);
  EXPECT_GT(older.txid, 0u) << "which its leader takes";
  EXPECT_EQ(two.snapshots().list().back().txid, older.txid);
  EXPECT_GT(two.snapshots().restore({.to = folder / "restored.db"}).bytes, 0u);
  use_everything(one, two, *second.platform);
  db.exec("DELETE FROM t WHERE length(v) > 1");
  const auto newer = one.snapshots().create(kSoon);
  EXPECT_GT(newer.txid, older.txid);
  two.snapshots().remove(older.txid);
  one.election().step_down("node-2");
  EXPECT_TRUE(two.election().wait_for_leadership(kSoon));
  EXPECT_TRUE(no_refusal(first)) << "nothing that a node does is refused";
  EXPECT_TRUE(no_refusal(second));
}

/// A connection of a user, on a loop of its own.
struct Client {
  explicit Client(const ConfiguredServer& server, const std::string& user)
      : connection(loop, options_of(server, user)) {
    connection.on_error([this](const Error& error) { errors.push_back(error); });
  }
  static nats::ConnectOptions options_of(const ConfiguredServer& server, const std::string& user) {
    nats::ConnectOptions o;
    o.nats.servers = {"nats://" + server.place()};
    o.nats.user = user;
    o.nats.password = "secret";
    return o;
  }
  /// Why a request there fails; nothing when something answers.
  std::optional<Error> ask(const std::string& subject) {
    const auto answer = send({.subject = subject});
    if (answer) return std::nullopt;
    return answer.error();
  }
  Result<nats::Message> send(nats::Message message) {
    return nats::await<nats::Message>(loop, kSoon, [&](Callback<nats::Message> done) {
      connection.request(std::move(message), kSoon, std::move(done));
    });
  }
  /// A request to JetStream that does not fail: its answer.
  Json api(const std::string& what, const Json& body) {
    const auto answer = send({.subject = "$JS.API." + what, .data = body.dump()});
    if (!answer) throw answer.error();
    const Json said = Json::parse(answer.value().data);
    if (said.contains("error")) throw Error(Errc::invalid_argument, said["error"].dump());
    return said;
  }
  /// Why a user may not subscribe there; nothing when he may. Of an app's user.
  std::optional<Error> listen(const std::string& subject) {
    errors.clear();
    const auto subscription = connection.subscribe(subject, [](nats::Message) {});
    testing::must(loop, [&](Completion done) { connection.flush(kSoon, std::move(done)); });
    // Refusals come in order: that of one more tells that all before it have come.
    const std::string last = "nobodys.subject";
    const auto refused = connection.subscribe(last, [](nats::Message) {});
    const auto is_last = [&](const Error& error) {
      return std::string(error.what()).find(last) != std::string::npos;
    };
    EXPECT_TRUE(loop.run_until([&] { return !errors.empty() && is_last(errors.back()); }, kSoon));
    if (errors.empty() || is_last(errors.front())) return std::nullopt;
    return errors.front();
  }

  Loop loop;
  std::vector<Error> errors;
  nats::Connection connection;
};

TEST_F(Isolation, WhatIsAnotherAppsIsRefusedAndNamed) {
  Client client(*server, "shop-notes");
  ASSERT_TRUE(connect(client.connection));
  for (const char* subject :
       {"$KV.shop_bank.k", "$JS.API.STREAM.INFO.KV_shop_bank",
        "$JS.API.STREAM.MSG.GET.KV_shop_bank", "$JS.API.DIRECT.GET.KV_shop_bank.$KV.shop_bank.k",
        "$JS.API.CONSUMER.CREATE.KV_shop_bank.x.$KV.shop_bank.>", "shop.bank.wal",
        "$JS.API.STREAM.INFO.shop_bank_wal", "$JS.API.STREAM.MSG.GET.shop_bank_wal",
        "$JS.API.CONSUMER.CREATE.shop_bank_wal.x", "$JS.API.STREAM.PURGE.shop_bank_wal",
        "$O.shop_bank_snapshots.M.x", "$JS.API.STREAM.MSG.DELETE.OBJ_shop_bank_snapshots",
        "shop.bank.events.paid", "shop.bank.calls.any.price.bank", "shop.bank.calls.node.n.price._",
        "$KV.shop_leases.bank", "$KV.shop_locks.bank.l", "shop._.node.node-1.peer.bank"})
    EXPECT_TRUE(denied(client.ask(subject), '"' + std::string(subject) + '"')) << subject;
  for (const char* subject : {"shop.bank.calls.>", "shop.>", ">", "_INBOX.>", "$KV.>"})
    EXPECT_TRUE(denied(client.listen(subject), '"' + std::string(subject) + '"')) << subject;
  EXPECT_FALSE(client.listen("shop.notes.calls.>"));
}

TEST_F(Isolation, WhatIsThePlatformsOrAnOperatorsIsRefusedAndNamed) {
  Client client(*server, "shop-notes");
  ASSERT_TRUE(connect(client.connection));
  for (const char* subject :
       {"$JS.API.STREAM.DELETE.KV_shop_notes", "$JS.API.STREAM.DELETE.KV_shop_members",
        "$JS.API.STREAM.UPDATE.KV_shop_members", "$JS.API.STREAM.PURGE.KV_shop_members",
        "$JS.API.STREAM.PURGE.shop_audit", "$JS.API.STREAM.MSG.GET.shop_audit",
        "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.other",
        "$JS.API.CONSUMER.NAMES.shop_events", "shop._.events.alarm", "shop._.node.node-1.status",
        "shop._.node.node-1.stepdown", "shop._.node.node-1.verify", "$SRV.INFO"})
    EXPECT_TRUE(denied(client.ask(subject), '"' + std::string(subject) + '"')) << subject;
}

TEST_F(Isolation, ALongSubjectIsNamedInFull) {
  Client client(*server, "shop-notes");
  ASSERT_TRUE(connect(client.connection));
  const std::string subject = "$KV.shop_bank." + std::string(600, 'k');
  EXPECT_TRUE(denied(client.ask(subject), '"' + subject + '"'));
}

TEST_F(Isolation, TheApisOfAConfinedNodeSayWhatIsRefused) {
  Node node(options("node-1", "shop-notes"));
  App& bank = node.platform->add_app({.name = "bank", .mode = Spread{}});
  node.run();
  ASSERT_TRUE(eventually([&] { return node.platform->members().size() == 1; }));
  const auto denies = [](const std::function<void()>& call, const std::string& subject) {
    return denied(failure_of(call), subject);
  };
  Kv kv = bank.kv();
  EXPECT_TRUE(denies([&] { kv.put("k", "v", kSoon); }, "KV_shop_bank"));
  EXPECT_TRUE(denies([&] { kv.get("k", kSoon); }, "KV_shop_bank"));
  EXPECT_TRUE(denies([&] { kv.keys("", 10, kSoon); }, "KV_shop_bank"));
  EXPECT_TRUE(denies([&] { bank.lock("l").acquire(kSoon); }, "$KV.shop_locks.bank.l"));
  EXPECT_TRUE(denies([&] { bank.events().publish("paid", "1"); }, "shop.bank.events.paid"));
  EXPECT_TRUE(
      denies([&] { node.platform->events().publish("alarm", "1"); }, "shop._.events.alarm"));
}

TEST_F(Isolation, AnAppThatTheUserIsNotForNeverLeads) {
  Node node(options("node-1", "shop-notes"));
  App& bank = node.platform->add_app({.name = "bank"});
  node.run();
  EXPECT_TRUE(eventually([&] {
    return trouble_of(node).find("$KV.shop_leases.bank") != std::string::npos;
  })) << trouble_of(node);
  EXPECT_FALSE(bank.election().is_leader());
}

TEST_F(Isolation, CommandsOfAConfinedUserSayWhatIsRefused) {
  Node node(options("node-1", "shop-notes"));
  App& notes = node.platform->add_app({.name = "notes"});
  node.run();
  ASSERT_TRUE(notes.election().wait_for_leadership(kSoon));
  EXPECT_EQ(run_as("shop-notes", {"kv", "put", "notes", "k", "v"}).status, 0);
  EXPECT_EQ(run_as("shop-notes", {"event", "publish", "new", "1", "--app", "notes"}).status, 0);
  const auto fails = [&](std::vector<std::string> arguments, const std::string& subject) {
    const Outcome outcome = run_as("shop-notes", std::move(arguments));
    const bool named = outcome.err.find(subject) != std::string::npos;
    return outcome.status == 1 && named ? ::testing::AssertionSuccess()
                                        : ::testing::AssertionFailure()
                                              << outcome.status << ": " << outcome.out
                                              << outcome.err;
  };
  EXPECT_TRUE(fails({"kv", "get", "bank", "k"}, "KV_shop_bank"));
  EXPECT_TRUE(fails({"kv", "ls", "bank"}, "KV_shop_bank"));
  EXPECT_TRUE(fails({"kv", "put", "bank", "k", "v"}, "KV_shop_bank"));
  EXPECT_TRUE(fails({"event", "publish", "paid", "1", "--app", "bank"}, "shop.bank.events.paid"));
  EXPECT_TRUE(fails({"stepdown", "notes"}, "shop._.node.node-1.stepdown"));
  const Outcome status = run_as("shop-notes", {"status", "--output", "json"});
  EXPECT_NE(status.out.find("shop._.node.node-1.status"), std::string::npos)
      << status.out << status.err;
}

TEST_F(Isolation, ADurableSubscriptionTellsThatItMayNotPullOrAcknowledge) {
  for (const std::string refusal :
       {"$JS.API.CONSUMER.MSG.NEXT.shop_events.notes_bill", "$JS.ACK.shop_events.notes_bill."}) {
    const bool pulling = refusal.starts_with("$JS.API");
    start_server({}, pulling ? "$JS.API.CONSUMER.MSG.NEXT.shop_events.*" : "$JS.ACK.shop_events.>");
    Node node(options(pulling ? "node-1" : "node-2", "shop-notes"));
    App& notes = node.platform->add_app({.name = "notes", .mode = Spread{}});
    node.run();
    ASSERT_TRUE(eventually([&] { return node.platform->members().size() == 1; }));
    std::promise<Error> told;
    std::atomic<bool> once{false};
    const auto subscription = notes.events().subscribe(">", [](const Event&) {},
                                                       {.on_trouble =
                                                            [&](const Error& error) {
                                                              if (!once.exchange(true))
                                                                told.set_value(error);
                                                            },
                                                        .durable = "bill"});
    notes.events().publish("new", "1");
    auto future = told.get_future();
    ASSERT_EQ(future.wait_for(kSoon), std::future_status::ready) << refusal;
    EXPECT_TRUE(denied(future.get(), refusal));
  }
}

TEST_F(Isolation, AnOperatorMayEverything) {
  Node node(options("node-1", "shop-notes"));
  App& notes = node.platform->add_app({.name = "notes"});
  node.run();
  ASSERT_TRUE(notes.election().wait_for_leadership(kSoon));
  notes.kv().put("k", "v");
  const LockGuard held = notes.lock("l").acquire(kSoon);
  const auto works = [&](std::vector<std::string> arguments) {
    const Outcome outcome = run_as("shop-operator", std::move(arguments));
    EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
    return outcome.out;
  };
  EXPECT_NE(works({"status"}).find("node-1"), std::string::npos);
  EXPECT_EQ(works({"kv", "get", "notes", "k"}), "v\n");
  works({"kv", "put", "bank", "k", "v"});
  works({"event", "publish", "alarm", "1"});
  works({"event", "publish", "paid", "1", "--app", "bank"});
  works({"node", "status", "node-1"});
  works({"lock", "release", "--force", "--app", "notes", "l"});
  const Outcome again = run_as("shop-operator", {"stepdown", "notes", "--force"});
  EXPECT_EQ(again.status, 5) << "there is no other node";
  EXPECT_NE(again.err.find("node-1 leads again"), std::string::npos) << again.err;
  Client client(*server, "shop-operator");
  ASSERT_TRUE(connect(client.connection));
  EXPECT_FALSE(client.ask("$JS.API.STREAM.DELETE.KV_shop_bank"));
  EXPECT_FALSE(client.ask("$SRV.INFO.shop"));
}

TEST_F(Isolation, WithoutLeaveToMakeStreamsAnAppUsesThoseThatAreThere) {
  start_server({"--no-create"});
  {
    Node missing(options("node-1", "shop-notes"));
    missing.run();
    EXPECT_TRUE(denied(failure_of([&] { missing.over.get(); }), "STREAM.CREATE.KV_shop_members"));
  }
  {
    Node node(options("node-1", "shop-operator"));
    App& notes = add_notes(node, "by-operator");
    node.run();
    ASSERT_TRUE(notes.election().wait_for_leadership(kSoon));
    notes.kv().put("k", "v");
    notes.events().publish("new", "1");
    EXPECT_TRUE(notes.lock("l").acquire(kSoon).held());
    auto db = notes.database().open();
    db.exec("CREATE TABLE made_by_operator(v)");
    notes.snapshots().create(kSoon);
  }
  Node node(options("node-2", "shop-notes"));
  App& notes = add_notes(node, "node-2");
  node.run();
  ASSERT_TRUE(notes.election().wait_for_leadership(kSoon));
  notes.database().open().exec("INSERT INTO made_by_operator VALUES(1)");
  notes.kv().put("k", "v");
  notes.events().publish("new", "2");
  EXPECT_TRUE(notes.lock("l").acquire(kSoon).held());
  Client client(*server, "shop-notes");
  ASSERT_TRUE(connect(client.connection));
  EXPECT_TRUE(denied(client.ask("$JS.API.STREAM.CREATE.KV_shop_notes"),
                     "\"$JS.API.STREAM.CREATE.KV_shop_notes\""));
}

// docs/isolation.md says so: permissions see a request's subject, not what it asks for. Should one
// of these fail, a server has learnt to refuse it, and the document may promise more.
class WhatPermissionsDoNotSee : public Isolation {
 protected:
  void SetUp() override {
    Isolation::SetUp();
    if (!server) return;
    admin.emplace(*server, "shop-operator");
    confined.emplace(*server, "shop-notes");
    ASSERT_TRUE(connect(admin->connection) && connect(confined->connection));
    make("KV_shop_bank", "$KV.shop_bank.>");
    ASSERT_TRUE(admin->send({.subject = "$KV.shop_bank.k", .data = "secret"}));
  }
  void make(const std::string& stream, const std::string& subjects) {
    admin->api(
        "STREAM.CREATE." + stream,
        {{"name", stream}, {"subjects", Json::array({subjects})}, {"allow_rollup_hdrs", true}});
  }
  std::uint64_t messages(const std::string& stream) {
    return admin->api("STREAM.INFO." + stream, Json::object())["state"]["messages"];
  }
  std::optional<Client> admin, confined;
};

TEST_F(WhatPermissionsDoNotSee, AStreamCopiesAnother) {
  confined->api(
      "STREAM.CREATE.KV_shop_notes",
      {{"name", "KV_shop_notes"}, {"sources", Json::array({Json{{"name", "KV_shop_bank"}}})}});
  EXPECT_TRUE(eventually([&] { return messages("KV_shop_notes") == 1; }));
}

TEST_F(WhatPermissionsDoNotSee, AConsumerDeliversToAnySubject) {
  const std::string subject = "shop._.node.node-1.stepdown";
  make("KV_shop_notes", "$KV.shop_notes.>");
  ASSERT_TRUE(confined->send({.subject = "$KV.shop_notes.k", .data = "forged"}));
  std::string heard;
  const auto node =
      admin->connection.subscribe(subject, [&](const nats::Message& m) { heard = m.data; });
  testing::must(admin->loop,
                [&](Completion done) { admin->connection.flush(kSoon, std::move(done)); });
  EXPECT_TRUE(denied(confined->ask(subject), subject));
  confined->api(
      "CONSUMER.CREATE.KV_shop_notes.x",
      {{"stream_name", "KV_shop_notes"},
       {"config", {{"name", "x"}, {"deliver_subject", subject}, {"ack_policy", "none"}}}});
  EXPECT_TRUE(admin->loop.run_until([&] { return heard == "forged"; }, kSoon));
}

TEST_F(WhatPermissionsDoNotSee, ARollupEmptiesASharedBucket) {
  make("KV_shop_locks", "$KV.shop_locks.>");
  ASSERT_TRUE(admin->send({.subject = "$KV.shop_locks.bank.l", .data = "held"}));
  ASSERT_TRUE(confined->send(
      {.subject = "$KV.shop_locks.notes.l", .data = "x", .headers = {{"Nats-Rollup", "all"}}}));
  EXPECT_EQ(messages("KV_shop_locks"), 1u) << "the lock of bank is gone";
}

}  // namespace
}  // namespace cluster
