#include "linearizability.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "linearizability_search.h"

namespace cluster::linearizability {
namespace {

constexpr int kPuts = 1, kCreates = 2, kRemovals = 3;       // groups of a register's operations
constexpr int kUnknownHolders = 1, kUnknownHoldersEnd = 2;  // of a mutex's
constexpr int kUnread = -1;  // the value of all writes that nobody has read

bool writes_value(RegisterCall call) {
  return call == RegisterCall::put || call == RegisterCall::create || call == RegisterCall::update;
}

bool expects(RegisterCall call) {
  return call == RegisterCall::update || call == RegisterCall::remove_revision;
}

const char* text_of(RegisterCall call) {
  switch (call) {
    case RegisterCall::get: return "get";
    case RegisterCall::put: return "put";
    case RegisterCall::create: return "create";
    case RegisterCall::update: return "update";
    case RegisterCall::remove: return "remove";
    case RegisterCall::remove_revision: return "remove_revision";
  }
  return "";
}

const char* text_of(MutexCall call) {
  switch (call) {
    case MutexCall::acquire: return "acquire";
    case MutexCall::release: return "release";
    case MutexCall::holds: return "holds";
    case MutexCall::expire: return "may lose";
  }
  return "";
}

const char* text_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::done: return "done";
    case Outcome::refused: return "refused";
    case Outcome::unknown: return "unknown";
  }
  return "";
}

class RegisterModel {
 public:
  struct State {
    int value = 0;               // index; 0: not there; or kUnread
    std::uint64_t revision = 0;  // the newest that is known
    bool exact = true;           // it is that of `value`
    std::uint64_t written = 0;   // of the last write with a known revision
    bool operator==(const State&) const = default;
    void append_to(std::string& text) const {
      text += std::to_string(value) + ' ' + std::to_string(revision) + (exact ? '=' : '<') +
              std::to_string(written);
    }
  };

  explicit RegisterModel(std::vector<RegisterOperation> history) : history_(std::move(history)) {
    reveal();
    std::set<std::uint64_t> revisions;
    for (std::size_t i = 0; i < history_.size(); ++i)
      if (revision_of(i) != 0) revisions.insert(revision_of(i));
    for (std::size_t i = 0; i < history_.size(); ++i) {
      const auto& o = history_[i];
      const auto at = revisions.find(revision_of(i));
      previous_.push_back(at == revisions.end() || at == revisions.begin() ? 0 : *std::prev(at));
      const bool unread = o.outcome == Outcome::unknown && unique_[i] && revealed_[i] == 0;
      values_.push_back(!o.value ? 0
                        : unread ? kUnread
                                 : index_of_.try_emplace(*o.value, next_index()).first->second);
    }
  }

  std::vector<Placeable> placeables() const {
    std::vector<Placeable> all;
    for (std::size_t i = 0; i < history_.size(); ++i) {
      const auto& o = history_[i];
      int group = 0;
      if (o.outcome == Outcome::unknown && values_[i] == kUnread)
        group = o.what == RegisterCall::put ? kPuts : o.what == RegisterCall::create ? kCreates : 0;
      if (o.outcome == Outcome::unknown && o.what == RegisterCall::remove) group = kRemovals;
      const bool observes = o.what == RegisterCall::get || o.outcome == Outcome::refused;
      all.push_back({o.call, o.returned, o.outcome == Outcome::unknown, group, observes});
    }
    return all;
  }

  bool over(std::size_t i, const State& state) const {
    const auto& o = history_[i];
    if (revealed_[i] != 0 && revealed_[i] <= state.revision) return true;
    if (!expects(o.what)) return false;
    return o.expected < state.revision || (o.expected == state.revision && !state.exact);
  }

  std::optional<State> step(std::size_t i, const State& state) const {
    const auto& o = history_[i];
    const bool as_expected =
        state.exact ? o.expected == state.revision : o.expected > state.revision;
    switch (o.what) {
      case RegisterCall::get: return read(i, state);
      case RegisterCall::put: return write(i, state);
      case RegisterCall::create:
        if (o.outcome == Outcome::refused)
          return state.value != 0 ? std::optional(state) : std::nullopt;
        return state.value == 0 ? write(i, state) : std::nullopt;
      case RegisterCall::update:
      case RegisterCall::remove_revision:
        if (o.outcome == Outcome::refused)
          return !state.exact || !as_expected ? std::optional(state) : std::nullopt;
        if (!as_expected) return std::nullopt;
        return o.what == RegisterCall::update ? write(i, state) : removed(state, o.expected);
      case RegisterCall::remove: return removed(state, 0);
    }
    return std::nullopt;
  }

  std::string describe(std::size_t i) const {
    return linearizability::describe(history_[i]) +
           (revealed_[i] ? " (read with revision " + std::to_string(revealed_[i]) + ")" : "");
  }

  std::string describe(const State& state) const {
    std::string text = state.value == kUnread ? "a value that nobody has read" : "nothing there";
    for (const auto& [value, index] : index_of_)
      if (index == state.value) text = '"' + value + '"';
    return text + (state.exact ? ", revision " : ", a revision above ") +
           std::to_string(state.revision);
  }

 private:
  int next_index() const { return static_cast<int>(index_of_.size()) + 1; }

  // What became of a write, where that is unknown, a read of its value tells.
  void reveal() {
    std::map<std::string, int> writers;
    std::map<std::string, std::uint64_t> read;
    for (const auto& o : history_) {
      if (!o.value) continue;
      if (writes_value(o.what)) ++writers[*o.value];
      if (o.what == RegisterCall::get) read[*o.value] = o.revision;
    }
    for (const auto& o : history_) {
      const bool unique = o.value && writes_value(o.what) && writers[*o.value] == 1;
      unique_.push_back(unique);
      const bool told = unique && o.outcome == Outcome::unknown && read.contains(*o.value);
      revealed_.push_back(told ? read[*o.value] : 0);
    }
  }

  // Of a write: 0 where it is not known.
  std::uint64_t revision_of(std::size_t i) const {
    const auto& o = history_[i];
    return writes_value(o.what) && o.outcome == Outcome::done ? o.revision : revealed_[i];
  }

  std::optional<State> read(std::size_t i, State state) const {
    const auto& o = history_[i];
    if (values_[i] != state.value) return std::nullopt;
    if (!o.value) return state;
    if (state.exact ? o.revision != state.revision : o.revision <= state.revision)
      return std::nullopt;
    state.revision = o.revision;
    state.exact = true;
    return state;
  }

  std::optional<State> write(std::size_t i, State state) const {
    const std::uint64_t revision = revision_of(i);
    state.value = values_[i];
    if (history_[i].what == RegisterCall::update)
      state.revision = std::max(state.revision, history_[i].expected);
    if (revision == 0) {
      state.exact = false;
      return state;
    }
    // One with a smaller revision could never follow.
    if (revision <= state.revision || state.written != previous_[i]) return std::nullopt;
    state.revision = state.written = revision;
    state.exact = true;
    return state;
  }

  // A removal has a revision too, which nobody is told.
  static State removed(State state, std::uint64_t expected) {
    state.value = 0;
    state.exact = false;
    state.revision = std::max(state.revision, expected);
    return state;
  }

  const std::vector<RegisterOperation> history_;
  std::vector<bool> unique_;             // no other writes its value
  std::vector<std::uint64_t> revealed_;  // by a read: the revision of a write of unknown outcome
  std::vector<std::uint64_t> previous_;  // known revision of a write
  std::vector<int> values_;
  std::map<std::string, int> index_of_;
};

class MutexModel {
 public:
  struct State {
    std::uint64_t holder = 0;  // its token; 0: nobody
    std::uint64_t last = 0;    // token
    bool somebody = false;     // an acquire of unknown outcome has it
    bool noticed = false;      // which another operation tells
    bool operator==(const State&) const = default;
    void append_to(std::string& text) const {
      text += std::to_string(holder) + ' ' + std::to_string(last);
      text += somebody ? (noticed ? "!" : "?") : "";
    }
  };

  explicit MutexModel(const std::vector<MutexOperation>& history) {
    std::set<std::uint64_t> tokens;
    for (const auto& o : history) {
      if (o.what == MutexCall::expire) expiring_.insert(o.token);
      if (o.what == MutexCall::acquire && o.outcome == Outcome::done) tokens.insert(o.token);
    }
    for (const auto& o : history) {
      const auto at = tokens.find(o.token);
      const auto previous = at == tokens.end() || at == tokens.begin() ? 0 : *std::prev(at);
      operations_.push_back({o, false, previous});
      // Whoever may have it unknown to us may give it back at any time.
      if (o.what == MutexCall::acquire && o.outcome == Outcome::unknown)
        operations_.push_back({o, true, 0});
    }
  }

  std::vector<Placeable> placeables() const {
    std::vector<Placeable> all;
    for (const auto& [o, gives_back, previous] : operations_) {
      const bool unknown = o.outcome == Outcome::unknown || o.what == MutexCall::expire ||
                           (o.what == MutexCall::release && expiring_.contains(o.token));
      int group = 0;
      if (o.what == MutexCall::acquire && unknown)
        group = gives_back ? kUnknownHoldersEnd : kUnknownHolders;
      const bool observes = o.what == MutexCall::holds || o.outcome == Outcome::refused;
      all.push_back({o.call, o.returned, unknown, group, observes});
    }
    return all;
  }

  bool over(std::size_t i, const State& state) const {
    const auto& o = operations_[i].operation;
    return o.what != MutexCall::acquire &&
           (o.token < state.last || (o.token == state.last && o.token != state.holder));
  }

  std::optional<State> step(std::size_t i, State state) const {
    const auto& [o, gives_back, previous] = operations_[i];
    const bool free = state.holder == 0 && !state.somebody;
    if (gives_back) {
      if (!state.somebody || !state.noticed) return std::nullopt;
      state.somebody = state.noticed = false;
    } else if (o.what != MutexCall::acquire) {
      if (state.holder != o.token) return std::nullopt;
      if (o.what != MutexCall::holds) state.holder = 0;
    } else if (o.outcome == Outcome::refused) {
      if (free) return std::nullopt;
      state.noticed = state.somebody;
    } else if (!free) {
      return std::nullopt;
    } else if (o.outcome == Outcome::unknown) {
      state.somebody = true;
    } else {
      // One with a smaller token could never follow.
      if (o.token <= state.last || state.last != previous) return std::nullopt;
      state.holder = state.last = o.token;
    }
    return state;
  }

  std::string describe(std::size_t i) const {
    return linearizability::describe(operations_[i].operation) +
           (operations_[i].gives_back ? ", given back" : "");
  }

  static std::string describe(const State& state) {
    return (state.somebody      ? "held by one whose acquire has not been answered"
            : state.holder == 0 ? std::string("free")
                                : "held with token " + std::to_string(state.holder)) +
           "; the last token is " + std::to_string(state.last);
  }

 private:
  struct Placed {
    MutexOperation operation;
    bool gives_back;
    std::uint64_t previous;  // token that was handed out
  };
  std::vector<Placed> operations_;
  std::set<std::uint64_t> expiring_;
};

}  // namespace

Verdict check_register(const std::vector<RegisterOperation>& history, std::size_t most_steps) {
  // A read that came to nothing tells nothing.
  std::vector<RegisterOperation> told;
  for (const auto& o : history)
    if (o.what != RegisterCall::get || o.outcome == Outcome::done) told.push_back(o);
  const RegisterModel model(std::move(told));
  return decide(model, most_steps);
}

Verdict check_mutex(const std::vector<MutexOperation>& history, std::size_t most_steps) {
  const MutexModel model(history);
  return decide(model, most_steps);
}

std::string revision_fault(const std::vector<RegisterOperation>& history) {
  std::vector<const RegisterOperation*> by_return, by_call;
  for (const auto& o : history) {
    if (o.outcome != Outcome::done || o.revision == 0) continue;
    by_return.push_back(&o);
    if (o.what != RegisterCall::get) by_call.push_back(&o);
  }
  std::sort(by_return.begin(), by_return.end(),
            [](const auto* a, const auto* b) { return a->returned < b->returned; });
  std::sort(by_call.begin(), by_call.end(),
            [](const auto* a, const auto* b) { return a->call < b->call; });
  std::map<std::uint64_t, const RegisterOperation*> writers;
  const RegisterOperation* highest = nullptr;
  auto returned = by_return.begin();
  for (const auto* write : by_call) {
    for (; returned != by_return.end() && (*returned)->returned < write->call; ++returned)
      if (highest == nullptr || (*returned)->revision > highest->revision) highest = *returned;
    if (highest != nullptr && highest->revision >= write->revision)
      return "came later, with a revision that is not higher: " + describe(*write) + ", after " +
             describe(*highest);
    if (const auto [at, is_new] = writers.emplace(write->revision, write); !is_new)
      return "two writes with one revision: " + describe(*write) + ", and " + describe(*at->second);
  }
  return {};
}

std::string describe(const RegisterOperation& o) {
  std::string text = o.client + ": " + text_of(o.what);
  if (writes_value(o.what) && o.value) text += " \"" + *o.value + '"';
  if (expects(o.what)) text += " expecting revision " + std::to_string(o.expected);
  if (o.what == RegisterCall::get)
    return text + " -> " +
           (o.value ? '"' + *o.value + "\", revision " + std::to_string(o.revision) : "nothing");
  text += std::string(" -> ") + text_of(o.outcome);
  return o.revision != 0 ? text + ", revision " + std::to_string(o.revision) : text;
}

std::string describe(const MutexOperation& o) {
  std::string text = o.client + ": " + text_of(o.what);
  if (o.token != 0) text += " token " + std::to_string(o.token);
  return o.what == MutexCall::acquire || o.what == MutexCall::release
             ? text + " -> " + text_of(o.outcome)
             : text;
}

}  // namespace cluster::linearizability
