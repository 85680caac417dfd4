// A connection to an SQLite database: opened, used by one thread at a time, closed. What SQLite
// refuses becomes an Error that names the file and says SQLite's words.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/error.h"

struct sqlite3;
struct sqlite3_file;

namespace cluster::sqlite {

class Handle {
 public:
  enum class Access { read_only, read_write, create };

  Handle() = default;
  /// Throws not_found when there is no such file (but for Access::create), corrupt when it is no
  /// database, system for what the operating system refuses.
  Handle(const std::string& path, Access access);
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  ~Handle();

  explicit operator bool() const noexcept { return db_ != nullptr; }
  sqlite3* get() const noexcept { return db_; }
  const std::string& path() const noexcept { return path_; }
  void close() noexcept;
  /// Hands the connection over to the caller, who closes it.
  sqlite3* release() noexcept;

  /// Runs statements; their rows are dropped.
  void exec(const std::string& sql);
  /// The same, and hands over SQLite's (primary) result code instead of throwing.
  int try_exec(const char* sql) noexcept;
  /// The first column of the first row; 0 or empty when there is none.
  std::int64_t number(const std::string& sql);
  std::string text(const std::string& sql);

  /// What SQLite keeps open of this database: the file itself, and in WAL mode its log.
  sqlite3_file* database_file() const;
  sqlite3_file* wal_file() const;
  /// A page as the database's file has it, whatever the WAL says; zeros behind the file's end.
  /// `page`: as long as a page is. Throws.
  void read_file(std::uint32_t number, std::string& page) const;

  /// The error that stands for result code `rc` while doing `what`.
  Error error(const std::string& what, int rc) const;

 private:
  sqlite3* db_ = nullptr;
  std::string path_;
};

/// The error that stands for result code `rc` of `handle` while doing `what`.
Error error_of(sqlite3* handle, const std::string& what, int rc);

/// Has the connection wait for locks, so long at most. Looks every millisecond at first and then
/// every 5 ms: sqlite3_busy_timeout() comes to 100 ms, which is long for who is to lead next.
void wait_for_locks(sqlite3* handle, int ms);

/// A connection beside the program's own, for capture and replicas: it checkpoints only when it is
/// told to, not even when it is the last one to close. What is in the WAL stays there, and the next
/// one to look finds where it stood. It asks nothing of the schema, which may use what this SQLite
/// does not know. `busy_ms`: how long it waits for locks.
Handle open_beside(const std::string& path, int busy_ms);

/// Begins a read transaction, which is there when this returns. Throws.
void begin_reading(Handle& handle);

/// One for as long as this is there.
class ReadTransaction {
 public:
  explicit ReadTransaction(Handle& handle) : handle_(handle) { begin_reading(handle_); }
  ~ReadTransaction() { handle_.try_exec("ROLLBACK"); }
  ReadTransaction(const ReadTransaction&) = delete;
  ReadTransaction& operator=(const ReadTransaction&) = delete;

 private:
  Handle& handle_;
};

/// Switches the database to WAL mode if it is not in it. Throws Error{not_found} when it is empty,
/// Error{unavailable} when somebody keeps it from being switched.
void ensure_wal_mode(Handle& handle);

}  // namespace cluster::sqlite
