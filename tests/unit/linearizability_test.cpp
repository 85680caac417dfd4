// The checker of histories, on histories of which it is known whether they can be.
#include "linearizability.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cluster::linearizability {
namespace {

using Kind = Verdict::Kind;

struct Times {
  std::int64_t call, returned;
};

RegisterOperation operation(Times at, RegisterCall what, Outcome outcome = Outcome::done) {
  RegisterOperation o;
  o.client = "c";
  o.call = at.call;
  o.returned = at.returned;
  o.what = what;
  o.outcome = outcome;
  return o;
}
RegisterOperation read(Times at, const std::string& value, std::uint64_t revision) {
  auto o = operation(at, RegisterCall::get);
  o.value = value;
  o.revision = revision;
  return o;
}
RegisterOperation nothing(Times at) { return operation(at, RegisterCall::get); }
RegisterOperation put(Times at, const std::string& value, std::uint64_t revision,
                      RegisterCall what = RegisterCall::put) {
  auto o = operation(at, what);
  o.value = value;
  o.revision = revision;
  return o;
}
RegisterOperation create(Times at, const std::string& value, std::uint64_t revision) {
  return put(at, value, revision, RegisterCall::create);
}
RegisterOperation update(Times at, const std::string& value, std::uint64_t expected,
                         std::uint64_t revision) {
  auto o = put(at, value, revision, RegisterCall::update);
  o.expected = expected;
  return o;
}
RegisterOperation remove(Times at) { return operation(at, RegisterCall::remove); }
RegisterOperation remove(Times at, std::uint64_t expected) {
  auto o = operation(at, RegisterCall::remove_revision);
  o.expected = expected;
  return o;
}
template <typename Operation>
Operation with(Outcome outcome, Operation o) {
  o.outcome = outcome;
  if constexpr (std::is_same_v<Operation, RegisterOperation>) o.revision = 0;
  return o;
}
template <typename Operation>
Operation unknown(Operation o) {
  return with(Outcome::unknown, std::move(o));
}
template <typename Operation>
Operation refused(Operation o) {
  return with(Outcome::refused, std::move(o));
}

MutexOperation mutex(Times at, MutexCall what, std::uint64_t token = 0) {
  MutexOperation o;
  o.client = "c";
  o.call = at.call;
  o.returned = at.returned;
  o.what = what;
  o.token = token;
  return o;
}
MutexOperation acquire(Times at, std::uint64_t token = 0) {
  return mutex(at, MutexCall::acquire, token);
}
MutexOperation release(Times at, std::uint64_t token) {
  return mutex(at, MutexCall::release, token);
}
MutexOperation holds(Times at, std::uint64_t token) { return mutex(at, MutexCall::holds, token); }
MutexOperation expire(std::int64_t from, std::uint64_t token) {
  return mutex({from, 0}, MutexCall::expire, token);
}

template <typename Operation>
Verdict check(const std::vector<Operation>& history) {
  if constexpr (std::is_same_v<Operation, RegisterOperation>)
    return check_register(history);
  else
    return check_mutex(history);
}
template <typename Operation>
void expect_good(const std::vector<Operation>& history) {
  const auto verdict = check(history);
  EXPECT_TRUE(verdict) << verdict.why;
}
template <typename Operation>
void expect_bad(const std::vector<Operation>& history) {
  EXPECT_EQ(check(history).kind, Kind::violated);
}

TEST(LinearizableRegister, OneAfterTheOtherEachSeesTheLast) {
  expect_good<RegisterOperation>({});
  expect_good<RegisterOperation>(
      {nothing({1, 2}), create({3, 4}, "a", 1), read({5, 6}, "a", 1), update({7, 8}, "b", 1, 2),
       read({9, 10}, "b", 2), remove({11, 12}, 2), nothing({13, 14}), create({15, 16}, "c", 4)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), nothing({3, 4})});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), put({3, 4}, "b", 2), read({5, 6}, "a", 1)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), read({3, 4}, "x", 1)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), read({3, 4}, "a", 2)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), remove({3, 4}), read({5, 6}, "a", 1)});
}

TEST(LinearizableRegister, WhatOverlapsMayBeInAnyOrder) {
  expect_good<RegisterOperation>(
      {put({1, 9}, "a", 2), put({2, 8}, "b", 1), read({3, 4}, "b", 1), read({5, 6}, "a", 2)});
  expect_good<RegisterOperation>({put({1, 9}, "a", 1), nothing({2, 3}), read({4, 5}, "a", 1)});
  // But not in two.
  expect_bad<RegisterOperation>({put({1, 9}, "a", 1), read({2, 3}, "a", 1), nothing({4, 5})});
  expect_bad<RegisterOperation>(
      {put({0, 9}, "a", 1), put({0, 9}, "b", 2), read({1, 2}, "b", 2), read({3, 4}, "a", 1)});
}

TEST(LinearizableRegister, RevisionsOnlyGrow) {
  expect_bad<RegisterOperation>({put({1, 2}, "a", 2), put({3, 4}, "b", 1)});
  expect_bad<RegisterOperation>({put({1, 9}, "a", 1), put({2, 8}, "b", 1)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 5), remove({3, 4}), put({5, 6}, "b", 5)});
  expect_bad<RegisterOperation>(
      {put({1, 2}, "a", 5), unknown(put({3, 4}, "b", 0)), read({5, 6}, "b", 4)});
}

TEST(LinearizableRegister, OfTwoUpdatesOfOneRevisionOneIsRefused) {
  expect_good<RegisterOperation>({put({1, 2}, "a", 1), update({3, 6}, "b", 1, 2),
                                  refused(update({4, 5}, "c", 1, 0)), read({7, 8}, "b", 2)});
  expect_bad<RegisterOperation>(
      {put({1, 2}, "a", 1), update({3, 6}, "b", 1, 2), update({4, 5}, "c", 1, 3)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), refused(update({3, 4}, "b", 1, 0))});
  expect_bad<RegisterOperation>({create({1, 2}, "a", 1), create({3, 4}, "b", 2)});
  expect_bad<RegisterOperation>({refused(create({1, 2}, "a", 0))});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), put({3, 4}, "b", 2), remove({5, 6}, 1)});
  expect_bad<RegisterOperation>({put({1, 2}, "a", 1), refused(remove({3, 4}, 1))});
}

TEST(LinearizableRegister, AnUnknownOutcomeTakesEffectOnceAtAnyTimeOrNever) {
  const auto lost = unknown(put({3, 4}, "b", 0));
  const auto first = put({1, 2}, "a", 1);
  expect_good<RegisterOperation>({first, lost, read({5, 6}, "a", 1), read({7, 8}, "a", 1)});
  expect_good<RegisterOperation>({first, lost, read({5, 6}, "a", 1), read({7, 8}, "b", 2)});
  // Nothing that a client has read tells why it is refused, but this.
  expect_good<RegisterOperation>({first, lost, refused(update({5, 6}, "c", 1, 0))});
  expect_good<RegisterOperation>(
      {first, unknown(remove({3, 4})), refused(update({5, 6}, "c", 1, 0)), nothing({7, 8})});
  expect_bad<RegisterOperation>({first, lost, read({5, 6}, "b", 2), read({7, 8}, "a", 1)});
  expect_bad<RegisterOperation>(
      {first, lost, read({5, 6}, "b", 2), put({7, 8}, "c", 3), read({9, 10}, "b", 4)});
  expect_bad<RegisterOperation>({first, read({2, 3}, "b", 2), unknown(put({4, 5}, "b", 0))});
  expect_bad<RegisterOperation>({first, unknown(update({3, 4}, "b", 7, 0)), read({5, 6}, "b", 8)});
}

TEST(LinearizableRegister, RevisionsOrderTheWritesOfAllKeys) {
  EXPECT_EQ(revision_fault({put({1, 2}, "a", 1), put({3, 6}, "b", 3), put({4, 5}, "c", 2)}), "");
  EXPECT_NE(revision_fault({put({1, 2}, "a", 2), put({3, 4}, "b", 1)}), "");
  EXPECT_NE(revision_fault({read({1, 2}, "a", 2), put({3, 4}, "b", 2)}), "");
  EXPECT_NE(revision_fault({put({1, 4}, "a", 2), put({2, 3}, "b", 2)}), "");
}

TEST(LinearizableMutex, OneHoldsItAtATimeAndTokensGrow) {
  expect_good<MutexOperation>({acquire({1, 2}, 5), holds({3, 4}, 5), release({5, 8}, 5),
                               acquire({3, 9}, 7), release({10, 11}, 7)});
  expect_bad<MutexOperation>({acquire({1, 2}, 5), acquire({3, 4}, 7)});
  expect_bad<MutexOperation>({acquire({1, 2}, 5), release({3, 4}, 5), holds({5, 6}, 5)});
  expect_bad<MutexOperation>(
      {acquire({1, 2}, 5), acquire({3, 4}, 7), holds({5, 6}, 5), release({7, 8}, 5)});
  for (const std::uint64_t token : {4, 5})
    expect_bad<MutexOperation>({acquire({1, 2}, 5), release({3, 4}, 5), acquire({5, 6}, token)});
}

TEST(LinearizableMutex, ItIsRefusedOnlyWhereSomebodyHasIt) {
  expect_good<MutexOperation>({acquire({1, 2}, 5), refused(acquire({3, 4})), release({5, 6}, 5)});
  expect_bad<MutexOperation>({acquire({1, 2}, 5), release({3, 4}, 5), refused(acquire({5, 6}))});
  // One that timed out may have had it for a moment.
  expect_good<MutexOperation>({unknown(acquire({1, 2})), refused(acquire({3, 4})),
                               acquire({5, 6}, 7), refused(acquire({7, 8})), release({9, 10}, 7)});
  expect_bad<MutexOperation>({refused(acquire({1, 2})), unknown(acquire({3, 4}))});
  expect_bad<MutexOperation>({unknown(acquire({1, 2})), refused(acquire({3, 4})),
                              acquire({5, 6}, 7), release({7, 8}, 7), refused(acquire({9, 10}))});
}

TEST(LinearizableMutex, WhoseSessionEndsMayLoseItFromThenOn) {
  const auto first = acquire({1, 2}, 5), second = acquire({4, 6}, 7);
  expect_good<MutexOperation>({first, expire(3, 5), second});
  expect_good<MutexOperation>({first, expire(5, 5), second});
  expect_bad<MutexOperation>({first, expire(7, 5), second});
  expect_bad<MutexOperation>({first, expire(3, 9), second});
  // It need not lose it at once, but once it has it is over.
  expect_good<MutexOperation>({first, expire(0, 5), holds({3, 5}, 5), second});
  expect_bad<MutexOperation>({first, expire(3, 5), second, holds({7, 8}, 5)});
  // Its release comes to nothing then; or it came first.
  expect_good<MutexOperation>({first, expire(3, 5), second, release({8, 9}, 5), holds({9, 10}, 7)});
  expect_good<MutexOperation>({first, release({2, 3}, 5), expire(8, 5), second});
}

TEST(LinearizableMutex, AReleaseOfUnknownOutcomeMayComeLate) {
  expect_good<MutexOperation>({acquire({1, 2}, 5), unknown(release({3, 4}, 5)),
                               refused(acquire({5, 6})), acquire({7, 8}, 9)});
  expect_bad<MutexOperation>({acquire({1, 2}, 5), unknown(release({4, 5}, 5)), acquire({2, 3}, 9)});
}

// ---- short histories, decided by trying every order

/// What a register does, as plainly as can be said.
class Plain {
 public:
  explicit Plain(std::vector<RegisterOperation> history)
      : history_(std::move(history)), placed_(history_.size(), false) {}
  bool possible() { return place_next(std::nullopt, 0, true); }

 private:
  // The value that is there, its revision, and whether that is known; else it is above.
  bool place_next(const std::optional<std::string>& value, std::uint64_t revision, bool exact) {
    std::int64_t first_return = std::numeric_limits<std::int64_t>::max();
    bool left = false;
    for (std::size_t i = 0; i < history_.size(); ++i)
      if (!placed_[i] && history_[i].outcome != Outcome::unknown) {
        left = true;
        first_return = std::min(first_return, history_[i].returned);
      }
    if (!left) return true;
    for (std::size_t i = 0; i < history_.size(); ++i) {
      if (placed_[i] || history_[i].call > first_return) continue;
      placed_[i] = true;
      if (place(history_[i], value, revision, exact)) return true;
      placed_[i] = false;
    }
    return false;
  }

  bool place(const RegisterOperation& o, const std::optional<std::string>& value,
             std::uint64_t revision, bool exact) {
    const bool fits = exact ? o.expected == revision : o.expected > revision;
    const bool is_refused = o.outcome == Outcome::refused;
    std::uint64_t at_least = revision;
    switch (o.what) {
      case RegisterCall::get:
        if (o.value != value) return false;
        if (!value) return place_next(value, revision, exact);
        if (exact ? o.revision != revision : o.revision <= revision) return false;
        return place_next(value, o.revision, true);
      case RegisterCall::create:
        if (is_refused) return value && place_next(value, revision, exact);
        if (value) return false;
        break;
      case RegisterCall::update:
      case RegisterCall::remove_revision:
        if (is_refused) return !(exact && fits) && place_next(value, revision, exact);
        if (!fits) return false;
        at_least = o.expected;
        break;
      case RegisterCall::put:
      case RegisterCall::remove: break;
    }
    if (o.revision == 0) return place_next(o.value, at_least, false);
    return o.revision > at_least && place_next(o.value, o.revision, true);
  }

  const std::vector<RegisterOperation> history_;
  std::vector<bool> placed_;
};

TEST(LinearizableRegister, ShortHistoriesAreDecidedAsByTryingEveryOrder) {
  int good = 0, bad = 0;
  for (unsigned seed = 1; seed <= 10'000; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](int limit) {
      return std::uniform_int_distribution(0, limit - 1)(random);
    };
    std::vector<RegisterOperation> history;
    for (int i = 0, count = 3 + below(5); i < count; ++i) {
      const std::int64_t call = below(12);
      auto& o = history.emplace_back(
          operation({call, call + below(8)}, static_cast<RegisterCall>(below(6))));
      o.outcome = static_cast<Outcome>(below(3));
      const bool conditional = o.what == RegisterCall::create || o.what == RegisterCall::update ||
                               o.what == RegisterCall::remove_revision;
      if (o.what == RegisterCall::get || (o.outcome == Outcome::refused && !conditional))
        o.outcome = Outcome::done;
      if (o.what == RegisterCall::put || o.what == RegisterCall::create ||
          o.what == RegisterCall::update || (o.what == RegisterCall::get && below(3) != 0))
        o.value = std::string(1, static_cast<char>('a' + below(5)));
      if (o.value && o.outcome == Outcome::done)
        o.revision = static_cast<std::uint64_t>(1 + below(5));
      if (o.what == RegisterCall::update || o.what == RegisterCall::remove_revision)
        o.expected = static_cast<std::uint64_t>(1 + below(4));
    }
    const bool possible = Plain(history).possible();
    ++(possible ? good : bad);
    const auto verdict = check_register(history);
    std::string text;
    for (const auto& o : history)
      text += "[" + std::to_string(o.call) + ", " + std::to_string(o.returned) + "] " +
              describe(o) + "\n";
    ASSERT_EQ(verdict.kind, possible ? Kind::linearizable : Kind::violated)
        << "seed " << seed << ":\n"
        << text << verdict.why;
  }
  EXPECT_GT(good, 1'000);
  EXPECT_GT(bad, 1'000);
}

// ---- long histories, as clients of something that is right would write them down

constexpr int kClients = 8;

/// Each client has one operation under way at a time; somewhere in between it takes effect.
class Clients {
 public:
  explicit Clients(unsigned seed) : random(seed) {}
  int below(int limit) { return std::uniform_int_distribution(0, limit - 1)(random); }
  /// Calls `act` for each operation at the moment at which it takes effect, in order.
  void run(int operations, const std::function<void(int client, Times)>& act) {
    struct Next {
      Times at;
      std::int64_t effect;
    };
    std::vector<Next> next(kClients);
    const auto plan = [&](Next& one, std::int64_t from) {
      const std::int64_t span = 2 + below(100);
      one.at = {from + 1 + below(20), 0};
      one.at.returned = one.at.call + span;
      one.effect = one.at.call + 1 + below(static_cast<int>(span) - 1);
    };
    for (auto& one : next) plan(one, 0);
    for (int i = 0; i < operations; ++i) {
      auto first = std::min_element(next.begin(), next.end(), [](const Next& a, const Next& b) {
        return a.effect < b.effect;
      });
      act(static_cast<int>(first - next.begin()), first->at);
      plan(*first, first->at.returned);
    }
  }

  std::mt19937 random;
};

std::vector<RegisterOperation> long_register_history(unsigned seed, int operations) {
  Clients clients(seed);
  std::vector<RegisterOperation> history;
  std::optional<std::string> value;
  std::uint64_t revision = 0, last = 0;
  std::vector<std::uint64_t> known(kClients, 1);
  clients.run(operations, [&](int client, Times at) {
    auto& o = history.emplace_back(operation(at, static_cast<RegisterCall>(clients.below(6))));
    o.client = std::to_string(client);
    const auto mine = static_cast<std::size_t>(client);
    const bool lost = o.what != RegisterCall::get && clients.below(40) == 0;
    if (o.what != RegisterCall::get && o.what != RegisterCall::remove &&
        o.what != RegisterCall::remove_revision)
      o.value = std::to_string(history.size());
    if (o.what == RegisterCall::update || o.what == RegisterCall::remove_revision) {
      o.expected = known[mine];
      if (o.expected != revision) o.outcome = Outcome::refused;
    }
    if (o.what == RegisterCall::create && value) o.outcome = Outcome::refused;
    const bool effective = o.outcome == Outcome::done && (!lost || clients.below(2) == 0);
    if (o.what == RegisterCall::get) {
      o.value = value;
      if (value) o.revision = known[mine] = revision;
    } else if (effective) {
      value = o.value;
      revision = ++last;
      if (value && !lost) o.revision = known[mine] = revision;
    }
    if (lost) o.outcome = Outcome::unknown;
  });
  return history;
}

TEST(LinearizableRegister, LongHistoriesAreDecidedInFewSteps) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    constexpr int kOperations = 6'000;
    auto history = long_register_history(seed, kOperations);
    const auto verdict = check_register(history);
    EXPECT_TRUE(verdict) << "seed " << seed << ": " << verdict.why;
    EXPECT_LT(verdict.steps, 100u * kOperations);
    EXPECT_EQ(revision_fault(history), "");
    // One read, late, that sees what was there much earlier.
    std::optional<std::size_t> late;
    const RegisterOperation* early = nullptr;
    for (std::size_t i = 0; i < history.size(); ++i) {
      if (history[i].what != RegisterCall::get || !history[i].value) continue;
      if (i < 4'000) early = &history[i];
      if (i > 5'000 && !late) late = i;
    }
    ASSERT_TRUE(early && late);
    history[*late].value = early->value;
    history[*late].revision = early->revision;
    const auto bad = check_register(history);
    EXPECT_EQ(bad.kind, Kind::violated) << "seed " << seed << ", " << bad.steps << " steps";
    EXPECT_NE(bad.why.find("can't be placed:"), std::string::npos);
  }
}

std::vector<MutexOperation> long_mutex_history(unsigned seed, int operations) {
  Clients clients(seed);
  std::vector<MutexOperation> history;
  std::uint64_t holder = 0, last = 0;
  std::vector<std::uint64_t> tokens(kClients, 0);
  clients.run(operations, [&](int client, Times at) {
    auto& mine = tokens[static_cast<std::size_t>(client)];
    if (mine == 0) {
      auto& o = history.emplace_back(acquire(at));
      if (clients.below(20) == 0) {
        o.outcome = Outcome::unknown;
      } else if (holder != 0) {
        o.outcome = Outcome::refused;
      } else {
        o.token = mine = holder = last += 1 + static_cast<std::uint64_t>(clients.below(3));
      }
    } else if (clients.below(3) == 0) {
      history.push_back(holds(at, mine));
    } else if (clients.below(10) == 0) {
      history.push_back(expire(at.call, mine));
      mine = holder = 0;
    } else {
      history.push_back(release(at, mine));
      if (clients.below(20) == 0) history.back().outcome = Outcome::unknown;
      mine = holder = 0;
    }
  });
  return history;
}

TEST(LinearizableMutex, LongHistoriesAreDecidedInFewSteps) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    constexpr int kOperations = 6'000;
    auto history = long_mutex_history(seed, kOperations);
    const auto verdict = check_mutex(history);
    EXPECT_TRUE(verdict) << "seed " << seed << ": " << verdict.why;
    EXPECT_LT(verdict.steps, 100u * kOperations);
    // One is let in while another has it.
    const auto held = std::find_if(history.begin() + 4'000, history.end(), [](const auto& o) {
      return o.what == MutexCall::release && o.outcome == Outcome::done;
    });
    ASSERT_NE(held, history.end());
    for (auto& o : history)
      if (o.what == MutexCall::acquire && o.token == held->token) held->call = o.returned;
    auto intruder = holds({held->call, held->returned}, held->token - 1);
    intruder.call = intruder.returned = held->returned;
    history.push_back(intruder);
    EXPECT_EQ(check_mutex(history).kind, Kind::violated) << "seed " << seed;
  }
}

TEST(Linearizability, AViolationIsExplainedByWhatIsAroundIt) {
  std::vector<RegisterOperation> history;
  for (int i = 1; i <= 500; ++i)
    history.push_back(put({i * 10, i * 10 + 5}, "v" + std::to_string(i), i));
  auto stale = read({2'507, 2'509}, "v100", 100);
  stale.client = "late";
  history.push_back(stale);
  const auto verdict = check_register(history);
  ASSERT_EQ(verdict.kind, Kind::violated);
  EXPECT_NE(verdict.why.find("can't be placed:\n  [0.002 ms, 0.002 ms] late: get -> \"v100\""),
            std::string::npos)
      << verdict.why;
  EXPECT_NE(verdict.why.find("put \"v250\""), std::string::npos) << verdict.why;
  EXPECT_NE(verdict.why.find("which leaves: \"v250\", revision 250"), std::string::npos)
      << verdict.why;
  EXPECT_EQ(verdict.why.find("v240"), std::string::npos) << "far from it: " << verdict.why;
  EXPECT_EQ(verdict.why.find("v251"), std::string::npos) << "far from it: " << verdict.why;
}

TEST(Linearizability, WhatTakesTooLongIsUndecided) {
  const auto verdict = check_register(long_register_history(1, 1'000), 100);
  EXPECT_EQ(verdict.kind, Kind::undecided);
  EXPECT_FALSE(verdict);
}

}  // namespace
}  // namespace cluster::linearizability
