// One lock, semaphore or barrier as this node takes part in it: what its claims want, when they
// have it, how they give it up (docs/protocols.md, Locks). Pure.
//
// All that is known of a lock stands in one record, changed only by compare-and-set. Whoever wants
// something of it computes what should stand there next (evolved()) and writes that: the ended are
// removed, who leaves is, who is new waits behind the others, and whoever there is room for becomes
// a holder. So one write takes a free lock, and one write hands it over.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coord/session_owner.h"
#include "coord/session_view.h"

namespace cluster::coord {

/// What somebody on this node wants of a lock.
struct LockClaim {
  std::uint64_t id = 0;  ///< unique in this process
  std::string key{};
  LockKind kind = LockKind::lock;
  int limit = 1;
  bool wait = true;      ///< else it is answered at once: granted or held
  bool watches = false;  ///< see LockParty
  std::int64_t asked_ms = 0;
  std::string note{};
};

/// What becomes of a claim. All but `granted` end it.
struct LockNews {
  enum class What {
    granted,   ///< it holds the lock, with this token
    held,      ///< somebody else does, and the claim does not wait
    opened,    ///< the barrier is open
    full,      ///< too many wait
    mismatch,  ///< the others use that name for another kind of lock, or with another limit
    lost,      ///< its session has ended, or somebody took the lock away by force
    released,  ///< a release is complete, or the claim was withdrawn
  };
  std::uint64_t claim = 0;
  What what = What::released;
  Revision token = 0;
  std::string text{};  ///< of held and mismatch: who holds it, what it is
};

class Lock {
 public:
  static constexpr std::size_t kMostWaiters = 500;

  struct Context {
    const SessionOwner& session;
    const SessionView& view;
    const SessionTiming& timing;
    const std::function<double()>& random;  ///< in [0, 1), for backing off
  };
  struct Output {
    std::vector<LockNews> news{};
    struct Write {
      std::uint64_t id = 0;
      Revision expected = 0;
      LockRecord record{};
    };
    std::optional<Write> write{};        ///< compare-and-set; answer with on_write()
    bool read = false;                   ///< answer with on_read(), or not at all
    std::vector<std::string> to_tell{};  ///< nodes that record() at rev() is news for
  };

  explicit Lock(std::string key) { record_.key = std::move(key); }

  void claim(LockClaim claim);
  /// Gives a claim up, whether it holds the lock or not. `open`: opens the barrier that it holds.
  void release(std::uint64_t claim, bool open, const Context& context, Output& out);
  /// The record as the store has it; none: it was never written, or was removed at `rev`.
  void on_read(Revision rev, const std::optional<LockRecord>& record, const Context& context,
               Time now, Output& out);
  /// Another node has written it.
  void on_notice(Revision rev, const LockRecord& record, const Context& context, Time now,
                 Output& out);
  void on_write(std::uint64_t id, WriteOutcome outcome, Revision stored, const Context& context,
                Time now, Output& out);
  void on_session_ended(Output& out);
  /// What is known may be old: notices may have been missed.
  void doubt() { doubted_ = true; }
  void tick(const Context& context, Time now, Output& out);
  Time due() const { return due_; }

  bool holds(std::uint64_t claim) const;
  /// All claims have what they want, and nothing is under way: only others change that.
  bool settled() const;
  /// Nothing is wanted, nothing under way.
  bool idle() const { return claims_.empty() && !in_flight_; }
  const LockRecord& record() const { return record_; }
  Revision rev() const { return rev_; }

 private:
  struct Mine {
    LockClaim claim{};
    bool held = false;
    bool leaving = false;
    bool open = false;     // the barrier, on leaving
    bool asked = false;    // a read began since the claim was made
    bool checked = false;  // and has been answered
    Time since{};          // when it was first looked at
  };
  struct InFlight {
    std::uint64_t id = 0;
    Revision expected = 0;
    LockRecord record{};
    Time last_sent{};
    bool repeated = false;
    bool refused = false;  // another revision is there; this one may have landed before
  };

  bool waiting() const;
  bool gives() const;  ///< it has something to give up that others may wait for
  const Mine* find(std::uint64_t claim) const;
  Mine* find(std::uint64_t claim);
  bool mine(const LockParty& party, const SessionId& session, std::uint64_t claim) const {
    return party.session == session && party.claim == claim;
  }
  bool gone(const LockParty& party, const Context& context) const;
  bool believe_less(bool removed, const Context& context, Time now);
  LockParty party_of(const LockClaim& claim, const Context& context) const;
  LockRecord evolved(const Context& context) const;
  void join(LockRecord& next, const Context& context) const;
  void answer(const LockRecord& next, const Context& context, Output& out);
  void adopt(Revision rev, LockRecord record, const Context& context, Time now, Output& out);
  void tell_others(const LockRecord& before, const LockRecord& after, const Context& context,
                   Output& out) const;
  Time turn(const LockRecord& next, const Context& context, Time now) const;
  void read(const Context& context, Time now, Output& out);
  void repeat_write(const Context& context, Time now, Output& out);
  void write(LockRecord next, Time now, const Context& context, Output& out);

  LockRecord record_;
  Revision rev_ = 0;
  bool known_ = false;
  bool doubted_ = false;  // it is to be read again
  std::vector<Mine> claims_;
  std::optional<InFlight> in_flight_;
  std::uint64_t last_write_id_ = 0;
  std::optional<Time> read_sent_;
  std::optional<Time> wanted_since_;  // a change that is somebody else's to make first
  std::optional<Time> less_since_;
  int conflicts_ = 0;
  Time not_before_{};
  Time news_at_{};  // of the last record, read or told
  Time due_ = Time::max();
};

}  // namespace cluster::coord
