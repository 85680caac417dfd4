// The audit log against a real server, also while that is away.
#include "ops/audit_log.h"

#include <nlohmann/json.hpp>

#include "integration/nats_fixture.h"

namespace cluster {
namespace {

using testing::connect;
using testing::kSoon;
using testing::must;
using testing::NatsServers;

class AuditLogTest : public ::testing::Test {
 protected:
  AuditLogTest()
      : c(loop, servers.options()), js(c, std::chrono::milliseconds(500)), patient(c, kSoon) {}
  void SetUp() override { ASSERT_TRUE(connect(c)); }

  void add(AuditLog& log, int number) {
    log.add({.category = "database",
             .action = "primary",
             .app = "notes",
             .level = "info",
             .fields = {{"number", std::to_string(number)}}});
  }
  std::uint64_t stored() {
    auto state = nats::await<nats::StreamState>(
        loop, kSoon, [&](auto done) { patient.stream("p_audit", done); });
    return state ? state.value().messages : 0;
  }
  nlohmann::json entry(std::uint64_t sequence, const std::string& subject = "database.primary") {
    auto message = nats::await<nats::StoredMessage>(
        loop, kSoon, [&](auto done) { patient.message("p_audit", sequence, done); });
    EXPECT_TRUE(message);
    if (!message) return {};
    EXPECT_EQ(message.value().subject, "p._.audit." + subject);
    return nlohmann::json::parse(message.value().data);
  }

  NatsServers servers;
  Loop loop;
  nats::Connection c;
  nats::JetStream js;       // the log's, which soon gives up
  nats::JetStream patient;  // the test's
};

TEST_F(AuditLogTest, KeepsWhatHappenedWhereAndWhen) {
  AuditLog log(loop, js, {"p", "node-1"});
  log.open(1);
  for (int i = 1; i <= 20; ++i) add(log, i);
  ASSERT_TRUE(loop.run_until([&] { return log.status().stored == 20; }, kSoon));
  EXPECT_EQ(stored(), 20U);
  const auto third = entry(3);
  EXPECT_EQ(third.at("node"), "node-1");
  EXPECT_EQ(third.at("app"), "notes");
  EXPECT_EQ(third.at("category"), "database");
  EXPECT_EQ(third.at("action"), "primary");
  EXPECT_EQ(third.at("level"), "info");
  EXPECT_EQ(third.at("fields").at("number"), "3");
  EXPECT_TRUE(third.at("time").get<std::string>().ends_with("Z"));
}

TEST_F(AuditLogTest, WhatFindsNoRoomIsCountedAndTheRestIsStoredOnce) {
  AuditLog log(loop, js, {"p", "node-1"});
  log.open(1);
  add(log, 0);
  ASSERT_TRUE(loop.run_until([&] { return log.status().stored == 1; }, kSoon));
  testing::freeze(servers[0].pid());
  for (int i = 1; i <= 1'100; ++i) add(log, i);
  EXPECT_EQ(log.status().waiting, AuditLog::kMostWaiting);
  EXPECT_EQ(log.status().dropped, 100U);
  // Long enough for the first to be given up, and sent again.
  ASSERT_TRUE(loop.run_until([&] { return !log.status().trouble.empty(); }, kSoon));
  testing::thaw(servers[0].pid());
  ASSERT_TRUE(loop.run_until([&] { return log.status().waiting == 0; }, kSoon));
  EXPECT_EQ(log.status().trouble, "");
  EXPECT_EQ(log.status().stored, 1'002U);
  EXPECT_EQ(stored(), 1'002U);
  EXPECT_EQ(entry(1'001).at("fields").at("number"), "1000");
  EXPECT_EQ(entry(1'002, "audit.dropped").at("fields").at("entries"), "100");
}

TEST_F(AuditLogTest, AStreamThatSomebodyDeletedIsMadeAgain) {
  AuditLog log(loop, js, {"p", "node-1"});
  log.open(1);
  add(log, 1);
  ASSERT_TRUE(loop.run_until([&] { return log.status().stored == 1; }, kSoon));
  must(loop, [&](auto done) { patient.delete_stream("p_audit", done); });
  add(log, 2);
  ASSERT_TRUE(loop.run_until([&] { return log.status().stored == 2; }, kSoon));
  EXPECT_EQ(entry(1).at("fields").at("number"), "2");
}

TEST_F(AuditLogTest, WhatWaitsWhenTheNodeEndsIsSentAllTheSame) {
  {
    AuditLog log(loop, js, {"p", "node-1"});
    log.open(1);
    add(log, 1);
    ASSERT_TRUE(loop.run_until([&] { return log.status().stored == 1; }, kSoon));
    for (int i = 2; i <= 10; ++i) add(log, i);
    log.flush();
    add(log, 11);
  }
  EXPECT_TRUE(loop.run_until([&] { return stored() == 11; }, kSoon));
}

}  // namespace
}  // namespace cluster
