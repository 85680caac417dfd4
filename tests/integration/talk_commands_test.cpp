// cpp-cluster kv and lock as commands, against a node and a real server.
#include <csignal>
#include <cstdio>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "built.h"
#include "cluster/cluster.h"
#include "integration/platform_fixture.h"
#include "integration/program.h"
#include "shell.h"

namespace cluster {
namespace {

using nlohmann::json;
using testing::eventually;
using testing::kSoon;
using testing::Outcome;
using testing::Program;

class TalkCommands : public ::testing::Test {
 protected:
  explicit TalkCommands(std::chrono::milliseconds session_timeout = testing::patience())
      : node(options(session_timeout)) {}
  void SetUp() override {
    if (access(built::kProgram, X_OK) != 0) GTEST_SKIP() << built::kProgram << " is not built";
    app = &node.platform->add_app({.name = "shop", .mode = Spread{}, .kv = {.history = 5}});
    app->handle("echo", [](const CallRequest& r) { return r.caller_app + " " + r.payload; });
    app->handle("refuse", [](const CallRequest&) -> std::string {
      throw CallError("sold_out", "none is left");
    });
    node.run();
    ASSERT_TRUE(eventually([&] { return node.platform->members().size() == 1; }));
  }
  std::vector<std::string> at_server(std::vector<std::string> arguments) {
    for (const std::string& more :
         {std::string("--nats"), servers[0].url(), std::string("--platform"), std::string("test")})
      arguments.push_back(more);
    return arguments;
  }
  Outcome run(std::vector<std::string> arguments) {
    Program program(folder, at_server(std::move(arguments)), environment);
    EXPECT_TRUE(eventually([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }

  PlatformOptions options(std::chrono::milliseconds session_timeout) const {
    auto options = testing::Node::options(servers, folder.path(), "node-1", kSoon);
    options.timing = testing::patient_timing(session_timeout);
    return options;
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
  testing::Node node;
  App* app = nullptr;
  std::vector<std::string> environment{};
};

/// Commands that are nodes themselves, beside a node: all keep their sessions on a busy machine.
class TalkCommandsOfNodes : public TalkCommands {
 protected:
  TalkCommandsOfNodes() : TalkCommands(testing::kSteady) {
    const auto ms = [](auto time) {
      return std::to_string(std::chrono::milliseconds(time).count()) + "ms";
    };
    const Timing timing = testing::patient_timing(testing::kSteady);
    environment = {"CPP_CLUSTER_TIMING_SESSION_TIMEOUT=" + ms(timing.session_timeout),
                   "CPP_CLUSTER_TIMING_LEASE_TTL=" + ms(timing.lease_ttl)};
  }
};

TEST_F(TalkCommands, KeysAndValues) {
  EXPECT_EQ(run({"kv", "get", "shop", "k"}).status, 4);
  auto put = run({"kv", "put", "shop", "k", "v", "--output", "json"});
  ASSERT_EQ(put.status, 0) << put.err;
  const auto revision = json::parse(put.out)["revision"].get<std::uint64_t>();
  EXPECT_EQ(app->kv().get("k")->value, "v");
  EXPECT_EQ(run({"kv", "get", "shop", "k"}).out, "v\n");
  EXPECT_EQ(run({"kv", "put", "shop", "k", "w", "--create"}).status, 1);
  EXPECT_EQ(run({"kv", "put", "shop", "k", "w", "--revision", std::to_string(revision)}).status, 0);
  EXPECT_EQ(run({"kv", "put", "shop", "brief", "v", "--ttl", "200ms"}).status, 0);
  EXPECT_TRUE(eventually([&] { return run({"kv", "get", "shop", "brief"}).status == 4; }));
  auto stale = run({"kv", "put", "shop", "k", "x", "--revision", std::to_string(revision)});
  EXPECT_EQ(stale.status, 1);
  EXPECT_NE(stale.err.find("wrong last sequence"), std::string::npos) << stale.err;
  app->kv().put("binary", "\xff");
  const auto all = json::parse(run({"kv", "ls", "shop", "--output", "json"}).out)["entries"];
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["value_base64url"], "_w==");
  EXPECT_EQ(all[1]["value"], "w");
  EXPECT_EQ(run({"kv", "ls", "shop", "bin"}).out, "binary\n");
  EXPECT_EQ(run({"kv", "del", "shop", "k"}).status, 0);
  EXPECT_FALSE(app->kv().get("k"));
  const auto history = run({"kv", "history", "shop", "k"});
  EXPECT_NE(history.out.find("(removed)"), std::string::npos) << history.out;
  EXPECT_EQ(run({"kv", "put", "shop", "", "v"}).status, 2);
}

TEST_F(TalkCommands, AWatchPrintsWritesUntilItIsInterrupted) {
  app->kv().put("k", "first");
  Program watch(folder, at_server({"kv", "watch", "shop"}));
  ASSERT_TRUE(eventually([&] { return watch.out().find("first") != std::string::npos; }));
  app->kv().put("k", "second");
  ASSERT_TRUE(eventually([&] { return watch.out().find("k = second") != std::string::npos; }));
  watch.send(SIGINT);
  EXPECT_TRUE(eventually([&] { return watch.ended(); }));
  EXPECT_EQ(watch.status(), 0) << watch.err();
}

TEST_F(TalkCommands, AWatchEndsWhenNobodyReadsAnyMore) {
  app->kv().put("k", "first");
  std::string line = shell_quoted(built::kProgram);
  for (const auto& argument : at_server({"kv", "watch", "shop"}))
    line += " " + shell_quoted(argument);
  std::FILE* pipe = popen((line + " 2>" + shell_quoted(folder / "err")).c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char text[256] = "";
  ASSERT_NE(std::fgets(text, sizeof text, pipe), nullptr);
  auto ended = std::async(std::launch::async, [&] { return pclose(pipe); });  // ends reading first
  EXPECT_TRUE(eventually([&] {
    app->kv().put("k", "more");
    return ended.wait_for(std::chrono::milliseconds(20)) == std::future_status::ready;
  }));
  EXPECT_NE(ended.get(), 0);
}

TEST_F(TalkCommands, LocksAreListedAndTakenAway) {
  EXPECT_EQ(run({"lock", "list"}).out, "no locks\n");
  LockGuard guard = app->lock("in voices").note("monthly").acquire();
  LockGuard other = node.platform->semaphore("s", 2).acquire();
  const auto list = run({"lock", "list"});
  for (const char* word : {"in voices", "shop", "node-1", "monthly", "semaphore of 2"})
    EXPECT_NE(list.out.find(word), std::string::npos) << word << " in\n" << list.out << list.err;
  const auto locks =
      json::parse(run({"lock", "list", "--app", "shop", "--output", "json"}).out)["locks"];
  ASSERT_EQ(locks.size(), 1u);
  EXPECT_EQ(locks[0]["holders"][0]["token"], guard.token());
  EXPECT_FALSE(locks[0]["holders"][0]["ended"].get<bool>());
  EXPECT_EQ(run({"lock", "release", "--app", "shop", "in voices"}).status, 2) << "without --force";
  EXPECT_TRUE(guard.held());
  auto next = std::async(std::launch::async, [&] { return app->lock("in voices").acquire(kSoon); });
  ASSERT_TRUE(eventually([&] {
    const auto now = json::parse(run({"lock", "list", "--app", "shop", "--output", "json"}).out);
    return now["locks"][0]["waiters"].size() == 1;
  }));
  const auto freed = run({"lock", "release", "--force", "--app", "shop", "in voices"});
  EXPECT_EQ(freed.status, 0) << freed.err;
  EXPECT_NE(freed.out.find("node-1 held it"), std::string::npos) << freed.out;
  EXPECT_TRUE(eventually([&] { return guard.lost().stop_requested(); }));
  EXPECT_FALSE(guard.held());
  EXPECT_GT(next.get().token(), guard.token());
  EXPECT_EQ(run({"lock", "release", "--force", "none"}).status, 4);
}

TEST_F(TalkCommands, AnOpenBarrierIsClosedAgain) {
  ASSERT_TRUE(node.platform->barrier("b").once([](LockGuard&) {}));
  EXPECT_NE(run({"lock", "list"}).out.find("(open)"), std::string::npos);
  EXPECT_EQ(run({"lock", "release", "--force", "b"}).status, 0);
  EXPECT_FALSE(node.platform->barrier("b").is_open());
  EXPECT_EQ(run({"lock", "release", "--force", "b"}).status, 4) << "nothing to release";
}

TEST_F(TalkCommands, EventsArePublishedAndFollowed) {
  const auto published = run(
      {"event", "publish", "order.new", "4711", "--app", "shop", "--id", "i", "--output", "json"});
  ASSERT_EQ(published.status, 0) << published.err;
  EXPECT_EQ(json::parse(published.out)["duplicate"], false);
  const auto again = run({"event", "publish", "order.new", "4711", "--app", "shop", "--id", "i"});
  EXPECT_NE(again.out.find("was there already"), std::string::npos) << again.out << again.err;
  EXPECT_EQ(run({"event", "publish", "a..b"}).status, 2);
  EXPECT_EQ(run({"event", "follow", "--since", "yesterday"}).status, 2);
  Program all(folder, at_server({"event", "follow", "order.>", "--all", "--output", "json"}));
  Program recent(folder, at_server({"event", "follow", "--since", "10m"}));
  Program other(folder, at_server({"event", "follow", "--all", "--app", "bank"}));
  ASSERT_TRUE(eventually([&] { return all.out().find('\n') != std::string::npos; }));
  const json first = json::parse(all.out());
  EXPECT_EQ(first["app"], "shop");
  EXPECT_EQ(first["subject"], "order.new");
  EXPECT_EQ(first["payload"], "4711");
  EXPECT_EQ(first["id"], "i");
  app->events().publish("order.paid", "now");
  EXPECT_EQ(run({"event", "publish", "opened", "7", "--app", "bank"}).status, 0);
  EXPECT_TRUE(eventually([&] {
    return all.out().find("order.paid") != std::string::npos &&
           recent.out().find("order.paid  now") != std::string::npos;
  }));
  // By then it takes signals, too.
  EXPECT_TRUE(eventually([&] { return other.out().find('\n') != std::string::npos; }));
  for (Program* program : {&all, &recent, &other}) {
    program->send(SIGINT);
    EXPECT_TRUE(eventually([&] { return program->ended(); }));
    EXPECT_EQ(program->status(), 0) << program->err();
  }
  EXPECT_NE(other.out().find("opened  7\n"), std::string::npos) << other.out();
  EXPECT_EQ(other.out().find("order."), std::string::npos) << other.out();
}

TEST_F(TalkCommandsOfNodes, ALockIsHeldWhileACommandRuns) {
  const auto hold = [&](std::vector<std::string> more) {
    auto arguments = at_server({"lock", "hold", "--app", "shop", "till"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  Program brief(folder,
                hold({"--note", "by hand", "--", "sh", "-c",
                      "echo $CPP_CLUSTER_LOCK $CPP_CLUSTER_LOCK_TOKEN; exit 7"}),
                environment);
  ASSERT_TRUE(eventually([&] { return brief.ended(); }));
  const Outcome told{brief.status(), brief.out(), brief.err()};
  EXPECT_EQ(told.status, 7) << told.err;
  EXPECT_EQ(told.out.rfind("till ", 0), 0U) << told.out;
  EXPECT_TRUE(app->lock("till").try_acquire(kSoon));
  Program wrong(folder, hold({"--", "/nosuch"}), environment);
  ASSERT_TRUE(eventually([&] { return wrong.ended(); }));
  EXPECT_EQ(wrong.status(), 2) << wrong.err();
  EXPECT_NE(wrong.err().find("\"/nosuch\" can't be run"), std::string::npos) << wrong.err();

  Program holder(folder, hold({"--note", "by hand", "--", "sleep", "600"}), environment);
  ASSERT_TRUE(eventually([&] { return app->lock("till").holder().has_value(); }));
  EXPECT_EQ(app->lock("till").holder()->note, "by hand");
  EXPECT_EQ(run({"lock", "hold", "--app", "shop", "till", "--wait", "300ms"}).status, 6);
  ASSERT_EQ(run({"lock", "release", "--force", "--app", "shop", "till"}).status, 0);
  ASSERT_TRUE(eventually([&] { return holder.ended(); }));
  EXPECT_EQ(holder.status(), 1);
  EXPECT_NE(holder.err().find("was lost: the command has been killed"), std::string::npos)
      << holder.err();

  Program other(folder, hold({}), environment);
  ASSERT_TRUE(eventually([&] { return other.out().find("holding \"till\"") == 0; }));
  other.send(SIGTERM);
  ASSERT_TRUE(eventually([&] { return other.ended(); }));
  EXPECT_EQ(other.status(), 0) << other.err();
  EXPECT_TRUE(app->lock("till").try_acquire(kSoon));
}

TEST_F(TalkCommands, MethodsAreCalled) {
  ASSERT_TRUE(eventually([&] { return run({"call", "shop", "echo", "x"}).status == 0; }));
  EXPECT_EQ(run({"call", "shop", "echo", "x"}).out, "_ x\n");
  const auto detailed = run(
      {"call", "shop", "echo", "x", "--node", "node-1", "--header", "A: b", "--output", "json"});
  ASSERT_EQ(detailed.status, 0) << detailed.err;
  EXPECT_EQ(json::parse(detailed.out)["node"], "node-1");
  EXPECT_EQ(json::parse(detailed.out)["payload"], "_ x");
  const auto refused = run({"call", "shop", "refuse"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("none is left (sold_out)"), std::string::npos) << refused.err;
  const auto unknown = run({"call", "shop", "ecko"});
  EXPECT_EQ(unknown.status, 4);
  EXPECT_NE(unknown.err.find("did you mean \"echo\"?"), std::string::npos) << unknown.err;
  EXPECT_EQ(run({"call", "shop", "echo", "--route", "leader"}).status, 5);
  EXPECT_EQ(run({"call", "nosuch", "echo"}).status, 6);
  EXPECT_EQ(run({"call", "shop", "a.b"}).status, 2);
  EXPECT_EQ(run({"call", "shop", "echo", "--header", "A"}).status, 2);
  EXPECT_EQ(run({"call", "shop", "echo", "x", "--route", "all"}).out, "node-1: _ x\n");
  const auto all = run({"call", "shop", "refuse", "--route", "all", "--output", "json"});
  EXPECT_EQ(all.status, 1);
  EXPECT_EQ(json::parse(all.out)["answers"][0]["error"], "sold_out");
}

TEST_F(TalkCommands, TheAuditLogIsListedAndFollowed) {
  EXPECT_TRUE(app->audit().record("order_refunded", {{"order", "4711"}, {"why", "two words"}}));
  EXPECT_TRUE(node.platform->audit().record("maintenance"));
  const auto entries = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments{"audit", "list", "-o", "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto told = run(arguments);
    EXPECT_EQ(told.status, 0) << told.err;
    return json::parse(told.out)["entries"];
  };
  ASSERT_TRUE(eventually([&] { return entries({"--category", "user"}).size() == 2; }));
  const auto all = entries({"--category", "user"});
  EXPECT_EQ(all[0]["action"], "order_refunded");
  EXPECT_EQ(all[0]["app"], "shop");
  EXPECT_EQ(all[0]["node"], "node-1");
  EXPECT_EQ(all[0]["fields"]["order"], "4711");
  const std::string second = all[1]["time"];
  const auto count = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--category", "user"});
    return entries(more).size();
  };
  EXPECT_EQ(count({"--app", "shop"}), 1u);
  EXPECT_EQ(count({"--app", "_"}), 1u);
  EXPECT_EQ(count({"--node", "node-1"}), 2u);
  EXPECT_EQ(count({"--node", "node-2"}), 0u);
  EXPECT_EQ(count({"--action", "maintenance"}), 1u);
  EXPECT_EQ(count({"--since", "1h"}), 2u);
  EXPECT_EQ(count({"--since", second}), 1u);
  EXPECT_EQ(count({"--until", "1h"}), 0u);
  EXPECT_EQ(count({"--limit", "1"}), 1u);
  const auto table = run({"audit", "list", "--category", "user"});
  for (const char* word : {"user.order_refunded", "order=4711", "why=\"two words\""})
    EXPECT_NE(table.out.find(word), std::string::npos) << word << " in\n" << table.out;
  EXPECT_EQ(run({"audit", "list", "--category", "none"}).out, "no entries\n");
  EXPECT_EQ(run({"audit", "list", "--since", "yesterday"}).status, 2);
  EXPECT_EQ(run({"audit", "list", "--limit", "0"}).status, 2);
  EXPECT_EQ(run({"audit", "list", "--category", "a.b"}).status, 2);

  Program lines(folder, at_server({"audit", "follow", "--app", "shop", "--since", "10m"}));
  Program documents(
      folder, at_server({"audit", "follow", "--category", "user", "--since", "10m", "-o", "json"}));
  ASSERT_TRUE(eventually([&] { return documents.out().find("maintenance") != std::string::npos; }));
  ASSERT_TRUE(eventually([&] { return lines.out().find("order=4711") != std::string::npos; }));
  app->audit().record("order_paid");
  EXPECT_TRUE(eventually([&] {
    return lines.out().find("user.order_paid") != std::string::npos &&
           documents.out().find("order_paid") != std::string::npos;
  }));
  EXPECT_EQ(json::parse(documents.out().substr(0, documents.out().find('\n')))["v"], 1);
  for (Program* program : {&lines, &documents}) {
    program->send(SIGINT);
    EXPECT_TRUE(eventually([&] { return program->ended(); }));
    EXPECT_EQ(program->status(), 0) << program->err();
  }
  EXPECT_EQ(lines.out().find("maintenance"), std::string::npos) << "it is of no app";
}

TEST_F(TalkCommands, WhatOperatorsDoIsInTheAuditLog) {
  const LockGuard guard = app->lock("till").acquire();
  ASSERT_EQ(run({"kv", "put", "shop", "k", "secret"}).status, 0);
  ASSERT_EQ(run({"kv", "del", "shop", "k"}).status, 0);
  ASSERT_EQ(run({"event", "publish", "order.new", "secret", "--app", "shop"}).status, 0);
  ASSERT_EQ(run({"lock", "release", "--force", "--app", "shop", "till"}).status, 0);
  const auto list = [&](const std::string& category, const std::string& action) {
    const auto told = run({"audit", "list", "--app", "shop", "--category", category, "--action",
                           action, "-o", "json"});
    return json::parse(told.out)["entries"];
  };
  const auto one = [&](const std::string& category, const std::string& action) {
    const auto entries = list(category, action);
    EXPECT_EQ(entries.size(), 1u) << category << "." << action;
    return entries.empty() ? json() : entries[0];
  };
  for (const auto& [category, action] :
       {std::pair("kv", "put"), std::pair("kv", "removed"), std::pair("event", "published"),
        std::pair("lock", "released_by_force")}) {
    const json entry = one(category, action);
    EXPECT_EQ(entry["node"], "");
    EXPECT_NE(entry["fields"].value("by", ""), "");
    EXPECT_EQ(entry.dump().find("secret"), std::string::npos) << entry;
  }
  EXPECT_TRUE(eventually([&] { return guard.lost().stop_requested(); }));
  // Nodes don't wait until their entries are stored.
  EXPECT_TRUE(eventually([&] { return !list("lock", "lost").empty(); }));
  EXPECT_EQ(one("lock", "lost")["node"], "node-1");
}

}  // namespace
}  // namespace cluster
