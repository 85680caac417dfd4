#include "sqlite/writer_guard.h"

#include <chrono>
#include <thread>
#include <utility>

#include <sqlite3.h>

#include "cluster/clock.h"
#include "core/log.h"
#include "sqlite/shm_lock.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr int kRetakeMs = 100;

}  // namespace

WriterGuard::WriterGuard(const std::string& path, int wait_ms)
    : handle_(open_beside(path, wait_ms)) {
  // From here on it has the wal-index.
  handle_.exec("PRAGMA user_version");
  writer_ = lock(kWriterLock, wait_ms);
  if (writer_) checkpoint_ = lock(kCheckpointLock, wait_ms);
  if (writer_ && checkpoint_) return;
  const std::string does = writer_ ? "checkpoints it" : "writes to it";
  release();
  throw Error(Errc::unavailable, "database " + path +
                                     " is to follow the node that leads, and another process " +
                                     does + " all the time: stop that, or give sqlite.replica");
}

WriterGuard::~WriterGuard() { release(); }

WriterGuard::WriterGuard(WriterGuard&& other) noexcept
    : handle_(std::move(other.handle_)),
      writer_(std::exchange(other.writer_, false)),
      checkpoint_(std::exchange(other.checkpoint_, false)) {}

WriterGuard& WriterGuard::operator=(WriterGuard&& other) noexcept {
  if (this == &other) return *this;
  release();
  handle_ = std::move(other.handle_);
  writer_ = std::exchange(other.writer_, false);
  checkpoint_ = std::exchange(other.checkpoint_, false);
  return *this;
}

// SQLite keeps a lock that is not given back for as long as this process has the database open.
void WriterGuard::release() noexcept {
  if (std::exchange(checkpoint_, false)) unlock(kCheckpointLock);
  if (std::exchange(writer_, false)) unlock(kWriterLock);
  handle_.close();
}

bool WriterGuard::lock(int which, int wait_ms) {
  const Time limit = BootClock::now() + milliseconds(wait_ms);
  for (;;) {
    const int rc = shm_lock(handle_, which, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
    if (rc == SQLITE_OK) return true;
    if (rc != SQLITE_BUSY) throw handle_.error("lock " + std::to_string(which), rc);
    if (BootClock::now() >= limit) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void WriterGuard::unlock(int which) noexcept {
  const int rc = shm_lock(handle_, which, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
  if (rc != SQLITE_OK)
    log::error("lock_not_given_back", {{"path", handle_.path()}, {"lock", which}, {"code", rc}});
}

WriterGuard::CheckpointTurn::CheckpointTurn(WriterGuard& guard) : guard_(guard) {
  if (std::exchange(guard_.checkpoint_, false)) guard_.unlock(kCheckpointLock);
}

// Where another process checkpoints just then, the lock is taken the next time.
WriterGuard::CheckpointTurn::~CheckpointTurn() {
  try {
    guard_.checkpoint_ = guard_.lock(kCheckpointLock, kRetakeMs);
  } catch (const Error& error) {
    log::warn("checkpoint_lock_not_taken",
              {{"path", guard_.handle_.path()}, {"why", error.what()}});
  }
}

}  // namespace cluster::sqlite
