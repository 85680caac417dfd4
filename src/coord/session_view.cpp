#include "coord/session_view.h"

#include <algorithm>

namespace cluster::coord {

bool SessionView::see(Revision rev, const SessionRecord& record, Time now) {
  auto& seen = seen_[record.node];
  if (rev <= seen.rev) return false;
  seen = {rev, record, now};
  // Only withdrawals by a voter of the record can count from now on.
  if (auto it = withdrawn_.find(record.node); it != withdrawn_.end()) {
    if (mutant(Mutation::withdrawals_of_any_revision)) return true;
    if (record.live())
      std::erase_if(it->second, [&](const auto& w) { return w.second < rev; });
    else
      withdrawn_.erase(it);
  }
  return true;
}

void SessionView::see(const Withdrawal& w) {
  const Seen* seen = find(w.owner.node);
  // Of a node never heard of, or of a past revision: of no use. What is ahead of the watch is kept.
  if (!seen) return;
  if (w.rev < seen->rev && !mutant(Mutation::withdrawals_of_any_revision)) return;
  auto& by_voter = withdrawn_[w.owner.node];
  // A voter has one session at a time: a bound for the map.
  constexpr std::size_t kMostWithdrawn = 64;
  if (by_voter.size() >= kMostWithdrawn && !by_voter.contains(w.voter)) return;
  auto& rev = by_voter[w.voter];
  rev = std::max(rev, w.rev);
}

const SessionView::Seen* SessionView::find(const std::string& node) const {
  auto it = seen_.find(node);
  return it == seen_.end() ? nullptr : &it->second;
}

bool SessionView::ended(const SessionId& id, Revision session_rev) const {
  const Seen* seen = find(id.node);
  if (!seen) return false;
  if (seen->rev < session_rev && !mutant(Mutation::lease_without_session_rev)) return false;
  return !seen->record.live() || seen->record.session != id.session;
}

std::string SessionView::why_endable(const Seen& seen, Time now, const SessionTiming& timing,
                                     Time* due) const {
  if (!seen.record.live()) return {};
  const auto& voters = seen.record.voters;
  if (!voters.empty()) {
    auto it = withdrawn_.find(seen.record.node);
    if (it != withdrawn_.end()) {
      auto count = std::count_if(voters.begin(), voters.end(), [&](const SessionId& voter) {
        auto w = it->second.find(voter);
        if (w == it->second.end()) return false;
        return w->second == seen.rev || mutant(Mutation::withdrawals_of_any_revision);
      });
      if (count > 0 && static_cast<std::size_t>(count) >= withdrawals_to_end(voters.size()))
        return std::to_string(count) + " of " + std::to_string(voters.size()) +
               " voters had no heartbeat for session_timeout";
    }
  }
  Time silent_at = seen.at + timing.lease_ttl;
  if (now >= silent_at) return "its record did not change for lease_ttl";
  if (due) *due = std::min(*due, silent_at);
  return {};
}

}  // namespace cluster::coord
