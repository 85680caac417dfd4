// Commits of an SQLite connection that return once JetStream has acknowledged them: hooks of
// SQLite's that ask the node that leads, over the socket of the database (commit_protocol.h).
// For the library's own connections and, compiled on its own, as the loadable extension.
//
// SQLite has two moments. Before a commit, its commit hook may refuse, and the transaction is
// rolled back: done when no node takes commits here. After a commit to the WAL, with its locks
// released, what the WAL hook returns becomes the statement's result: there it waits. So an error
// then says that the transaction stands here, and that it is not known to be anywhere else.
#pragma once

#include <chrono>
#include <string>

struct sqlite3;

namespace cluster::sqlite {

/// The result code of a statement whose transaction is committed here and was not acknowledged:
/// SQLITE_WARNING with a number of ours. Not SQLITE_BUSY: many programs repeat a statement then.
inline constexpr int kNotAcknowledged = 28 | (204 << 8);

inline constexpr std::chrono::milliseconds kDefaultCommitTimeout{5'000};

/// Has the connection's commits to its main database wait from now on, and gives it the SQL
/// functions cluster_sync(), cluster_position(), cluster_commit_error() and
/// cluster_commit_timeout(). Takes the place of its commit hook and of its WAL hook, and so of
/// SQLite's automatic checkpoints, which the leading node sees to. Returns SQLITE_OK, or the code
/// with `why`.
int install_commit_hook(sqlite3* handle, std::chrono::milliseconds timeout, std::string& why);

}  // namespace cluster::sqlite
