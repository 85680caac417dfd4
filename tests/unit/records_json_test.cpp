#include "coord/records_json.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster::coord {
namespace {

TEST(RecordsJson, ASessionRecordComesBackAsItWas) {
  SessionRecord record;
  record.node = "node-1";
  record.session = "Qd7";
  record.state = SessionState::expired;
  record.voters = {{"node-2", "Zk3"}, {"node-3", "Pw9"}};
  record.ended_by = "node-2: 2 of 2 voters had no heartbeat";
  auto facts = std::make_shared<NodeFacts>();
  facts->labels = {{"zone", "a"}};
  facts->apps = {"database"};
  facts->load = 0.5;
  record.facts = facts;
  auto back = session_record_from("node-1", to_json(record)).value();
  EXPECT_EQ(back.session, "Qd7");
  EXPECT_EQ(back.state, SessionState::expired);
  EXPECT_EQ(back.voters, record.voters);
  EXPECT_EQ(back.ended_by, record.ended_by);
  EXPECT_EQ(back.facts->labels, facts->labels);
  EXPECT_EQ(back.facts->apps, facts->apps);
}

TEST(RecordsJson, WhatANodeHoldsComesBackAsItWas) {
  using What = HeldDatabase::What;
  SessionRecord record;
  record.node = "node-1";
  record.session = "Qd7";
  auto facts = std::make_shared<NodeFacts>();
  facts->databases = {{"a", {What::copy, 7, 8, 9, 3, 4711, ""}},
                      {"b", {What::database, 7, ~std::uint64_t{0}, 0, 0, 0, ""}},
                      {"c", {What::nothing, 7, 0, 0, 0, 0, ""}},
                      {"d", {What::unread, 0, 0, 0, 0, 0, ""}},
                      {"e", {What::unusable, 7, 0, 0, 0, 0, "file is not a database"}},
                      {"f", {What::unknown, 0, 0, 0, 0, 0, ""}}};
  record.facts = facts;
  const auto back = session_record_from("node-1", to_json(record)).value();
  EXPECT_EQ(back.facts->databases, facts->databases);
}

// As those of an older version are, and of a later one.
TEST(RecordsJson, ARecordMayNotSayWhatItsNodeHolds) {
  const std::string start =
      R"({"v":1,"node":"n","session":"s","state":"left","voters":[],"apps":["a"])";
  EXPECT_TRUE(session_record_from("n", start + "}").value().facts->databases.empty());
  const auto later =
      session_record_from("n", start + R"(,"databases":{"a":{"holds":"half","of":["it"]}}})");
  ASSERT_TRUE(later) << later.error().what();
  EXPECT_EQ(later.value().facts->databases.at("a"), HeldDatabase{});
}

TEST(RecordsJson, ALeaseComesBackAsItWas) {
  LeaseRecord record{"database", 42, true, "node-1", "Qd7", 815, "node-2"};
  EXPECT_EQ(lease_record_from("database", to_json(record)).value(), record);
}

LockParty party_of(const std::string& node, const std::string& note) {
  LockParty party;
  party.session = {node, "Qd7"};
  party.session_rev = 815;
  party.claim = 4711;
  party.asked_ms = 1'700'000'000'000;
  party.note = note;
  return party;
}

TEST(RecordsJson, ALockComesBackAsItWas) {
  LockRecord record;
  record.key = "shop.a%20b";
  record.kind = LockKind::semaphore;
  record.limit = 3;
  record.holders = {party_of("node-1", ""), party_of("node-2", "says \"hi\"\n\t\\ \x7f \xc3\xa4")};
  record.holders[1].token = 99;
  EXPECT_EQ(lock_record_from("shop.a%20b", to_json(record)).value(), record);
  record.waiters = {party_of("node-3", "}],\"v\":2")};
  record.waiters[0].watches = true;
  record.open = true;
  EXPECT_EQ(lock_record_from("shop.a%20b", to_json(record)).value(), record);
  const LockNotice notice{"node-2", 816, std::make_shared<const LockRecord>(record)};
  const auto back = lock_notice_from(to_json(notice)).value();
  EXPECT_EQ(back.rev, 816u);
  EXPECT_EQ(*back.record, record);
}

TEST(RecordsJson, ANoteThatIsNoUtf8IsStoredAsFarAsItIs) {
  LockRecord record;
  record.key = "_.l";
  record.holders = {party_of("node-1", "caf\xe9")};
  const auto back = lock_record_from("_.l", to_json(record)).value();
  EXPECT_EQ(back.holders[0].note, "caf\xef\xbf\xbd");
}

TEST(RecordsJson, UnknownFieldsAreIgnoredAndHigherVersionsRefused) {
  std::string good =
      R"({"v":1,"app":"a","epoch":1,"state":"held","holder":"n","session":"s","session_rev":1,"new":[1]})";
  EXPECT_TRUE(lease_record_from("a", good).ok());
  std::string newer = R"({"v":2,"app":"a"})";
  auto refused = lease_record_from("a", newer);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().errc(), Errc::incompatible);
  EXPECT_NE(std::string(refused.error().what()).find("update cpp-cluster"), std::string::npos);
}

TEST(RecordsJson, AnEpochThatIsNoWholeNumberIsCorrupt) {
  for (const char* epoch : {"1e300", "2.5", "-1e80", "\"1\""}) {
    const auto result = lease_record_from(
        "a",
        R"({"v":1,"app":"a","state":"held","holder":"n","session":"s","session_rev":1,"epoch":)" +
            std::string(epoch) + "}");
    ASSERT_FALSE(result.ok()) << epoch;
    EXPECT_EQ(result.error().errc(), Errc::corrupt) << epoch;
  }
}

TEST(RecordsJson, WhatIsNoRecordIsCorruptWithTheKeyNamed) {
  for (const char* bad :
       {"", "[]", "{", R"({"v":1})", R"({"v":"x"})", R"({"v":1e300})", R"({"v":1.5})",
        R"({"v":1,"node":"other","session":"s","state":"live","voters":[]})",
        R"({"v":1,"node":"n","session":"s","state":"dead","voters":[]})",
        R"({"v":1,"node":"n","session":"s","state":"live","voters":["nosession"]})",
        R"({"v":1,"node":"n","session":"s","state":"live","voters":[],"labels":7})"}) {
    auto result = session_record_from("n", bad);
    ASSERT_FALSE(result.ok()) << bad;
    EXPECT_EQ(result.error().errc(), Errc::corrupt) << bad;
    EXPECT_NE(std::string(result.error().what()).find("\"n\""), std::string::npos)
        << result.error().what();
  }
}

RC_GTEST_PROP(RecordsJsonProperty, AnyBytesAreParsedOrRefused, (const std::string& bytes)) {
  (void)session_record_from("n", bytes).ok();
  (void)lease_record_from("a", bytes).ok();
  (void)heartbeat_from(bytes).ok();
  (void)heartbeat_ack_from(bytes).ok();
  (void)withdrawal_from(bytes).ok();
}

}  // namespace
}  // namespace cluster::coord
