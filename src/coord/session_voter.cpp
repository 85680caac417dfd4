#include "coord/session_voter.h"

#include <algorithm>

namespace cluster::coord {

std::optional<HeartbeatAck> SessionVoter::on_heartbeat(const Heartbeat& heartbeat,
                                                       const SessionId& self, Time now) {
  auto& watched = watched_[heartbeat.owner.node];
  watched.last_arrival = now;
  if (watched.withdrawn >= heartbeat.rev && watched.withdrawn > 0 &&
      !mutant(Mutation::ack_after_withdrawing))
    return std::nullopt;
  return HeartbeatAck{heartbeat.owner, self, heartbeat.sent};
}

std::vector<Withdrawal> SessionVoter::tick(const SessionView& view, const SessionId& self, Time now,
                                           const SessionTiming& timing, Time* due) {
  std::vector<Withdrawal> out;
  for (const auto& [node, seen] : view.all()) {
    const auto& record = seen.record;
    if (!record.live() || node == self.node) continue;
    if (std::find(record.voters.begin(), record.voters.end(), self) == record.voters.end())
      continue;
    auto& watched = watched_[node];
    if (watched.withdrawn < seen.rev) {
      // A voter that has had no heartbeat yet counts from when it saw itself listed.
      Time since = std::max(watched.last_arrival == Time{} ? seen.at : watched.last_arrival,
                            counting_since_);
      Time silent_at = since + timing.session_timeout;
      if (now < silent_at) {
        *due = std::min(*due, silent_at);
        continue;
      }
      watched.withdrawn = seen.rev;
    } else if (watched.broadcast_rev == seen.rev &&
               now < watched.last_broadcast + timing.heartbeat_period()) {
      *due = std::min(*due, watched.last_broadcast + timing.heartbeat_period());
      continue;
    }
    watched.last_broadcast = now;
    watched.broadcast_rev = seen.rev;
    out.push_back({{node, record.session}, seen.rev, self});
    *due = std::min(*due, now + timing.heartbeat_period());
  }
  return out;
}

}  // namespace cluster::coord
