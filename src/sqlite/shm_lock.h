// The locks in a database's shared memory, by their numbers in SQLite's documents of the format
// (sqlite.org/walformat.html, "WAL Locks"), taken through SQLite's own handle of it.
#pragma once

#include <sqlite3.h>

#include "sqlite/handle.h"

namespace cluster::sqlite {

constexpr int kWriterLock = 0;
constexpr int kCheckpointLock = 1;
constexpr int kFileReadersLock = 3;  ///< of those who read the database file alone
constexpr int kWalReadersLock = 4;   ///< the first of kWalReaderLocks, of those who read the WAL
constexpr int kWalReaderLocks = 4;

/// `what`: flags of xShmLock. Returns SQLite's code; SQLITE_BUSY at once when another one has it.
/// `handle` must have read something in WAL mode.
inline int shm_lock(const Handle& handle, int lock, int what, int count = 1) {
  auto* file = handle.database_file();
  return file->pMethods->xShmLock(file, lock, count, what);
}

}  // namespace cluster::sqlite
