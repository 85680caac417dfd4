// Snapshots of an app's database: whole copies in the platform's object store, from which earlier
// moments are restored (docs/replication.md, "Snapshots and restore").
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace cluster {

/// A database at one transaction, whole, as an object of the bucket `<platform>_<app>_snapshots`.
struct DatabaseSnapshot {
  std::uint64_t txid = 0;      ///< its last transaction
  std::uint64_t epoch = 0;     ///< of the lead under which that was committed
  std::uint64_t sequence = 0;  ///< of the record that ends with it, in the WAL stream
  /// When JetStream stored that transaction, by its servers' clocks; never earlier than what is
  /// before it. No node's clock has a part in it.
  std::chrono::system_clock::time_point time{};
  std::uint64_t bytes = 0;  ///< of the object
  std::string object{};     ///< its name in the bucket
};

/// How far Snapshots::restore() is. The phases come in this order; when a damaged object is passed
/// over, it begins anew.
struct RestoreProgress {
  enum class Phase {
    files,   ///< objects of the bucket are read: bytes
    stream,  ///< what lies behind them is replayed: records; ends early at an earlier moment
    check,   ///< PRAGMA integrity_check reads the result: nothing tells how far it is
  };
  Phase phase{};
  std::uint64_t done = 0;
  std::uint64_t of = 0;  ///< 0: not known
};

/// What is restored, and where to. Neither `txid`, `time` nor `object`: the newest transaction.
struct RestoreOptions {
  /// A file on this node. Never one that a program or a node uses.
  std::string to{};
  /// Nothing behind it; when the present stream does not go as far and a file of one that was
  /// deleted ends with just this transaction: that one.
  std::optional<std::uint64_t> txid{};
  /// The last transaction before the first one that JetStream stored later than this. It is
  /// JetStream's time that counts: a moment taken from this machine's clock is as right as that is.
  std::optional<std::chrono::system_clock::time_point> time{};
  /// The database as this file of the bucket ends (DatabaseSnapshot::object), also one of a stream
  /// that was deleted since.
  std::string object{};
  bool force = false;  ///< replace a file that is there
  std::chrono::milliseconds timeout{std::chrono::hours(1)};
  /// Called often, on the thread that restores. Must not throw.
  std::function<void(const RestoreProgress&)> progress{};
};

/// What Snapshots::restore() has put there.
struct RestoredDatabase {
  std::uint64_t txid = 0;   ///< its last transaction; an earlier one than was asked for, when that
                            ///< is not kept as such
  std::uint64_t epoch = 0;  ///< of the lead under which that was committed
  std::chrono::system_clock::time_point time{};  ///< of that transaction, as DatabaseSnapshot's
  std::uint64_t bytes = 0;                       ///< of the file
  std::vector<std::string> passed_over{};        ///< objects that are damaged, and how
  /// What PRAGMA integrity_check says of it; empty: all is well. The file holds what the database
  /// held then, all the same: a program may commit what SQLite without its extensions complains of.
  std::string complaint{};
  /// Nothing later was stored: the moment that was asked for is at the end, or beyond it.
  bool newest = false;
  /// It is of a stream that somebody has deleted; the one that is there now was begun after the
  /// time that was asked for, or has no snapshot.
  bool stream_gone = false;
};

/// From App::snapshots(), on any node that runs the app; lives as long as its platform. All methods
/// block, for `timeout` at most, and may be called from any thread and hook, but not from the loop
/// nor before Platform::run() (Error{invalid_argument}). Besides what each says they throw
/// Error{timeout}, Error{unavailable} (no session yet, or NATS is away) and Error{shutting_down}
/// (the platform stops).
///
///     auto taken = app.snapshots().create(1min);
///     app.snapshots().restore({.to = "/var/tmp/copy.db", .txid = taken.txid});
class Snapshots {
 public:
  /// Has the leader take a snapshot of all that JetStream has acknowledged by then, and waits until
  /// it is in the bucket; when nothing has changed since the newest one, that is the answer. After
  /// Error{timeout} it goes on. Throws Error{no_leader}; Error{not_leader} when the lead moves
  /// meanwhile; Error{unavailable} with the leader's words when it can't.
  DatabaseSnapshot create(std::chrono::milliseconds timeout = std::chrono::minutes(10));
  /// The snapshots, the oldest first; none when there is no bucket.
  std::vector<DatabaseSnapshot> list(std::chrono::milliseconds timeout = std::chrono::seconds(30));
  /// Restores the database to a file: a snapshot and what follows it, up to the moment that is
  /// meant. It is verified by the hashes of its pages before it is put in place; after any
  /// error there is what was there before. Touches no node's database; see "How to go back" there.
  /// Throws Error{invalid_argument} (there is a file, and no `force`), Error{lock_held} (a program
  /// or a node uses it), Error{not_found} (nothing of that time is kept), Error{corrupt} (all that
  /// is kept is damaged), Error{system}.
  RestoredDatabase restore(const RestoreOptions& options);
  /// Removes the snapshot that ends with `txid`; `newest`: even the newest one, which nodes that
  /// come new begin with. Old ones go by themselves (Sqlite::snapshot_retention). Throws
  /// Error{not_found}, Error{invalid_argument} (it is the newest).
  void remove(std::uint64_t txid, bool newest = false,
              std::chrono::milliseconds timeout = std::chrono::seconds(30));

 private:
  friend class App;
  class Core;
  explicit Snapshots(Core& core) : core_(core) {}
  Core& core_;
};

}  // namespace cluster
