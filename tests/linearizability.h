// Says whether a history of operations on one key, or on one lock, can be had from something that
// does one operation at a time, each at some moment between its call and its return
// (linearizability; the search is Wing and Gong's, with a memory of what it has tried).
//
// Not for several keys at once: a history is linearizable when each key's is. What orders writes of
// all keys, their revisions, revision_fault() checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cluster::linearizability {

enum class Outcome {
  done,
  refused,  ///< it has changed nothing, since what it expects was not so
  unknown,  ///< it takes effect at any time after its call, or never
};

/// What all operations have. Times are of one clock, in nanoseconds.
struct Operation {
  std::string client{};
  std::int64_t call = 0;
  std::int64_t returned = 0;  ///< of an unknown outcome: not looked at
  Outcome outcome = Outcome::done;
};

// ---- a register with compare-and-set, as a key of a NATS bucket is one

enum class RegisterCall { get, put, create, update, remove, remove_revision };

/// One that has failed for certain is none: leave it out.
struct RegisterOperation : Operation {
  RegisterCall what = RegisterCall::get;
  std::optional<std::string> value{};  ///< written or read; none: the key is not there
  std::uint64_t revision = 0;  ///< of what was read, or of a write that was done (no removal)
  std::uint64_t expected = 0;  ///< of update and remove_revision
};

// ---- a mutex with a fencing token

enum class MutexCall {
  acquire,  ///< done: with `token`; refused: somebody else had it; unknown: with a token not known
  release,
  holds,   ///< done: its holder was sure to hold it
  expire,  ///< from `call` on its holder may lose it, at any time or never
};

struct MutexOperation : Operation {
  MutexCall what = MutexCall::acquire;
  std::uint64_t token = 0;
};

// ---- what is said of a history

struct Verdict {
  enum class Kind { linearizable, violated, undecided };
  Kind kind = Kind::linearizable;
  std::size_t steps = 0;  ///< tried
  /// Of a violation: the operation that can't be placed, with those around it.
  std::string why{};
  explicit operator bool() const { return kind == Kind::linearizable; }
};

/// The search gives up, undecided, when it has tried so many steps.
inline constexpr std::size_t kMostSteps = 3'000'000;

/// At first the key is not there. Revisions must grow from write to write.
Verdict check_register(const std::vector<RegisterOperation>& history,
                       std::size_t most_steps = kMostSteps);
/// At first it is free. Tokens must grow from holder to holder. A release of a token that may
/// expire frees it or not, as if its outcome were unknown.
Verdict check_mutex(const std::vector<MutexOperation>& history,
                    std::size_t most_steps = kMostSteps);

/// Of a bucket, all keys together: a write that was called after something had returned has a
/// higher revision than that. Empty, or what is wrong.
std::string revision_fault(const std::vector<RegisterOperation>& history);

std::string describe(const RegisterOperation& operation);
std::string describe(const MutexOperation& operation);

}  // namespace cluster::linearizability
