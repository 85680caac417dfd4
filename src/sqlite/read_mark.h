// A read transaction that is held for its place alone: as long as it lasts, no checkpoint moves
// what was committed behind it into the database file, and SQLite does not begin the WAL anew
// before all up to it is in there (sqlite.org/walformat.html, "Reader marks"). Taken and dropped
// some thousand times a second under a busy writer, so it parses no SQL.
#pragma once

#include <memory>
#include <string>

#include "sqlite/handle.h"

struct sqlite3_stmt;

namespace cluster::sqlite {

/// Not thread-safe.
class ReadMark {
 public:
  ReadMark() = default;
  /// Opens the database at `path`, and holds no mark yet. `busy_ms`: how long take() waits for
  /// locks, which others hold for moments. Throws as Handle does.
  ReadMark(const std::string& path, int busy_ms);

  /// At the newest transaction. Must not be held. Throws as Handle does.
  void take();
  void drop() noexcept;
  bool held() const noexcept { return held_; }
  Handle& handle() noexcept { return handle_; }

 private:
  struct Finalizer {
    void operator()(sqlite3_stmt* statement) const noexcept;
  };

  Handle handle_;
  // A statement that has given a row and not ended keeps its read transaction.
  std::unique_ptr<sqlite3_stmt, Finalizer> statement_;
  bool held_ = false;
};

}  // namespace cluster::sqlite
