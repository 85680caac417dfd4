#include "sqlite/read_mark.h"

#include <utility>

#include <sqlite3.h>

#include "core/check.h"

namespace cluster::sqlite {
namespace {

constexpr const char* kReadSomething = "PRAGMA user_version";

}  // namespace

void ReadMark::Finalizer::operator()(sqlite3_stmt* statement) const noexcept {
  sqlite3_finalize(statement);
}

ReadMark::ReadMark(const std::string& path, int busy_ms) : handle_(open_beside(path, busy_ms)) {}

void ReadMark::take() {
  CLUSTER_CHECK(!held_);
  int rc = SQLITE_OK;
  if (!statement_) {
    // Not at once: until the database is in WAL mode it may not be readable.
    sqlite3_stmt* raw = nullptr;
    rc = sqlite3_prepare_v2(handle_.get(), kReadSomething, -1, &raw, nullptr);
    statement_.reset(raw);
    if (rc != SQLITE_OK) throw handle_.error(kReadSomething, rc);
  }
  rc = sqlite3_step(statement_.get());
  held_ = rc == SQLITE_ROW;
  if (held_) return;
  const Error failure = handle_.error(kReadSomething, rc);
  sqlite3_reset(statement_.get());
  throw failure;
}

void ReadMark::drop() noexcept {
  if (std::exchange(held_, false)) sqlite3_reset(statement_.get());
}

}  // namespace cluster::sqlite
