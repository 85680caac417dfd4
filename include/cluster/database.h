// The replicated SQLite database of an app, as this node has it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "cluster/sqlite.h"

struct sqlite3;

namespace cluster {

/// A place in the history of a database. Later ones compare greater, on whatever node.
struct DatabasePosition {
  std::uint64_t epoch = 0;     ///< of the lead under which the last transaction was committed
  std::uint64_t txid = 0;      ///< transactions so far, as batches count them; 0: none
  std::uint64_t sequence = 0;  ///< in the WAL stream; 0: not stored there yet
};

/// How far this node is behind: as a standby, what the stream has and its copy has not; as the
/// leader, what is committed and JetStream has not acknowledged. A standby knows the stream's end
/// from what it reads, and where it does not read all at once, from JetStream, up to a second late.
struct DatabaseLag {
  std::uint64_t transactions = 0;
  std::uint64_t bytes = 0;            ///< on a standby, of what has arrived alone
  std::chrono::milliseconds time{0};  ///< age of the oldest of them
  std::uint64_t records = 0;          ///< on a standby: of the stream, that are not applied
};

/// A connection to the database, closed when it goes. For one thread at a time.
class DatabaseConnection {
 public:
  DatabaseConnection(DatabaseConnection&& other) noexcept;
  DatabaseConnection& operator=(DatabaseConnection&& other) noexcept;
  ~DatabaseConnection();
  /// SQLite's handle, for sqlite3_prepare_v2() and all others; stays this object's.
  sqlite3* get() const noexcept { return handle_; }
  /// Runs statements, dropping rows. Throws Error with SQLite's words: system, corrupt, not_found,
  /// unavailable (locked), not_leader (a connection for writing, and this node does not lead any
  /// more: nothing was changed). A commit under Commit::replicated: not_leader (rolled back),
  /// timeout (committed here, not acknowledged).
  void exec(const std::string& sql);

 private:
  friend class Database;
  using Leads = std::shared_ptr<const std::atomic<bool>>;
  DatabaseConnection(sqlite3* handle, Leads leads) : handle_(handle), leads_(std::move(leads)) {}
  sqlite3* handle_ = nullptr;
  Leads leads_;  // of a connection for writing
};

/// From App::database(); lives as long as its platform. All methods may be called from any thread;
/// those that block say so, and are not for hooks' strands of on_leader_change and the like only if
/// they wait for this node's own progress. Besides what they say they throw Error{invalid_argument}
/// on the loop and before Platform::run(), Error{unavailable} before the node's first session,
/// Error{shutting_down} once the platform has stopped.
class Database {
 public:
  /// The file that has the database on this node now: the options' path or replica.
  std::string path() const;
  /// A connection for writing, on the node that leads, from within on_active on. Throws
  /// Error{not_leader}, or system when the file can't be opened.
  ///
  /// With Commit::replicated a commit returns once JetStream has acknowledged it. Else it fails in
  /// one of two ways (docs/replication.md, "What a commit means"), and `SELECT
  /// cluster_commit_error()` says why:
  /// - SQLITE_CONSTRAINT_COMMITHOOK: this node does not lead any more. The transaction was rolled
  ///   back.
  /// - 52252, SQLITE_WARNING | 204 << 8: not acknowledged within commit_timeout, or the lead was
  ///   lost meanwhile. The transaction is committed in this node's file, may be replicated still,
  ///   and is lost if another node leads before it is.
  /// Commits block their thread, never the loop's; not for use on it. Takes the connection's commit
  /// hook and WAL hook: set none of your own.
  DatabaseConnection open();
  /// A connection that only reads, on any node. Sees whole transactions. Throws Error{not_found}
  /// while this node has no copy yet.
  DatabaseConnection open_reader();
  /// Where this node's database stands. Blocks for up to a second; throws Error{timeout}.
  DatabasePosition position() const;
  /// Blocks for up to a second; throws Error{timeout}.
  DatabaseLag lag() const;
  /// On the leader: blocks until all that was committed before the call is acknowledged by
  /// JetStream, and returns the position then. Throws Error{timeout}, Error{not_leader},
  /// Error{unavailable}.
  DatabasePosition sync(std::chrono::milliseconds timeout);
  /// On any node: blocks until this node's database has all up to `position` (of sync() on the
  /// leader, say): what was written there can be read here then. Throws Error{timeout}.
  void wait_for(const DatabasePosition& position, std::chrono::milliseconds timeout);

 private:
  friend class App;
  struct Core;
  explicit Database(Core& core) : core_(core) {}
  Core& core_;
};

}  // namespace cluster
