// What one node has seen of all session records, and the withdrawals of their voters: tells whether
// a session has ended, and when anyone may end it (docs/protocols.md, "Anyone may end a session").
// Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coord/records.h"
#include "coord/session_messages.h"
#include "coord/session_timing.h"

namespace cluster::coord {

/// Withdrawals it takes to end a session with so many voters, and acknowledgements it takes to keep
/// it.
inline std::size_t withdrawals_to_end(std::size_t voters) {
  return voters / 2 + 1 - (mutant(Mutation::quorum_one_less) ? 1 : 0);
}
inline std::size_t acks_to_keep(std::size_t voters) {
  std::size_t needed = (voters + 1) / 2;
  return needed > 0 && mutant(Mutation::acks_one_less) ? needed - 1 : needed;
}

class SessionView {
 public:
  struct Seen {
    Revision rev = 0;
    SessionRecord record{};
    Time at{};  ///< when this revision was first seen, by this node's clock
  };

  /// Takes note of a revision; false when it is not newer than what is known.
  bool see(Revision rev, const SessionRecord& record, Time now);
  void see(const Withdrawal& withdrawal);

  const Seen* find(const std::string& node) const;
  const std::map<std::string, Seen>& all() const { return seen_; }
  /// True once and for all when that session, which began with `session_rev`, is over.
  bool ended(const SessionId& id, Revision session_rev) const;

  /// Why anyone may end the session that stands in this node's record now; empty when nobody may.
  /// `due`, when given, is lowered to the time at which that may change by itself.
  std::string why_endable(const Seen& seen, Time now, const SessionTiming& timing, Time* due) const;

 private:
  std::map<std::string, Seen> seen_;
  /// Newest revision that each voter has withdrawn, for each owner's node.
  std::map<std::string, std::map<SessionId, Revision>> withdrawn_;
};

}  // namespace cluster::coord
