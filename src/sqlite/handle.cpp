#include "sqlite/handle.h"

#include <cstdint>
#include <memory>
#include <utility>

#include <sqlite3.h>
#include <unistd.h>

#include "core/log.h"

namespace cluster::sqlite {
namespace {

constexpr int kQuickPauseMs = 1, kQuickLooks = 200, kPauseMs = 5;

Errc errc_of(int rc) {
  switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return Errc::corrupt;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return Errc::unavailable;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH: return Errc::permission_denied;
    case SQLITE_CANTOPEN: return Errc::not_found;
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
    case SQLITE_ERROR: return Errc::invalid_argument;
    default: return Errc::system;
  }
}

int flags_of(Handle::Access access) {
  switch (access) {
    case Handle::Access::read_only: return SQLITE_OPEN_READONLY;
    case Handle::Access::read_write: return SQLITE_OPEN_READWRITE;
    case Handle::Access::create: return SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  }
  return 0;
}

using Statement = std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)>;

}  // namespace

Handle::Handle(const std::string& path, Access access) : path_(path) {
  const int rc =
      sqlite3_open_v2(path.c_str(), &db_, flags_of(access) | SQLITE_OPEN_NOMUTEX, nullptr);
  if (rc != SQLITE_OK) {
    const Error failure = error("open", rc);
    close();
    throw failure;
  }
  sqlite3_extended_result_codes(db_, 1);
}

Handle::Handle(Handle&& other) noexcept
    : db_(std::exchange(other.db_, nullptr)), path_(std::move(other.path_)) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    close();
    db_ = std::exchange(other.db_, nullptr);
    path_ = std::move(other.path_);
  }
  return *this;
}

Handle::~Handle() { close(); }

void Handle::close() noexcept {
  // With the v2 function nothing is refused: what is still open goes when it is finished.
  sqlite3_close_v2(std::exchange(db_, nullptr));
}

sqlite3* Handle::release() noexcept { return std::exchange(db_, nullptr); }

Error error_of(sqlite3* handle, const std::string& what, int rc) {
  std::string text = sqlite3_errstr(rc);
  if (handle != nullptr && sqlite3_errcode(handle) == rc) text = sqlite3_errmsg(handle);
  return Error(errc_of(rc), what + ": " + text);
}

Error Handle::error(const std::string& what, int rc) const {
  return error_of(db_, "database " + path_ + ": " + what, rc);
}

void Handle::exec(const std::string& sql) {
  const int rc = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) throw error(sql, rc);
}

int Handle::try_exec(const char* sql) noexcept {
  return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) & 0xff;
}

namespace {

// Steps to the first row; none: nullptr.
Statement first_row(const Handle& handle, const std::string& sql) {
  sqlite3_stmt* raw = nullptr;
  int rc = sqlite3_prepare_v2(handle.get(), sql.c_str(), -1, &raw, nullptr);
  Statement statement(raw, sqlite3_finalize);
  if (rc != SQLITE_OK) throw handle.error(sql, rc);
  rc = sqlite3_step(raw);
  if (rc == SQLITE_DONE) return {nullptr, sqlite3_finalize};
  if (rc != SQLITE_ROW) throw handle.error(sql, rc);
  return statement;
}

}  // namespace

std::int64_t Handle::number(const std::string& sql) {
  auto row = first_row(*this, sql);
  return row ? sqlite3_column_int64(row.get(), 0) : 0;
}

std::string Handle::text(const std::string& sql) {
  auto row = first_row(*this, sql);
  const auto* text = row ? sqlite3_column_text(row.get(), 0) : nullptr;
  return text ? reinterpret_cast<const char*>(text) : std::string();
}

void wait_for_locks(sqlite3* handle, int ms) {
  const auto look_again = [](void* limit, int looks) {
    const int waited = looks < kQuickLooks
                           ? looks * kQuickPauseMs
                           : kQuickLooks * kQuickPauseMs + (looks - kQuickLooks) * kPauseMs;
    if (waited >= static_cast<int>(reinterpret_cast<std::intptr_t>(limit))) return 0;
    ::usleep((looks < kQuickLooks ? kQuickPauseMs : kPauseMs) * 1'000);
    return 1;
  };
  sqlite3_busy_handler(handle, look_again, reinterpret_cast<void*>(std::intptr_t{ms}));
}

Handle open_beside(const std::string& path, int busy_ms) {
  Handle handle(path, Handle::Access::read_write);
  wait_for_locks(handle.get(), busy_ms);
  sqlite3_db_config(handle.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  handle.exec("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL; PRAGMA writable_schema=ON");
  return handle;
}

void begin_reading(Handle& handle) {
  try {
    handle.exec("BEGIN; PRAGMA user_version");
  } catch (...) {
    handle.try_exec("ROLLBACK");
    throw;
  }
}

// By the header (sqlite.org/fileformat2.html): PRAGMA journal_mode would read the schema.
void ensure_wal_mode(Handle& handle) {
  constexpr int kVersionsAt = 18;
  constexpr char kWal = 2;
  char versions[2] = {};
  auto* file = handle.database_file();
  sqlite3_int64 size = 0;
  int rc = file->pMethods->xFileSize(file, &size);
  if (rc == SQLITE_OK && size > 0)
    rc = file->pMethods->xRead(file, versions, sizeof versions, kVersionsAt);
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) throw handle.error("its header", rc);
  if (versions[0] == kWal && versions[1] == kWal) return;
  // It can be changed when nobody else is just using it.
  if (handle.number("PRAGMA page_count") == 0)
    throw Error(Errc::not_found, "database " + handle.path() + " is empty");
  const std::string mode = handle.text("PRAGMA journal_mode=WAL");
  if (mode != "wal")
    throw Error(Errc::unavailable,
                "database " + handle.path() + " is in journal mode \"" + mode +
                    "\" and can't be switched to WAL, which replication needs: let the program "
                    "run PRAGMA journal_mode=WAL, and no PRAGMA locking_mode=EXCLUSIVE");
  log::info("database_switched_to_wal", {{"path", handle.path()}});
}

sqlite3_file* Handle::database_file() const {
  sqlite3_file* file = nullptr;
  const int rc = sqlite3_file_control(db_, "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (rc != SQLITE_OK || file == nullptr || file->pMethods == nullptr)
    throw error("file of the database", rc == SQLITE_OK ? SQLITE_CANTOPEN : rc);
  return file;
}

sqlite3_file* Handle::wal_file() const {
  sqlite3_file* file = nullptr;
  const int rc = sqlite3_file_control(db_, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file);
  if (rc != SQLITE_OK || file == nullptr || file->pMethods == nullptr)
    throw error("file of the write-ahead log", rc == SQLITE_OK ? SQLITE_CANTOPEN : rc);
  return file;
}

void Handle::read_file(std::uint32_t number, std::string& page) const {
  auto* file = database_file();
  const int rc =
      file->pMethods->xRead(file, page.data(), static_cast<int>(page.size()),
                            (sqlite3_int64{number} - 1) * static_cast<sqlite3_int64>(page.size()));
  // Behind the end of the file there are zeros, which xRead has put there.
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ)
    throw error("read of page " + std::to_string(number), rc);
}

}  // namespace cluster::sqlite
