#include "platform/transition.h"

#include <map>
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "platform/step_times.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using Kind = Transition::Command::Kind;
using Phase = Transition::Phase;

const std::vector<StepPlan> kPlan{{Step::backend, 10s, 5s, true}, {Step::hook, 3s, 2s, false}};

Time at(Duration d) { return Time(d); }

struct Driven {
  Transition transition{kPlan};
  Transition::Output out{};
  Transition::Output take() { return std::exchange(out, {}); }
  const Transition::Command& only() {
    EXPECT_EQ(out.commands.size(), 1u);
    return out.commands.front();
  }
  void finish(std::optional<std::string> error = std::nullopt) {
    auto ticket = only().ticket;
    out = {};
    transition.finished(ticket, error, at(1s), out);
  }
};

TEST(Transition, PromotionGoesUpInOrderAndDemotionComesDownInReverse) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  EXPECT_EQ(d.only().kind, Kind::up);
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_EQ(d.only().step, Step::hook);
  d.finish();
  EXPECT_TRUE(d.out.active);
  EXPECT_EQ(d.transition.phase(), Phase::active);
  d.take();
  d.transition.demote(false, at(2s), d.out);
  EXPECT_EQ(d.only().kind, Kind::down);
  EXPECT_EQ(d.only().step, Step::hook);
  d.finish();
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_FALSE(d.out.failure);
}

TEST(Transition, AFailedStepIsUndoneTogetherWithThoseBeforeIt) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  d.finish();
  d.finish("it threw");
  EXPECT_EQ(d.only().kind, Kind::down);
  EXPECT_EQ(d.only().step, Step::hook);
  d.finish();
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_EQ(d.out.failure, "hook: it threw");
}

TEST(Transition, AForcedDemotionKillsWhatIsHardBeforeAnythingElse) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  d.finish();
  d.finish();
  d.take();
  d.transition.demote(true, at(2s), d.out);
  ASSERT_EQ(d.out.commands.size(), 2u);
  EXPECT_EQ(d.out.commands[0].kind, Kind::kill);
  EXPECT_EQ(d.out.commands[0].step, Step::backend);
  EXPECT_EQ(d.out.commands[1].kind, Kind::down);
  EXPECT_EQ(d.out.commands[1].step, Step::hook);
}

TEST(Transition, ADemotionDuringPromotionBreaksTheStepOffAndComesDown) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  auto ticket = d.take().commands.front().ticket;
  d.transition.demote(false, at(1s), d.out);
  EXPECT_EQ(d.only().kind, Kind::cancel);
  d.take();
  d.transition.finished(ticket, "broken off", at(1s), d.out);
  EXPECT_EQ(d.only().kind, Kind::down);
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_FALSE(d.out.failure) << "somebody asked for it: nothing failed";
}

TEST(Transition, AHookThatNeverReturnsIsGivenUpAndBarsTheNextPromotion) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  d.finish();
  auto hook = d.take().commands.front().ticket;
  d.transition.tick(d.transition.due(), d.out);
  ASSERT_EQ(d.out.commands.size(), 2u);
  EXPECT_EQ(d.out.commands[0].kind, Kind::cancel);
  EXPECT_EQ(d.out.commands[1].kind, Kind::down);
  auto passive = d.take().commands[1].ticket;
  d.transition.tick(d.transition.due(), d.out);
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_TRUE(d.out.failure);
  EXPECT_TRUE(d.transition.stuck());
  d.transition.finished(hook, std::nullopt, at(60s), d.out);
  EXPECT_TRUE(d.transition.stuck());
  d.transition.finished(passive, std::nullopt, at(60s), d.out);
  EXPECT_FALSE(d.transition.stuck());
}

TEST(Transition, ABackendThatDoesNotGoDownIsKilledAgainAndNeverGivenUp) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  d.finish();
  d.finish();
  d.take();
  d.transition.demote(false, at(2s), d.out);
  d.finish();
  d.take();
  for (int i = 0; i < 5; ++i) {
    d.transition.tick(d.transition.due(), d.out);
    EXPECT_EQ(d.only().kind, Kind::kill);
    EXPECT_EQ(d.transition.phase(), Phase::demoting);
    d.take();
  }
}

const std::vector<StepPlan> kWithDatabase{
    {Step::database, 10s, 5s, false}, {Step::backend, 10s, 5s, true}, {Step::hook, 3s, 2s, false}};

Driven held() {
  Driven d{.transition = Transition(kWithDatabase)};
  d.transition.promote(at(0s), d.out);
  for (int i = 0; i < 3; ++i) d.finish();
  d.take();
  d.transition.hold(Step::database, at(2s), d.out);
  EXPECT_EQ(d.only().step, Step::hook);
  d.finish();
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_TRUE(d.out.held);
  EXPECT_TRUE(d.out.commands.empty());
  EXPECT_EQ(d.transition.phase(), Phase::held);
  EXPECT_EQ(d.transition.due(), Time::max());
  d.take();
  return d;
}

TEST(Transition, WhatIsHeldGoesUpAgain) {
  Driven d = held();
  d.transition.resume(at(3s), d.out);
  EXPECT_EQ(d.only().kind, Kind::up);
  EXPECT_EQ(d.only().step, Step::backend);
  d.finish();
  EXPECT_EQ(d.only().step, Step::hook);
  d.finish();
  EXPECT_TRUE(d.out.active);
  d.take();
  d.transition.demote(false, at(4s), d.out);
  for (int i = 0; i < 3; ++i) d.finish();
  EXPECT_TRUE(d.out.standby);
}

TEST(Transition, WhatIsHeldGoesAllTheWayDown) {
  Driven d = held();
  d.transition.demote(false, at(3s), d.out);
  EXPECT_EQ(d.only().kind, Kind::down);
  EXPECT_EQ(d.only().step, Step::database);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_FALSE(d.out.failure);
}

TEST(Transition, ADemotionOnTheWayToBeHeldGoesAllTheWayDown) {
  Driven d{.transition = Transition(kWithDatabase)};
  d.transition.promote(at(0s), d.out);
  for (int i = 0; i < 3; ++i) d.finish();
  d.take();
  d.transition.hold(Step::database, at(2s), d.out);
  const auto hook = d.take().commands.front().ticket;
  d.transition.fail("lost", at(2s), d.out);
  d.transition.finished(hook, std::nullopt, at(2s), d.out);
  d.finish();
  EXPECT_EQ(d.only().step, Step::database);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_EQ(d.out.failure, "lost");
}

TEST(Transition, WhatCantGoUpAgainComesDownWithAFailure) {
  Driven d = held();
  d.transition.resume(at(3s), d.out);
  d.finish("it exits at once");
  d.finish();
  EXPECT_EQ(d.only().step, Step::database);
  d.finish();
  EXPECT_TRUE(d.out.standby);
  EXPECT_EQ(d.out.failure, "backend: it exits at once");
}

TEST(Transition, AStepThatGetsOnIsNotLate) {
  Driven d{.transition = Transition(kWithDatabase)};
  d.transition.promote(at(0s), d.out);
  d.transition.moves(Step::database, at(8s));
  EXPECT_EQ(d.transition.due(), at(18s));
  d.transition.moves(Step::backend, at(17s));
  EXPECT_EQ(d.transition.due(), at(18s)) << "it is not this that is under way";
}

std::string told(const std::vector<StepDone>& steps) {
  std::string text;
  for (const auto& field : fields_of(steps))
    text += (text.empty() ? "" : " ") + std::string(field.key) + "=" + field.value;
  return text;
}

TEST(Transition, TellsWhatEachStepTookAndHowItEnded) {
  Driven d;
  std::vector<StepDone> steps;
  auto finish = [&](Duration when, std::optional<std::string> error = std::nullopt) {
    const auto ticket = d.take().commands.back().ticket;
    d.transition.finished(ticket, error, at(when), d.out);
    steps.insert(steps.end(), d.out.steps.begin(), d.out.steps.end());
  };
  d.transition.promote(at(1s), d.out);
  finish(1700ms);
  EXPECT_EQ(told(steps), "backend_up_ms=700");
  finish(1730ms, "it threw");
  finish(1735ms);
  finish(1800ms);
  EXPECT_TRUE(d.out.standby);
  EXPECT_EQ(told(steps),
            "backend_up_ms=700 hook_up_ms=30 hook_up=failed hook_down_ms=5 backend_down_ms=65");
}

TEST(Transition, TellsOfAStepThatWasGivenUpWhatItsLimitWas) {
  Driven d;
  d.transition.promote(at(0s), d.out);
  d.finish();
  d.take();
  d.transition.tick(d.transition.due(), d.out);
  EXPECT_EQ(told(d.take().steps), "hook_up_ms=3000 hook_up=late");
}

// Whatever happens in whatever order: what went up comes down, at most one step is under way, and
// standby is reached only when every step that was begun has been undone or, unless it is hard,
// given up.
RC_GTEST_PROP(TransitionProperty, WhatGoesUpComesDown, ()) {
  Transition transition(kPlan);
  Time now{};
  std::map<std::uint64_t, Transition::Command> open;
  std::map<Step, int> balance;                 // ups begun less downs begun
  std::map<std::pair<Step, bool>, int> begun;  // each is told of once, when it is over
  bool backend_up = false;
  auto take = [&](Transition::Output& out) {
    for (const auto& done : out.steps) {
      RC_ASSERT(done.took >= Duration(0));
      RC_ASSERT((--begun[{done.step, done.up}] == 0));
    }
    for (const auto& command : out.commands) {
      if (command.kind == Kind::up || command.kind == Kind::down)
        RC_ASSERT((++begun[{command.step, command.kind == Kind::up}] == 1));
      if (command.kind == Kind::up) {
        RC_ASSERT(++balance[command.step] == 1);
        open[command.ticket] = command;
        if (command.step == Step::backend) backend_up = true;
      } else if (command.kind == Kind::down) {
        RC_ASSERT(--balance[command.step] == 0);
        open[command.ticket] = command;
      }
    }
    if (out.held) {
      RC_ASSERT(balance[Step::backend] == 1);
      RC_ASSERT(balance[Step::hook] == 0);
    }
    if (out.standby) {
      RC_ASSERT(balance[Step::backend] == 0);
      RC_ASSERT(balance[Step::hook] == 0);
      RC_ASSERT(!backend_up);
    }
  };
  auto steps = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 7));
  for (int what : steps) {
    now += 500ms;
    Transition::Output out{};
    switch (what) {
      case 0:
        if (transition.phase() == Phase::standby && !transition.stuck())
          transition.promote(now, out);
        else if (transition.phase() == Phase::active)
          transition.hold(Step::backend, now, out);
        else if (transition.phase() == Phase::held)
          transition.resume(now, out);
        break;
      case 1: transition.demote(false, now, out); break;
      case 2: transition.demote(true, now, out); break;
      case 3: transition.fail("broken", now, out); break;
      case 4:
        now = std::max(now, transition.due() == Time::max() ? now : transition.due());
        transition.tick(now, out);
        break;
      default: {
        if (open.empty()) break;
        auto it = open.begin();
        auto command = it->second;
        open.erase(it);
        if (command.kind == Kind::down && command.step == Step::backend) backend_up = false;
        transition.finished(command.ticket,
                            what == 5 ? std::nullopt : std::optional<std::string>("no"), now, out);
        break;
      }
    }
    take(out);
  }
}

}  // namespace
}  // namespace cluster
