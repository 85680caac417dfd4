// The search behind tests/linearizability.h, for any model: which operation may come first, which
// next, and back where none can, with a memory of all that has led nowhere.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "linearizability.h"

namespace cluster::linearizability {

/// When an operation may be placed, and whether it must.
struct Placeable {
  std::int64_t call = 0;
  std::int64_t returned = 0;
  bool optional = false;  ///< at any time after its call, or never
  /// Of optional ones: those of one group (other than 0) differ in their call only, so that the
  /// first of them is as good as any.
  int group = 0;
  bool observes = false;  ///< it changes nothing, wherever it is placed
};

/// Model has a State (with ==, and append_to(std::string&), all of it) and
///   std::optional<State> step(std::size_t operation, const State&) const
///   bool over(std::size_t operation, const State&) const: it can't take effect any more, for good
///   std::string describe(std::size_t operation) const, describe(const State&) const.
template <typename Model>
class Search {
 public:
  using State = typename Model::State;

  /// `again`: optional operations may take effect more than once. What can't be even so
  /// can't be at all, and it is found soon, since nothing is to be remembered of them.
  Search(const Model& model, std::vector<Placeable> operations, bool again)
      : model_(model),
        operations_(std::move(operations)),
        again_(again),
        placed_(operations_.size(), false) {
    for (std::size_t i = 0; i < operations_.size(); ++i)
      (operations_[i].optional ? optional_ : required_).push_back(i);
    const auto by_call = [&](std::size_t a, std::size_t b) {
      return operations_[a].call < operations_[b].call;
    };
    std::stable_sort(required_.begin(), required_.end(), by_call);
    std::stable_sort(optional_.begin(), optional_.end(), by_call);
    position_.resize(operations_.size());
    for (std::size_t i = 0; i < required_.size(); ++i) position_[required_[i]] = i;
  }

  Verdict run(State state, std::size_t most_steps) {
    Verdict verdict;
    std::vector<Frame> frames;
    if (required_.empty()) return verdict;
    frames.push_back({kNone, state, candidates(state)});
    while (!frames.empty()) {
      Frame& top = frames.back();
      if (top.next == top.candidates.size()) {
        if (best_.empty() || count_ > best_count_) remember(frames);
        if (top.operation != kNone) unplace(top.operation);
        frames.pop_back();
        continue;
      }
      const std::size_t operation = top.candidates[top.next++];
      if (++verdict.steps > most_steps) {
        verdict.kind = Verdict::Kind::undecided;
        verdict.why = "undecided after " + std::to_string(most_steps) + " steps\n" + explanation();
        return verdict;
      }
      const auto after = model_.step(operation, top.state);
      if (!after) continue;
      place(operation);
      if (count_ == required_.size()) return verdict;
      if (!is_new(*after))
        unplace(operation);
      else
        frames.push_back({operation, *after, candidates(*after)});
    }
    verdict.kind = Verdict::Kind::violated;
    verdict.why = explanation();
    return verdict;
  }

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t kShownBefore = 4, kShownBeside = 12;

  struct Frame {
    std::size_t operation;  // that led here
    State state;
    std::vector<std::size_t> candidates;
    std::size_t next = 0;
  };

  // Those that may come next: called before any other that is left has returned. The optional ones
  // last, for most histories need none of them. One that only observes, and may come now,
  // need not be tried later.
  std::vector<std::size_t> candidates(const State& state) const {
    std::vector<std::size_t> found;
    std::int64_t first_return = std::numeric_limits<std::int64_t>::max();
    for (std::size_t i = first_; i < required_.size(); ++i) {
      const auto& operation = operations_[required_[i]];
      if (operation.call > first_return) break;
      if (placed_[required_[i]]) continue;
      if (operations_[required_[i]].observes && model_.step(required_[i], state) == state)
        return {required_[i]};
      first_return = std::min(first_return, operation.returned);
      found.push_back(required_[i]);
    }
    std::vector<int> groups;
    for (const std::size_t i : optional_) {
      if (operations_[i].call > first_return) break;
      const int group = operations_[i].group;
      if (placed_[i] || model_.over(i, state) ||
          (group != 0 && std::find(groups.begin(), groups.end(), group) != groups.end()))
        continue;
      found.push_back(i);
      if (group != 0) groups.push_back(group);
    }
    return found;
  }

  void place(std::size_t operation) {
    placed_[operation] = !again_ || !operations_[operation].optional;
    if (operations_[operation].optional) return;
    ++count_;
    while (first_ < required_.size() && placed_[required_[first_]]) ++first_;
  }

  void unplace(std::size_t operation) {
    placed_[operation] = false;
    if (operations_[operation].optional) return;
    --count_;
    first_ = std::min(first_, position_[operation]);
  }

  // What decides all that can follow: the required operations that are placed (all before `first_`,
  // and some behind it) and the state; and which optional ones are left.
  std::string key(const State& state) const {
    std::string text = std::to_string(first_) + '/';
    const std::size_t ahead = count_ - first_;
    for (std::size_t i = first_, found = 0; found < ahead; ++i) {
      text += placed_[required_[i]] ? '1' : '0';
      found += placed_[required_[i]];
    }
    text += '/';
    state.append_to(text);
    return text;
  }

  // Nothing is to be gained where the same has been tried with more optional ones left.
  bool is_new(const State& state) {
    std::vector<std::size_t> used;
    for (const std::size_t i : optional_)
      if (placed_[i] && !model_.over(i, state)) used.push_back(i);
    std::sort(used.begin(), used.end());
    auto& tried = seen_[key(state)];
    for (const auto& less : tried)
      if (std::includes(used.begin(), used.end(), less.begin(), less.end())) return false;
    tried.push_back(std::move(used));
    return true;
  }

  void remember(const std::vector<Frame>& frames) {
    best_count_ = count_;
    best_.clear();
    for (const auto& frame : frames) best_.push_back(frame.operation);
    best_state_ = frames.back().state;
    best_next_ = frames.back().candidates;
  }

  std::string line(std::size_t operation) const {
    const auto& o = operations_[operation];
    const auto ms = [&](std::int64_t ns) {
      std::ostringstream text;
      text << std::fixed << std::setprecision(3)
           << static_cast<double>(ns - operations_[required_.front()].call) / 1e6;
      return text.str();
    };
    return "  [" + ms(o.call) + " ms, " + (o.optional ? "open" : ms(o.returned) + " ms") + "] " +
           model_.describe(operation) + "\n";
  }

  // The longest order that was found, as far as it matters to what can't follow it.
  std::string explanation() const {
    if (best_.empty()) return {};
    std::size_t stuck = kNone;
    for (const std::size_t i : best_next_)
      if (!operations_[i].optional &&
          (stuck == kNone || operations_[i].returned < operations_[stuck].returned))
        stuck = i;
    std::string text = "can't be placed:\n" + line(stuck);
    text += "after (" + std::to_string(best_count_) + " of " + std::to_string(required_.size()) +
            " operations; the last of them, in order):\n";
    for (std::size_t i = best_.size() - std::min(best_.size(), kShownBefore); i < best_.size(); ++i)
      if (best_[i] != kNone) text += line(best_[i]);
    text += "which leaves: " + model_.describe(*best_state_) + "\n";
    std::string others;
    std::size_t shown = 0;
    for (const std::size_t i : best_next_)
      if (i != stuck && ++shown <= kShownBeside) others += line(i);
    if (!others.empty()) text += "nor can these come first, or they do not help:\n" + others;
    if (shown > kShownBeside) text += "  and " + std::to_string(shown - kShownBeside) + " others\n";
    return text;
  }

  const Model& model_;
  const std::vector<Placeable> operations_;
  const bool again_;
  std::vector<std::size_t> required_, optional_;  // in order of their calls
  std::vector<std::size_t> position_;             // of required ones, there
  std::vector<bool> placed_;
  std::size_t first_ = 0;  // of required_, that is not placed
  std::size_t count_ = 0;  // of required_, that are placed
  // Optional ones that were used up, in each attempt.
  std::unordered_map<std::string, std::vector<std::vector<std::size_t>>> seen_;
  std::vector<std::size_t> best_;
  std::size_t best_count_ = 0;
  std::optional<State> best_state_;
  std::vector<std::size_t> best_next_;
};

template <typename Model>
Verdict decide(const Model& model, std::size_t most_steps) {
  using State = typename Model::State;
  Verdict verdict = Search<Model>(model, model.placeables(), true).run(State{}, most_steps);
  if (!verdict) return verdict;
  const std::size_t steps = verdict.steps;
  verdict = Search<Model>(model, model.placeables(), false).run(State{}, most_steps);
  verdict.steps += steps;
  return verdict;
}

}  // namespace cluster::linearizability
