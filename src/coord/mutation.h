// Deliberate errors in the protocols, which the simulator must catch (tests/sim). Only the
// simulator's build can switch one on; everywhere else mutant() is the constant false and leaves no
// trace in the program.
#pragma once

namespace cluster::coord {

enum class Mutation {
  none,
  count_from_ack_arrival,       ///< rule 2 counts from the acknowledgement's arrival, not from the
                                ///< heartbeat's sending
  no_drift_margin,              ///< limits without (1 - drift)
  withdrawals_of_any_revision,  ///< an end counts withdrawals of other revisions too
  ack_after_withdrawing,        ///< a voter acknowledges again what it has withdrawn
  quorum_one_less,              ///< an end takes q - 1 withdrawals
  acks_one_less,                ///< the owner goes on with one acknowledgement less than it needs
  forget_withdrawals,           ///< a restarted voter keeps its session id but not its memory
  only_new_voters,              ///< while the voters change, rule 2 counts for the new list only
  settle_by_read,  ///< an unknown write counts as failed when a (stale) read shows the old revision
  count_from_repeat,          ///< rule 1 counts from the last sending of a repeated write
  lease_without_session_rev,  ///< a session that has yet to begin counts as ended
  release_without_revision,   ///< a lease is released whatever its revision
  expire_without_revision,    ///< a session is ended whatever its revision
  act_before_settled,         ///< an unknown acquisition counts as successful
  keep_epoch,                 ///< an acquisition does not raise the epoch
  lock_act_before_settled,    ///< an unknown write of a lock counts as successful
  lock_settle_by_read,        ///< a (stale) read that shows the old revision ends a lock's write
  lock_keep_token,            ///< a holder's token is that of the holder before
  lock_outlives_session,      ///< a held lock is not lost with the session
  lock_release_without_revision,  ///< a lock is released whatever its revision
  lock_believe_old_news,          ///< a notice of an older revision counts
};

#ifdef CLUSTER_SIM_MUTANTS
extern thread_local Mutation active_mutation;
inline bool mutant(Mutation m) { return active_mutation == m; }
#else
constexpr bool mutant(Mutation) { return false; }
#endif

}  // namespace cluster::coord
