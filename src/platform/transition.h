// The order of promotion and demotion of one app on one node (docs/protocols.md, Promotion and
// demotion): which step is done, undone or broken off, and what follows. Pure: it runs no step
// itself. New steps (a virtual IP, announcing services) are more entries in the list of steps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/clock.h"

namespace cluster {

enum class Step {
  database,  ///< up: this node's copy is the primary; down: what it holds is stored, it follows
  backend,   ///< the program under management: up is started and healthy, down is gone
  hook,      ///< up is on_active, down is on_passive
};
const char* to_text(Step step);

struct StepPlan {
  Step step{};
  Duration up_limit{};
  Duration down_limit{};
  /// It must be down before anybody else may be told to go on: it is killed rather than given up.
  bool hard = false;
};

/// A step that is over, one way or the other.
struct StepDone {
  Step step{};
  bool up = false;  ///< else it was undone
  Duration took{};
  enum class Outcome {
    done,
    failed,  ///< it said so, or was asked to break off
    late,    ///< it did not answer within its time limit, and was given up
  } outcome{};
};

class Transition {
 public:
  enum class Phase {
    standby,
    promoting,
    active,
    demoting,
    held,  ///< what is above one step is down, and that step and those below it are up
  };

  struct Command {
    enum class Kind {
      up,      ///< begin the step; answer with finished()
      down,    ///< undo it; answer with finished()
      cancel,  ///< the step that is going up should break off; its answer is still wanted
      kill,    ///< by force and at once; no answer
    } kind{};
    Step step{};
    std::uint64_t ticket = 0;
  };

  struct Output {
    std::vector<Command> commands{};
    std::vector<StepDone> steps{};  ///< that are over, in order
    bool active = false;            ///< the promotion is complete
    bool held = false;              ///< hold() is complete: go on with demote() or resume()
    bool standby = false;           ///< the demotion is complete: nothing of the app runs here
    std::optional<std::string> failure{};  ///< with standby: why a promotion failed
  };

  /// `plan` in the order of promotion.
  explicit Transition(std::vector<StepPlan> plan) : plan_(std::move(plan)) {}

  Phase phase() const { return phase_; }
  /// The step that is under way, for people.
  std::optional<Step> current() const;
  /// Why the transition under way goes down, when something has failed.
  const std::optional<std::string>& failure() const { return failure_; }
  /// A step that was given up has not answered yet: it would be wrong to promote again.
  bool stuck() const { return !stuck_.empty(); }

  /// Only in standby, and not while stuck.
  void promote(Time now, Output& out);
  /// In order; `forced`: what is hard is killed first. In any phase; again, with force, to hurry.
  void demote(bool forced, Time now, Output& out);
  /// As demote in order, down to the step above `keep`; only when active, and with that step.
  void hold(Step keep, Time now, Output& out);
  /// Up again, only when held.
  void resume(Time now, Output& out);
  /// As demote, after something that ran has failed.
  void fail(const std::string& why, Time now, Output& out);
  /// The answer to an up or down: done, or why not.
  void finished(std::uint64_t ticket, const std::optional<std::string>& error, Time now,
                Output& out);
  /// `step`, if it is under way, gets on: its time limit begins again.
  void moves(Step step, Time now);
  void tick(Time now, Output& out);
  Time due() const { return limit_; }

 private:
  void begin_up(std::size_t index, Time now, Output& out);
  void begin_down(Time now, Output& out);
  void turn_down(Time now, Output& out);
  void kill_hard(Output& out);
  void over(StepDone::Outcome outcome, Time now, Output& out);

  std::vector<StepPlan> plan_;
  Phase phase_ = Phase::standby;
  std::size_t up_ = 0;    // steps that are up, or were begun
  std::size_t keep_ = 0;  // so many stay up for now
  bool waiting_ = false;  // for the answer to ticket_
  bool breaking_off_ = false;
  std::uint64_t ticket_ = 0;
  Time begun_{};  // the step under way
  Time limit_ = Time::max();
  std::optional<std::string> failure_;
  std::vector<std::uint64_t> stuck_;
};

}  // namespace cluster
