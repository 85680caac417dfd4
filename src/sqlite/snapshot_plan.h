// What is to be done with the files of a snapshot bucket: which are merged, which go, whether a
// snapshot is due, how much of the stream may go, and which files make the database of a moment.
// Pure functions; all files given are of one history, unless they say otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/clock.h"
#include "core/result.h"
#include "sqlite/plan_clocks.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/stored_file.h"

namespace cluster::sqlite {

struct SnapshotOptions {
  Duration interval = std::chrono::hours(1);    ///< between snapshots, while something changes
  Duration retention = std::chrono::hours(24);  ///< snapshots that have been led for longer go,
  int kept = 2;                                 ///< but for so many
  Duration merge_interval = std::chrono::minutes(1);  ///< of the stream, in a file of level 1
  std::uint64_t merge_bytes = std::uint64_t{64} * 1024 * 1024;  ///< or so much of it
  int merge_count = 16;                             ///< files that make one of the next level
  Duration fine = std::chrono::hours(3);            ///< how long those stay
  Duration stream_window = std::chrono::hours(1);   ///< what the stream keeps all the same,
  Duration least_window = std::chrono::minutes(1);  ///< and when that is much
  std::uint64_t replay_bytes = std::uint64_t{64} * 1024 * 1024;  ///< much, for small databases
  Duration led_step = std::chrono::minutes(10);  ///< time led that may be forgotten with a node
};

using Files = std::vector<StoredFile>;

/// The files of that history that end within the stream's.
Files files_of(const Files& files, const StreamRange& stream);

/// Of files of all histories those of the one that is meant: the stream's; where that has none,
/// that of the newest file.
Files files_meant(const Files& files, const std::optional<StreamRange>& stream);

/// Of files of all histories, those of each. First of the one that is meant, also when it has none;
/// then of the others, the one that was written last first.
std::vector<Files> histories_of(const Files& files, const std::optional<StreamRange>& stream);

struct RestoreTarget {
  std::optional<Txid> txid{};             ///< nothing later than this
  std::optional<std::int64_t> time_ns{};  ///< nor of a later effective time than this
};
/// The newest snapshot not behind the target and the fewest files that lead as near to it as any
/// do; empty when there is no such snapshot.
Files plan_restore(const Files& files, const RestoreTarget& target = {});

/// The file behind which the stream is to be merged next: nothing before it lacks. Nothing when no
/// snapshot connects to the stream. `beyond`: what ends there or before is given up.
std::optional<StoredFile> merge_start(const Files& files, const StreamRange& stream,
                                      std::uint64_t beyond = 0);

struct PlannedMerge {
  int level = 0;
  Files sources{};  ///< in order
};
std::vector<PlannedMerge> plan_merges(const Files& files, const SnapshotOptions& options);

/// Why a snapshot is due now; empty: it is not. `stored`: the newest transaction in the stream. The
/// newest snapshot is old when either clock says so.
std::string snapshot_due(const Files& files, const StreamRange& stream, Txid stored,
                         const PlanTime& now, const SnapshotOptions& options);

/// Which go, of all histories. Only what no kept snapshot needs, and what is old by the time led:
/// no wall clock, nor JetStream's, can make it so. `led_ms`: now.
Files plan_deletions(const Files& files, std::uint64_t history, std::int64_t led_ms,
                     const SnapshotOptions& options);

/// The snapshot at that transaction, of whatever history, which somebody wants to be rid of. Error:
/// not_found; invalid_argument when it is the newest of the history that is meant, and no `force`.
Result<StoredFile> plan_removal(const Files& files, const std::optional<StreamRange>& stream,
                                Txid txid, bool force);

/// Records with sequences below this may go from the stream: what the files have. Never its last
/// one. `led_ms`: now.
std::uint64_t plan_trim(const Files& files, const StreamRange& stream, std::int64_t led_ms,
                        const SnapshotOptions& options, std::uint64_t beyond = 0);

}  // namespace cluster::sqlite
