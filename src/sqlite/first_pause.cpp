#include "sqlite/first_pause.h"

#include <algorithm>
#include <utility>

#include <sqlite3.h>
#include <sys/stat.h>

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr Duration kFirstSwitchRetry = milliseconds(100),
                   kLastSwitchRetry = std::chrono::seconds(2);
constexpr int kSwitchBusyMs = 2'000;

std::int64_t ns_of(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

FirstPause::Seen FirstPause::seen() const {
  Seen now;
  struct stat found{};
  if (::stat(path_.c_str(), &found) != 0) return now;
  now.inode = found.st_ino;
  now.size = found.st_size;
  now.written_ns = ns_of(found.st_mtim);
  if (::stat((path_ + "-journal").c_str(), &found) == 0) {
    now.journal_size = found.st_size;
    now.journal_written_ns = ns_of(found.st_mtim);
  }
  if (::stat((path_ + "-wal").c_str(), &found) == 0) now.wal_size = found.st_size;
  return now;
}

FirstPause::State FirstPause::look(bool at_once) {
  const Time now = BootClock::now();
  const Seen found = seen();
  if (found.size <= 0) {
    end();
    return State::absent;
  }
  if (found.inode != seen_.inode) {
    handle_.close();
    since_ = now;
    next_try_ = {};
    retry_ = kFirstSwitchRetry;
  }
  if (found != seen_) changed_ = now;
  seen_ = found;
  if (!handle_) handle_ = Handle(path_, Handle::Access::read_write);
  const bool wait = at_once || now - since_ >= limits_.longest;
  if (in_wal_mode()) {
    // Who opens a database in WAL mode as the first one keeps others out for a moment.
    return wait || found.wal_size > 0 || pauses(now) ? State::ready : State::busy;
  }
  if (!wait && !pauses(now)) return State::busy;
  if (switch_now(wait)) return State::ready;
  next_try_ = now + retry_;
  retry_ = std::min(retry_ * 2, kLastSwitchRetry);
  return State::busy;
}

void FirstPause::end() {
  handle_.close();
  seen_ = {};
}

bool FirstPause::pauses(Time now) {
  return now - changed_ >= limits_.pause && now >= next_try_ && !is_being_written();
}

// By the header, as ensure_wal_mode() does. Takes no lock.
bool FirstPause::in_wal_mode() const {
  constexpr int kVersionsAt = 18;
  constexpr char kWal = 2;
  char versions[2] = {};
  auto* file = handle_.database_file();
  const int rc = file->pMethods->xRead(file, versions, sizeof versions, kVersionsAt);
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) throw handle_.error("its header", rc);
  return versions[0] == kWal && versions[1] == kWal;
}

bool FirstPause::is_being_written() const {
  int reserved = 0;
  auto* file = handle_.database_file();
  const int rc = file->pMethods->xCheckReservedLock(file, &reserved);
  if (rc != SQLITE_OK) throw handle_.error("its locks", rc);
  return reserved != 0;
}

// Without syncs, each of which would keep the database locked for as long as the disk takes: of the
// first page, which is synced already, some bytes of one sector change. With `wait` somebody else's
// transaction is waited for; throws when that takes too long.
bool FirstPause::switch_now(bool wait) {
  wait_for_locks(handle_.get(), wait ? kSwitchBusyMs : 0);
  sqlite3_db_config(handle_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  const auto take = [&] {
    handle_.exec("PRAGMA writable_schema=ON; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF");
    ensure_wal_mode(handle_);
    // The wal-index is there from here on, as long as this connection is.
    handle_.exec("PRAGMA user_version");
  };
  try {
    take();
  } catch (const Error& error) {
    if (wait || error.errc() != Errc::unavailable) throw;
    return false;
  }
  auto* file = handle_.database_file();
  if (const int rc = file->pMethods->xSync(file, SQLITE_SYNC_NORMAL); rc != SQLITE_OK)
    throw handle_.error("sync", rc);
  return true;
}

}  // namespace cluster::sqlite
