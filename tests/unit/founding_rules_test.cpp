// Who may begin the history of a database: docs/replication.md, "Who founds".
#include "sqlite/founding_rules.h"

#include <gtest/gtest.h>

namespace cluster::sqlite {
namespace {

using Kind = FoundingVerdict::Kind;
using What = HeldDatabase::What;

constexpr std::uint64_t kStream = 70, kOld = 60;

HeldDatabase said(What what, std::uint64_t stream = kStream) {
  HeldDatabase held;
  held.what = what;
  held.stream = stream;
  return held;
}
HeldDatabase database(std::uint64_t hash, std::uint64_t stream = kStream) {
  auto held = said(What::database, stream);
  held.hash = hash;
  return held;
}
HeldDatabase copy(std::uint64_t epoch, std::uint64_t txid, std::uint64_t hash,
                  std::uint64_t history = kOld) {
  auto held = said(What::copy);
  held.history = history;
  held.epoch = epoch;
  held.txid = txid;
  held.hash = hash;
  return held;
}
FoundingNode live(HeldDatabase held, std::string node = "node-2") {
  return {std::move(node), true, std::move(held)};
}
FoundingNode down(HeldDatabase held, std::string node = "node-2") {
  return {std::move(node), false, std::move(held)};
}
FoundingSituation with(HeldDatabase own, std::vector<FoundingNode> others = {}) {
  return {.app = "notes",
          .node = "node-1",
          .stream = kStream,
          .own = std::move(own),
          .others = std::move(others),
          .chosen = {},
          .heard = true,
          .waited = true};
}
Kind kind(const FoundingSituation& situation) { return judge(situation).kind; }
bool says(const FoundingSituation& situation, const std::string& text) {
  return judge(situation).why.find(text) != std::string::npos;
}

TEST(FoundingRules, WhoeverHoldsADatabaseFoundsAndSoDoesALoneNodeWithoutOne) {
  EXPECT_EQ(kind(with(database(1))), Kind::may);
  EXPECT_EQ(kind(with(said(What::nothing))), Kind::may);
}

TEST(FoundingRules, NobodyFoundsBeforeOthersHadTheTimeToJoin) {
  for (const auto& own : {said(What::nothing), database(1)}) {
    auto situation = with(own);
    situation.heard = false;
    EXPECT_EQ(kind(situation), Kind::waits);
    EXPECT_TRUE(says(situation, "waits some seconds"));
  }
}

TEST(FoundingRules, ANodeWithoutADatabaseWaitsUnlessAllOthersSayThatTheyHaveNone) {
  auto situation = with(said(What::nothing), {live(said(What::nothing))});
  situation.waited = false;
  EXPECT_EQ(kind(situation), Kind::may);
  // An older version says nothing, whether it is live or not; and one that ended before it looked.
  for (const auto& silent : {FoundingNode{"node-3", true, {}}, FoundingNode{"node-3", false, {}},
                             down(said(What::unknown), "node-3")}) {
    situation.others = {live(said(What::nothing)), silent};
    situation.waited = false;
    EXPECT_EQ(kind(situation), Kind::waits);
    situation.waited = true;
    EXPECT_EQ(kind(situation), Kind::may) << "the wait is bounded";
  }
}

TEST(FoundingRules, ANodeWithoutADatabaseNeverFoundsWhileAnotherHoldsOneLiveOrDown) {
  for (const auto& held : {database(1), said(What::unread), copy(3, 10, 5)}) {
    EXPECT_EQ(kind(with(said(What::nothing), {live(held)})), Kind::waits);
    const auto ended = with(said(What::nothing), {down(held)});
    EXPECT_EQ(kind(ended), Kind::waits);
    EXPECT_TRUE(says(ended, "node-2 (which is down)"));
    EXPECT_TRUE(says(ended, "cpp-cluster db found notes --node NODE"));
  }
  // Also when it has not noticed yet that the stream is another one.
  EXPECT_EQ(kind(with(said(What::nothing), {live(database(1, kOld))})), Kind::waits);
}

TEST(FoundingRules, WhatALiveNodeSaysOfAnotherStreamIsWaitedFor) {
  EXPECT_EQ(kind(with(said(What::nothing), {live(said(What::nothing, kOld))})), Kind::waits);
  EXPECT_EQ(kind(with(database(1), {live(said(What::unknown))})), Kind::waits);
  EXPECT_EQ(kind(with(database(1), {live(said(What::unread))})), Kind::waits);
  EXPECT_EQ(kind(with(database(1), {live(database(1, kOld))})), Kind::waits);
  EXPECT_EQ(kind(with(database(1), {down(said(What::nothing, kOld))})), Kind::may);
}

TEST(FoundingRules, EqualDatabasesFoundAndDifferentOnesNeedAPerson) {
  EXPECT_EQ(kind(with(database(1), {live(database(1))})), Kind::may);
  EXPECT_EQ(kind(with(database(1), {live(copy(3, 10, 1))})), Kind::may);
  for (const auto& other : {live(database(2)), down(database(2)), live(copy(3, 10, 2)),
                            down(said(What::unread)), down(database(0))}) {
    EXPECT_EQ(kind(with(database(1), {other})), Kind::person);
    EXPECT_TRUE(says(with(database(1), {other}), "node-2"));
  }
}

TEST(FoundingRules, OfOneHistoryWhoeverHasTheMostFounds) {
  const auto own = copy(3, 10, 1);
  EXPECT_EQ(kind(with(own, {live(copy(3, 9, 2))})), Kind::may);
  EXPECT_EQ(kind(with(own, {live(copy(2, 11, 2))})), Kind::may) << "an older epoch is less";
  EXPECT_EQ(kind(with(own, {live(copy(3, 11, 2))})), Kind::waits);
  EXPECT_EQ(kind(with(own, {down(copy(4, 9, 2))})), Kind::waits);
  EXPECT_EQ(kind(with(own, {live(copy(3, 10, 2))})), Kind::person) << "both can't be right";
  EXPECT_EQ(kind(with(own, {live(copy(3, 10, 0))})), Kind::may) << "a leader does not say its hash";
  EXPECT_EQ(kind(with(own, {live(copy(3, 9, 2, kOld + 1))})), Kind::person) << "another history";
}

TEST(FoundingRules, AFileThatCantBeTakenKeepsEverybodyFromLeading) {
  auto unusable = said(What::unusable);
  unusable.why = "file is not a database";
  for (const auto& own : {said(What::nothing), database(1)})
    for (const auto& other : {live(unusable), down(unusable)}) {
      EXPECT_EQ(kind(with(own, {other})), Kind::person);
      EXPECT_TRUE(says(with(own, {other}), "file is not a database"));
    }
  EXPECT_EQ(kind(with(unusable, {live(database(1))})), Kind::person);
}

TEST(FoundingRules, APersonsChoiceCounts) {
  auto situation = with(database(1), {live(database(2)), down(said(What::unusable), "node-3")});
  situation.heard = situation.waited = false;
  situation.chosen = FounderChoice{"node-1"};
  EXPECT_EQ(kind(situation), Kind::may);
  situation.chosen = FounderChoice{"node-2"};
  EXPECT_EQ(kind(situation), Kind::waits);
  EXPECT_TRUE(says(situation, "node-2 was chosen"));
  situation.chosen = FounderChoice{};
  EXPECT_EQ(kind(situation), Kind::waits) << "it holds one";
  situation.own = said(What::nothing);
  EXPECT_EQ(kind(situation), Kind::may);
  situation.chosen = FounderChoice{"node-1"};
  EXPECT_EQ(kind(situation), Kind::person) << "it has nothing to begin with";
}

TEST(FoundingRules, AChoiceComesBackAsItWas) {
  for (const auto& choice : {FounderChoice{}, FounderChoice{"empty"}, FounderChoice{"node-1"}})
    EXPECT_EQ(founder_choice_from(to_text(choice)), choice);
  for (const char* text : {"", "node", "node ", "nobody"})
    EXPECT_EQ(founder_choice_from(text), std::nullopt);
}

}  // namespace
}  // namespace cluster::sqlite
