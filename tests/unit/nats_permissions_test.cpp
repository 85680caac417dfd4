// What cpp-cluster nats permissions prints, without a server.
#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "cli/nats_permissions.h"
#include "nats/refusal.h"

namespace cluster::cli {
namespace {

std::set<std::string> subjects_of(const std::vector<Grant>& grants) {
  std::set<std::string> all;
  for (const auto& grant : grants) {
    EXPECT_FALSE(grant.why.empty());
    EXPECT_EQ(grant.why.find('\n'), std::string::npos) << "it would end its comment";
    for (const auto& subject : grant.subjects)
      EXPECT_TRUE(all.insert(subject).second) << subject << " twice";
  }
  return all;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(NatsPermissions, NoLineOfAConfinedUserReachesAnotherApp) {
  const auto user = confined_user("shop", "notes", "u", Streams::made_by_user);
  for (const auto& subject : subjects_of(user.publish)) {
    if (has(subject, "shop_notes") || has(subject, ".notes.")) continue;
    // What is shared, each meant: docs/isolation.md.
    EXPECT_TRUE(has(subject, "_members") || has(subject, "_leases") || has(subject, "_locks") ||
                has(subject, "shop_events") || has(subject, "shop_audit") ||
                subject.starts_with("shop._.") || subject == "shop.*.calls.*.*.notes" ||
                subject == "shop.*.calls.node.*.*.notes" || subject == "shop.*.calls.cancel" ||
                subject == "$JS.API.INFO" || subject == "_INBOX.>")
        << subject;
  }
  for (const auto& subject : subjects_of(user.subscribe))
    EXPECT_TRUE(subject.starts_with("shop._.") || subject.starts_with("shop.notes.") ||
                subject.starts_with("$SRV.") || subject == "_INBOX.u.>")
        << subject;
}

TEST(NatsPermissions, AConfinedUserDeletesNoStreamAndWritesNoForeignLease) {
  for (const auto& subject :
       subjects_of(confined_user("shop", "notes", "u", Streams::made_by_user).publish)) {
    EXPECT_FALSE(has(subject, "STREAM.DELETE")) << subject;
    // Keys with a ttl are marked there.
    EXPECT_TRUE(!has(subject, "STREAM.UPDATE") || subject == "$JS.API.STREAM.UPDATE.KV_shop_notes")
        << subject;
    EXPECT_NE(subject, "$KV.shop_leases.>");
    EXPECT_NE(subject, "$KV.shop_locks.>");
    EXPECT_NE(subject, "$JS.API.>");
  }
}

TEST(NatsPermissions, WithStreamsMadeBeforeNothingElseIsLeftOut) {
  auto all = subjects_of(confined_user("shop", "notes", "u", Streams::made_by_user).publish);
  const auto fewer = subjects_of(confined_user("shop", "notes", "u", Streams::made_before).publish);
  std::erase_if(all, [](const std::string& subject) { return has(subject, "STREAM.CREATE"); });
  EXPECT_EQ(all, fewer);
}

TEST(NatsPermissions, AUsersNameIsOneTokenOfASubject) {
  for (const char* good : {"u", "shop-notes", "A_1"}) EXPECT_EQ(user_name_fault(good), "");
  for (const char* bad : {"", "a.b", "*", ">", "a b", "a\"b", "a$b"})
    EXPECT_NE(user_name_fault(bad), "") << bad;
  EXPECT_NE(user_name_fault(std::string(65, 'u')), "");
  EXPECT_EQ(password_variable("shop-notes_2"), "SHOP_NOTES_2_PASSWORD");
}

TEST(NatsPermissions, TheBlockHasEachUserAndNoPassword) {
  const auto block = authorization_block(
      "shop", {confined_user("shop", "notes", "shop-notes", Streams::made_by_user),
               operator_user("shop", "boss")});
  for (const char* part : {"authorization {", "user: \"shop-notes\"", "$SHOP_NOTES_PASSWORD",
                           "user: \"boss\"", "$BOSS_PASSWORD", "# calls of all apps"})
    EXPECT_TRUE(has(block, part)) << part;
  EXPECT_EQ(std::count(block.begin(), block.end(), '{'),
            std::count(block.begin(), block.end(), '}'));
  EXPECT_EQ(std::count(block.begin(), block.end(), '['),
            std::count(block.begin(), block.end(), ']'));
}

TEST(Refusal, NamesTheSubjectAlsoWhenTheClientLibraryHasCutIt) {
  const auto refusal = nats::refusal_from("Permissions Violation for Publish to \"a.b\"");
  ASSERT_TRUE(refusal);
  EXPECT_TRUE(refusal->names("a.b"));
  EXPECT_FALSE(refusal->names("a.b.c"));
  const auto queue =
      nats::refusal_from("Permissions Violation for Subscription to \"a.>\" using queue \"q\"");
  ASSERT_TRUE(queue);
  EXPECT_TRUE(queue->names("a.>"));
  const auto cut = nats::refusal_from("Permissions Violation for Publish to \"a.b");
  ASSERT_TRUE(cut);
  EXPECT_TRUE(cut->names("a.bc"));
  EXPECT_FALSE(cut->names("a.c"));
  EXPECT_FALSE(nats::refusal_from("Authorization Violation"));
  EXPECT_EQ(nats::refusal_from("Permissions Violation")->subject, "");
}

}  // namespace
}  // namespace cluster::cli
