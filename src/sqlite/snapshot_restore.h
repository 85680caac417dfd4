// Databases from a snapshot bucket: the newest that the WAL stream goes on from, for nodes, and one
// of an earlier moment, for operators. Blocks; verifies all before anything is put in place.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cluster/snapshots.h"
#include "sqlite/capture.h"
#include "sqlite/snapshot_plan.h"
#include "sqlite/snapshot_store.h"

namespace cluster::sqlite {

/// Bytes of files read so far, and of all.
using RestoreBytes = std::function<void(std::uint64_t done, std::uint64_t all)>;

struct Restored {
  DatabaseState state{};       ///< what the file holds
  std::uint64_t epoch = 0;     ///< under which its last transaction was committed
  std::uint64_t sequence = 0;  ///< in the stream, of the record that ends with it: go on behind it
  std::int64_t time_ns = 0;    ///< effective time of that record (record_time.h), since 1970
  /// Nothing behind it is stored: a target behind it makes no difference.
  bool newest = false;
  /// The stream that had it is gone: somebody has deleted it, and another one was begun since.
  bool stream_gone = false;
  std::vector<StoredFile> from{};      ///< a snapshot, and what follows it
  std::vector<std::string> damaged{};  ///< objects that could not be used, and why
  /// What PRAGMA integrity_check says of the result, of restore_database(). It is what the database
  /// held, all the same.
  std::string complaint{};

  std::uint64_t bytes() const { return std::uint64_t{state.page_size} * state.pages.size(); }
};

/// Writes the newest database that `stream` goes on from into the file `path`: whole, synced, and
/// verified by hashes. What an attempt that was cut short has left there
/// goes. Nothing when the store has none, or none that is undamaged; then there is no file. Throws
/// Error: what the store says (unavailable, timeout: try again later), shutting_down (stopped),
/// system (the disk is full).
std::optional<Restored> restore_connected(SnapshotStore& store, const StreamRange& stream,
                                          const std::string& path,
                                          const RestoreBytes& progress = {},
                                          std::stop_token stop = {});

struct RestoreRequest {
  std::string stream{};    ///< whose database it is
  RestoreTarget target{};  ///< neither: the newest
  /// The file of that name, of whatever stream: the database as it ends. Then no target.
  std::string object{};
  std::string path{};  ///< where to
  bool force = false;  ///< replace what is there
  std::function<void(const cluster::RestoreProgress&)> progress{};
};

/// Restores a database to `path`: from the store, and from the stream what lies between that and
/// the target. Verified by hashes before it is put in place. The result may be of an earlier
/// transaction than the target, when that is not kept as such; never of a later one. For a time
/// before the stream was begun, files of a stream before it are used.
/// Throws Error as restore_connected, and: invalid_argument (there is a file, and no `force`),
/// lock_held (a program or a node uses the database there), not_found (nothing of that time is
/// kept), corrupt (all that is kept is damaged).
Restored restore_database(SnapshotStore& store, const RestoreRequest& request,
                          std::stop_token stop = {});

}  // namespace cluster::sqlite
