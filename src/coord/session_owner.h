// A node's own session: begins it, keeps it by rewriting its record and by heartbeats to its
// voters, knows until when it may act by it, and ends it (docs/protocols.md, "The owner" and
// "Starting"). Pure: events and the time in, what to do out.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coord/session_messages.h"
#include "coord/session_timing.h"
#include "coord/session_view.h"

namespace cluster::coord {

/// What became of a compare-and-set.
enum class WriteOutcome {
  stored,   ///< at the stated revision
  refused,  ///< another revision was there
  unknown,  ///< no answer, or one that does not tell
};

class SessionOwner {
 public:
  struct Options {
    std::string node{};
    SessionTiming timing{};
    std::string boot{};  ///< with `folder`: an earlier session from here may be overwritten, its
                         ///< process is gone
    std::string folder{};
    std::function<std::string()> new_id{};
    std::function<std::shared_ptr<const NodeFacts>()> facts{};  ///< asked for each write
  };

  /// What is to be done now, in this order.
  struct Output {
    std::optional<std::string>
        ended{};         ///< the session has ended (why): drop everything it entitled to, by force
    bool began = false;  ///< a session is in force
    bool left = false;   ///< leave() is complete
    struct Write {
      std::uint64_t id = 0;  ///< the same for each repeat
      Revision expected = 0;
      SessionRecord record{};
    };
    std::optional<Write> write{};  ///< compare-and-set the own record; answer with on_write()
    std::vector<Heartbeat> heartbeats{};
  };

  explicit SessionOwner(Options options) : options_(std::move(options)) {}

  /// From now on a session is wanted.
  void start();
  /// No session is wanted any more: gives the present one up and writes `left`.
  void leave(Output& out, Time now);

  /// A revision of the own record, by watch, by read or as a write's answer. Call after the view
  /// has seen it.
  void on_own_record(Revision rev, const SessionRecord& record, Time now, Output& out);
  void on_write(std::uint64_t id, WriteOutcome outcome, Revision stored, Time now, Output& out);
  void on_ack(const HeartbeatAck& ack, Time now, Output& out);
  /// What the facts say has changed: the next record is written at once.
  void facts_changed() { facts_changed_ = true; }
  /// The store shows less than it has acknowledged: the session is lost.
  void on_store_rewound(Time now, Output& out);
  /// Does what is due. Call after each event too. `members_known`: the first contents of the
  /// members' bucket have been seen. `late`: the loop was stopped for a while.
  void tick(const SessionView& view, bool members_known, bool late, Time now, Output& out);
  /// When tick() is to be called next.
  Time due() const { return due_; }

  /// The session's limits hold at `now`: what it entitles to may be done.
  bool in_force(Time now) const { return phase_ == Phase::live && now < limit(); }
  /// It is in force, and something new may be taken by it.
  bool may_take(Time now) const;
  /// While it has no voters yet: when it may take all the same.
  Time may_take_at() const { return live_since_ + options_.timing.session_timeout; }
  /// When rules 1 and 2 end, as things stand. Only while a session lives.
  Time limit() const;
  /// Somebody else's session stands in the own record, and is not seen to have ended.
  bool blocked() const { return blocked_; }

  SessionId id() const { return {options_.node, session_}; }
  Revision session_rev() const { return session_rev_; }
  bool live() const { return phase_ == Phase::live; }
  bool left() const { return phase_ == Phase::left; }
  std::vector<SessionId> voters() const;
  Revision known_rev() const { return known_rev_; }

 private:
  enum class Phase { none, beginning, live, leaving, left };
  struct Peer {
    SessionId id{};
    Time first_sent{};    ///< of a heartbeat since it was last silent or unknown
    Time acking_since{};  ///< no gap of `silence` since; 0: it does not acknowledge now
    Time last_ack_arrival{};
    Time last_acked_sent{};  ///< what rule 2 counts from
  };
  struct InFlight {
    std::uint64_t id = 0;
    Revision expected = 0;
    SessionRecord record{};
    Time first_sent{};
    Time last_sent{};
  };

  void expire_if_due(Time now, Output& out);
  void lose(const std::string& why, Time now, Output& out);
  void begin(const SessionView& view, Time now, Output& out);
  void write(SessionRecord record, Time now, Output& out);
  void settled(bool landed, Revision rev, Time now, Output& out);
  void consider_write(const SessionView& view, Time now, Output& out);
  void heartbeat(const SessionView& view, Time now, Output& out);
  SessionRecord record_with(const std::vector<SessionId>& voters, SessionState state);
  std::vector<SessionId> wanted_voters(const SessionView& view, Time now);
  std::vector<SessionId> candidates(const SessionView& view) const;
  std::optional<std::size_t> doubled_zone(const SessionView& view,
                                          const std::vector<SessionId>& voters) const;
  bool silent(const Peer& peer, Time now) const;
  Peer* peer(const SessionId& id);
  const Peer* peer(const SessionId& id) const;
  Time rule_two(const std::vector<SessionId>& voters) const;

  Options options_;
  Phase phase_ = Phase::none;
  bool wanted_ = false;
  bool blocked_ = false;
  std::string session_;
  Revision session_rev_ = 0;
  Revision known_rev_ = 0;  ///< newest revision of the own record that was seen
  std::vector<SessionId> voters_;
  bool had_voters_ = false;
  bool facts_changed_ = false;  // since a record was made of them
  std::optional<InFlight> in_flight_;
  std::uint64_t last_write_id_ = 0;
  Time live_since_{};
  Time last_write_sent_{};  ///< first sending of the last write known to have landed
  Time silence_from_{};     ///< silence of voters counts from here at the earliest
  Time next_heartbeat_{};
  std::vector<Peer> peers_;
  Time due_{};
};

}  // namespace cluster::coord
