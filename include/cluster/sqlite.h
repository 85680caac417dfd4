// Options of an app's SQLite database.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace cluster {

/// When a commit counts (docs/replication.md).
enum class Commit {
  /// At once, as SQLite has it; replicated some milliseconds later. A failover may lose the last
  /// ones, which are then kept aside and reported.
  async,
  /// Once JetStream has acknowledged it, for connections that Database::open() gives and programs
  /// that load the extension cpp_cluster_sqlite: then no failover loses it.
  replicated,
};

/// A database that is replicated from the node that leads to all others that run the app. In WAL
/// mode; whatever program writes to it, on the leader only.
struct Sqlite {
  /// The database's file while this node leads; empty: the app has no database. Its folder is this
  /// node's own; one that is missing is made, as the folder of Process::user when this is root
  std::string path{};
  /// The file while this node follows; empty: `path`. On the same file system
  std::string replica{};
  Commit commit = Commit::async;
  /// How long a commit under Commit::replicated waits, and an SQL `cluster_sync()` without a limit
  std::chrono::milliseconds commit_timeout{5'000};
  /// Bytes at which the WAL is moved into the database: 64 KiB to 1 GiB. At most twice that is used
  std::uint64_t wal_limit = 64 * 1024 * 1024;
  /// How long what was committed may take to reach JetStream when the lead is handed over in order
  std::chrono::milliseconds drain_timeout{5'000};
  /// Between snapshots, while something changes; from a second on (docs/replication.md)
  std::chrono::milliseconds snapshot_interval{std::chrono::hours(1)};
  /// Snapshots that are older are removed, but for the newest `snapshots_kept`, 1 to 1,000. What
  /// counts is the time during which nodes have led: no wall clock makes anything old
  std::chrono::milliseconds snapshot_retention{std::chrono::hours(24)};
  int snapshots_kept = 2;
  /// How much of the stream becomes one file beside the snapshots: how finely an earlier moment can
  /// be restored once the stream does not have it any more
  std::chrono::milliseconds snapshot_merge_interval{std::chrono::minutes(1)};
  /// How long the stream keeps what those files have: nodes that were away for so long need not
  /// fetch a snapshot
  std::chrono::milliseconds stream_window{std::chrono::hours(1)};
  /// Between scrubs: each node reads all of its database's file in the background and compares it
  /// with what was written. A second to a year; 0: only when `cpp-cluster db scrub` asks for
  /// it. A page that a leader's program has just given up, by VACUUM say, may be told of though it
  /// is right
  std::chrono::milliseconds scrub_interval{0};
  /// Bytes a second that a scrub reads at most: 64 KiB to 16 GiB
  std::uint64_t scrub_rate = 16 * 1024 * 1024;
  bool operator==(const Sqlite&) const = default;
};

}  // namespace cluster
