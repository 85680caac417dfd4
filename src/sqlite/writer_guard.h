// Keeps everybody else from writing to a database in WAL mode, and from checkpointing it: SQLite's
// own locks for both, held for as long as a node follows with it. Readers are not affected; who
// wants to write gets "database is locked". The locks go with the process.
#pragma once

#include <string>

#include "sqlite/handle.h"

namespace cluster::sqlite {

/// Not thread-safe, but for what is said of it.
class WriterGuard {
 public:
  WriterGuard() = default;
  /// Opens the database at `path` and takes the locks; waits `wait_ms` for others at most. Throws
  /// as Handle does, Error{unavailable} when another process keeps writing or checkpointing.
  WriterGuard(const std::string& path, int wait_ms);
  ~WriterGuard();
  WriterGuard(WriterGuard&& other) noexcept;
  WriterGuard& operator=(WriterGuard&& other) noexcept;

  /// The connection that holds the locks; for WalTransaction.
  Handle& handle() noexcept { return handle_; }
  void release() noexcept;

  /// Lets connections of this process checkpoint, for as long as it is there. On one thread at a
  /// time. Another process may checkpoint meanwhile, too.
  class CheckpointTurn {
   public:
    explicit CheckpointTurn(WriterGuard& guard);
    ~CheckpointTurn();
    CheckpointTurn(const CheckpointTurn&) = delete;
    CheckpointTurn& operator=(const CheckpointTurn&) = delete;

   private:
    WriterGuard& guard_;
  };

 private:
  bool lock(int which, int wait_ms);
  void unlock(int which) noexcept;

  Handle handle_;
  bool writer_ = false, checkpoint_ = false;
};

}  // namespace cluster::sqlite
