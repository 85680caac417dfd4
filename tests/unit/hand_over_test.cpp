// What a node does to hand a lead over, with everything around it played by the test.
#include "platform/hand_over.h"

#include <map>

#include <gtest/gtest.h>

namespace cluster {
namespace {

using namespace std::chrono_literals;
constexpr auto kNotThatLong = 30s;  // that nothing of this takes

LeadState ready_state(std::uint64_t sequence = 100) {
  return {.phase = "standby", .ready = true, .has = true, .sequence = sequence};
}
LeadState not_ready_state(const std::string& why) { return {.phase = "standby", .why = why}; }

class HandOverTest : public testing::Test {
 protected:
  HandOverTest() {
    around.candidates = [this] {
      std::vector<std::string> names;
      for (const auto& [node, state] : nodes) names.push_back(node);
      return names;
    };
    around.ask = [this](const std::string& node, const LeadQuery& query, Callback<LeadState> done) {
      asked.push_back(query);
      loop.post([this, node, done] { done(nodes.at(node)); });
    };
    around.ask_store = [this](Completion done) { done(store); };
    around.hold = [this] {
      story.push_back("hold");
      loop.post([this] { hand_over->held(); });
    };
    around.resume = [this] {
      story.push_back("resume");
      loop.post([this] { hand_over->resumed(restarted); });
    };
    around.release = [this](const std::string& next) { released = next; };
    around.called_off = [this](const Error& why) { called_off = why; };
  }

  void with_database() {
    around.database = HandOver::Surroundings::Database{
        [this](const sqlite::DrainLimits&, bool seal, Completion done) {
          story.push_back(seal ? "empty" : "drain");
          loop.post([done, answer = seal ? emptied : drained] { done(answer); });
        },
        [this](std::function<void()> done) {
          story.push_back("unseal");
          done();
        },
        [] { return std::uint64_t{7}; }};
  }

  void run(HandOver::Options options = {}) {
    options.quiet = quiet;
    options.until = BootClock::now() + limit;
    hand_over = std::make_unique<HandOver>(loop, options, around);
    hand_over->begin();
    EXPECT_TRUE(loop.run_until([this] { return released || called_off; }, kNotThatLong));
  }

  Loop loop;
  HandOver::Surroundings around;
  std::map<std::string, LeadState> nodes;
  Failure store, drained, emptied, restarted;
  Duration quiet = kNotThatLong, limit = kNotThatLong;
  std::vector<LeadQuery> asked;
  std::vector<std::string> story;
  std::optional<std::string> released;
  std::optional<Error> called_off;
  std::unique_ptr<HandOver> hand_over;
};

using Story = std::vector<std::string>;

TEST_F(HandOverTest, TheFirstThatIsReadyLeadsNext) {
  nodes = {
      {"a", not_ready_state("its copy is restoring")}, {"b", ready_state()}, {"c", ready_state()}};
  run();
  EXPECT_EQ(released, "b");
  EXPECT_TRUE(asked.front().check);
}

TEST_F(HandOverTest, NobodyReadyCallsItOffWithTheReasonOfEach) {
  nodes = {{"a", not_ready_state("its copy is restoring")},
           {"b", not_ready_state("it is stopping")}};
  limit = 10ms;
  run();
  ASSERT_TRUE(called_off);
  const std::string text = called_off->what();
  EXPECT_NE(text.find("a: its copy is restoring; b: it is stopping"), std::string::npos) << text;
  EXPECT_EQ(story, Story{});
}

TEST_F(HandOverTest, OneThatIsReadyAMomentLaterIsWaitedFor) {
  nodes = {{"a", not_ready_state("it has just begun")}};
  const auto later = loop.after(1ms, [this] { nodes = {{"a", ready_state()}}; });
  run();
  EXPECT_EQ(released, "a");
}

TEST_F(HandOverTest, OnlyTheTargetIsAsked) {
  nodes = {{"a", ready_state()}, {"b", not_ready_state("it is stopping")}};
  limit = 10ms;
  run({.target = "b"});
  ASSERT_TRUE(called_off);
}

TEST_F(HandOverTest, TheDatabaseIsDrainedBeforeAndAfterTheAppIsStopped) {
  with_database();
  nodes = {{"a", ready_state()}};
  run();
  EXPECT_EQ(released, "a");
  EXPECT_EQ(story, (Story{"drain", "hold", "empty"}));
  EXPECT_EQ(asked.back().sequence, 7u);
}

TEST_F(HandOverTest, WhatCantBeSentCallsItOffBeforeTheAppIsStopped) {
  with_database();
  nodes = {{"a", ready_state()}};
  drained = Error(Errc::not_replicated, "JetStream is full");
  run();
  ASSERT_TRUE(called_off);
  EXPECT_EQ(called_off->errc(), Errc::not_replicated);
  EXPECT_EQ(story, Story{"drain"});
}

TEST_F(HandOverTest, ARestThatCantBeSentStartsTheAppAgain) {
  with_database();
  nodes = {{"a", ready_state()}};
  emptied = Error(Errc::not_replicated, "JetStream is full");
  run();
  ASSERT_TRUE(called_off);
  EXPECT_EQ(story, (Story{"drain", "hold", "empty", "unseal", "resume"}));
  EXPECT_FALSE(released);
}

TEST_F(HandOverTest, AnAppThatCantBeStartedAgainIsReported) {
  with_database();
  nodes = {{"a", ready_state()}};
  emptied = Error(Errc::not_replicated, "JetStream is full");
  restarted = Error(Errc::backend_failed, "it exits at once");
  run();
  ASSERT_TRUE(called_off);
  const std::string text = called_off->what();
  EXPECT_NE(text.find("JetStream is full"), std::string::npos) << text;
  EXPECT_NE(text.find("it exits at once"), std::string::npos) << text;
}

TEST_F(HandOverTest, ByForceItGoesOnWhateverIsInTheWay) {
  with_database();
  nodes = {{"a", not_ready_state("its copy is restoring")}};
  drained = emptied = Error(Errc::not_replicated, "JetStream is full");
  store = Error(Errc::unavailable, "no answer");
  run({.force = true});
  EXPECT_EQ(released, "");
  EXPECT_EQ(story, (Story{"drain", "hold", "empty"}));
}

TEST_F(HandOverTest, AStoreThatDoesNotAnswerCallsItOffBeforeTheAppIsStopped) {
  with_database();
  nodes = {{"a", ready_state()}};
  store = Error(Errc::unavailable, "no answer");
  run();
  ASSERT_TRUE(called_off);
  EXPECT_EQ(story, Story{"drain"});
}

TEST_F(HandOverTest, ACopyThatGetsOnIsWaitedForLongerThanOneThatDoesNot) {
  with_database();
  nodes = {{"a", ready_state(0)}};
  nodes["a"].has = false;
  quiet = 400ms;
  // It gets on for thrice as long as it may stand still.
  const auto steps = loop.every(100ms, [this] {
    if (auto& a = nodes["a"]; ++a.sequence == 12) a.has = true;
  });
  run();
  EXPECT_EQ(released, "a");
}

TEST_F(HandOverTest, ACopyThatDoesNotGetOnCallsItOff) {
  with_database();
  nodes = {{"a", ready_state(3)}};
  nodes["a"].has = false;
  quiet = 200ms;
  run();
  ASSERT_TRUE(called_off);
  const std::string text = called_off->what();
  EXPECT_NE(text.find("record 3 of the stream, not to 7"), std::string::npos) << text;
}

TEST_F(HandOverTest, CalledOffFromOutsideItDoesNothingMore) {
  with_database();
  nodes = {{"a", ready_state()}};
  Completion drain;
  around.database->drain = [&](const sqlite::DrainLimits&, bool, Completion done) {
    drain = std::move(done);
    EXPECT_TRUE(hand_over->call_off_now(Error(Errc::timeout, "late")));
  };
  run();
  ASSERT_TRUE(called_off);
  EXPECT_EQ(called_off->errc(), Errc::timeout);
  drain(std::nullopt);
  loop.run_once(0ms);
  EXPECT_EQ(story, Story{});
}

}  // namespace
}  // namespace cluster
