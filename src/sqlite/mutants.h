// Deliberate errors in how the WAL stream is written and followed, which the simulator must catch
// (tests/sim). As coord/mutation.h: outside of the simulator's build they leave no trace.
#pragma once

namespace cluster::sqlite {

enum class StreamMutation {
  none,
  skip_fence,             ///< a leader begins to append without a fence
  expect_nothing,         ///< appends do not state what they expect
  sequences_only,         ///< appends that follow one under way state the sequence it should get
  unknown_is_stored,      ///< an append without an answer counts as stored
  ignore_epoch,           ///< a higher epoch at the end of the stream is not heeded
  lead_before_fence,      ///< a leader does not follow up to its fence first
  keep_divergence,        ///< a node keeps what it has and the stream has not
  skip_hash,              ///< content is not compared at a fence
  inherit_across_epochs,  ///< a leader appends what it has left over from an epoch before the last
  accept_gap,             ///< a file that does not follow is applied all the same
  unfinished_counts,      ///< a fence takes a file without its last part for whole
  part_without_others,    ///< a part is taken though those before it are not here
  trust_any_copy,  ///< a fence in a purged stream takes its own copy for whole, whatever it lacks
  expect_record,   ///< an append expects the newest record, though foreign messages stand behind it
  look_behind_own,  ///< a fence behind foreign messages goes on from its own copy unseen
};

#ifdef CLUSTER_SIM_MUTANTS
extern thread_local StreamMutation active_stream_mutation;
inline bool mutant(StreamMutation m) { return active_stream_mutation == m; }
#else
constexpr bool mutant(StreamMutation) { return false; }
#endif

}  // namespace cluster::sqlite
