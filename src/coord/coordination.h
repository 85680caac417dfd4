// The deciding part of one node: its session, its duty as a voter, the ends of others' sessions,
// its leases, and its locks. Pure: each method takes an event and the time, and appends what is to
// be done to `actions`. The driver (driver.h) and the simulator (tests/sim) carry that out and
// bring back what comes of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "coord/lease.h"
#include "coord/locks.h"
#include "coord/session_owner.h"
#include "coord/session_view.h"
#include "coord/session_voter.h"

namespace cluster::coord {

enum class Bucket { members, leases };

/// Names a write to the store, so that its outcome finds its way back.
struct WriteId {
  enum class Kind { own_session, end_of_session, lease } kind = Kind::own_session;
  std::string key{};  ///< node or app
  std::uint64_t number = 0;
};

struct WriteMember {
  WriteId id{};
  Revision expected = 0;
  SessionRecord record{};
};
struct WriteLease {
  WriteId id{};
  Revision expected = 0;
  LeaseRecord record{};
};
/// The own session is in force; leases may be taken by it soon.
struct SessionBegan {
  SessionId id{};
  Revision rev = 0;
};
/// It is over. Everything that was held by it is lost: stop it at once, by force.
struct SessionEnded {
  std::string why{};
};
struct SessionLeft {};  ///< leave() is complete
struct LeaseAcquired {
  std::string app{};
  std::uint64_t epoch = 0;
};
struct LeaseReleased {  ///< a release is complete
  std::string app{};
};
struct LeaseChanged {  ///< ask leader() and record() what is new
  std::string app{};
};
struct MemberChanged {  ///< a session began, ended, or a record was rewritten
  std::string node{};
};

using Action = std::variant<WriteMember, WriteLease, WriteLock, ReadLock, LockNotice, LockNews,
                            Heartbeat, HeartbeatAck, Withdrawal, SessionBegan, SessionEnded,
                            SessionLeft, LeaseAcquired, LeaseReleased, LeaseChanged, MemberChanged>;
using Actions = std::vector<Action>;

class Coordination {
 public:
  struct Options {
    SessionOwner::Options session{};
    std::vector<std::string> apps{};  ///< whose leases are followed
    /// In [0, 1): for those who are in each other's way.
    std::function<double()> random = [] { return 0.5; };
  };

  explicit Coordination(Options options);

  /// Wants a session (and keeps wanting one) until leave().
  void start(Time now, Actions& actions);
  void leave(Time now, Actions& actions);

  /// What this node's record says of it is no longer so.
  void facts_changed(Time now, Actions& actions);
  void on_member(Revision rev, const SessionRecord& record, Time now, Actions& actions);
  void on_members_known(Time now, Actions& actions);
  void on_lease(Revision rev, const LeaseRecord& record, Time now, Actions& actions);
  void on_leases_known(Time now, Actions& actions);
  void on_heartbeat(const Heartbeat& heartbeat, Time now, Actions& actions);
  void on_ack(const HeartbeatAck& ack, Time now, Actions& actions);
  void on_withdrawal(const Withdrawal& withdrawal, Time now, Actions& actions);
  void on_write(const WriteId& id, WriteOutcome outcome, Revision stored, Time now,
                Actions& actions);
  /// The store has lost what it had acknowledged. The session ends; make a new Coordination and
  /// read everything again.
  void on_store_rewound(Time now, Actions& actions);
  /// Does what is due; call it at due(), or when in doubt.
  void tick(Time now, Actions& actions);
  Time due() const { return due_; }

  void set_candidate(const std::string& app, bool candidate, Time not_before, Time now,
                     Actions& actions);
  /// Gives up a lease that is held.
  void release(const std::string& app, const std::string& target, Time now, Actions& actions);

  void claim_lock(LockClaim claim, Time now, Actions& actions);
  /// Gives a claim up, see Lock::release().
  void release_lock(std::uint64_t claim, bool open, Time now, Actions& actions);
  void on_lock_read(const std::string& key, Revision rev, const std::optional<LockRecord>& record,
                    Time now, Actions& actions);
  void on_lock_notice(const LockNotice& notice, Time now, Actions& actions);
  void on_lock_write(const std::string& key, std::uint64_t number, WriteOutcome outcome,
                     Revision stored, Time now, Actions& actions);
  /// What others have told of locks may have been missed: asks again.
  void doubt_locks(Time now, Actions& actions);
  /// The claim holds its lock at `now`.
  bool holds_lock(std::uint64_t claim, Time now) const {
    return locks_.holds(claim) && owner_.in_force(now);
  }

  /// Claims that have not ended.
  std::size_t lock_claims() const { return locks_.claims(); }

  /// This node leads the app at `now`.
  bool leads(const std::string& app, Time now) const;
  bool holds(const std::string& app) const;
  const Lease& lease(const std::string& app) const;
  std::optional<std::string> leader(const std::string& app) const {
    return lease(app).leader(view_);
  }
  const SessionOwner& session() const { return owner_; }
  const SessionView& view() const { return view_; }
  bool members_known() const { return members_known_; }
  /// For the mutant whose restarted voter has lost its memory.
  void forget_withdrawals() { voter_.forget(); }

 private:
  void take(SessionOwner::Output& out, Actions& actions);
  void take(const std::string& app, Lease::Output& out, Actions& actions);
  void take(Locks::Output& out, Actions& actions);
  Lock::Context lock_context() const { return {owner_, view_, timing_, random_}; }
  void step(Time now, Actions& actions);
  void end_sessions(Time now, Actions& actions);
  void tick_leases_and_locks(Time now, Actions& actions);
  Lease::Context context() const;
  Lease& find(const std::string& app);

  std::string node_;
  SessionTiming timing_;
  SessionOwner owner_;
  SessionView view_;
  SessionVoter voter_;
  std::map<std::string, Lease> leases_;
  Locks locks_;
  std::function<int(const std::string&)> rank_;
  std::function<double()> random_;
  bool members_known_ = false;
  bool leases_known_ = false;
  bool leases_dirty_ = true;  // something that leases depend on has changed
  Time leases_due_ = Time::max();
  bool could_take_ = false;  // at the last step
  struct Ending {
    Revision rev = 0;
    Time last_sent{};
  };
  std::map<std::string, Ending> endings_;
  Time due_{};
};

/// The place of `node` among `nodes` for the app: the same on all nodes, spread over apps (highest
/// random weight first).
int rank_of(const std::string& app, const std::string& node, const std::vector<std::string>& nodes);

}  // namespace cluster::coord
