// The public face of an app's database: calls of any thread, carried to the loop and back.
#include "cluster/database.h"

#include <future>
#include <memory>
#include <thread>
#include <utility>

#include <sqlite3.h>

#include "core/deadline.h"
#include "platform/app_core.h"
#include "sqlite/commit_hook.h"
#include "sqlite/handle.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStatusLimit{1'000};
constexpr int kBusyMs = 5'000;
constexpr int kBusyPauseMs = 1;

DatabasePosition position_of(const sqlite::ReplicatedDatabase::Status& status) {
  return {status.epoch, status.txid, status.sequence};
}

/// A busy handler: waits for kBusyMs at most, and not at all once this node does not lead. Then it
/// keeps the lock that is waited for itself, to follow.
int wait_while_leading(void* leads, int looks) {
  if (!*static_cast<const std::atomic<bool>*>(leads) || looks >= kBusyMs / kBusyPauseMs) return 0;
  std::this_thread::sleep_for(milliseconds(kBusyPauseMs));
  return 1;
}

/// What went wrong with the last commit, in words that SQLite has no place for.
std::string commit_error(sqlite3* handle) {
  sqlite3_stmt* raw = nullptr;
  sqlite3_prepare_v2(handle, "SELECT cluster_commit_error()", -1, &raw, nullptr);
  const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement(raw, sqlite3_finalize);
  const unsigned char* text = nullptr;
  if (sqlite3_step(raw) == SQLITE_ROW) text = sqlite3_column_text(raw, 0);
  return text ? reinterpret_cast<const char*>(text) : "the commit was refused by a hook";
}

}  // namespace

template <typename T>
T Database::Core::wait(milliseconds limit, const std::string& what,
                       std::function<void(sqlite::ReplicatedDatabase&, Callback<T>)> ask) {
  app.check_answered(what.c_str());
  auto answer = std::make_shared<std::promise<Result<T>>>();
  auto future = answer->get_future();
  app.on_loop([this, answer, ask = std::move(ask)] {
    auto* database = app.replicated();
    if (!database)
      return answer->set_value(Error(
          Errc::unavailable,
          "app \"" + app.options.name + "\": its database is there from the first session on"));
    ask(*database, [answer](Result<T> result) { answer->set_value(std::move(result)); });
  });
  if (future.wait_for(std::min(limit, kLongestWait)) != std::future_status::ready)
    throw Error(Errc::timeout, what + " of app \"" + app.options.name + "\": no answer within " +
                                   std::to_string(limit.count()) + " ms");
  try {
    return std::move(future.get().value());
  } catch (const std::future_error&) {
    throw Error(Errc::shutting_down, "app \"" + app.options.name + "\": the platform has stopped");
  }
}

DatabaseConnection::DatabaseConnection(DatabaseConnection&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), leads_(std::move(other.leads_)) {}

DatabaseConnection& DatabaseConnection::operator=(DatabaseConnection&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(leads_, other.leads_);
  return *this;
}

DatabaseConnection::~DatabaseConnection() { sqlite3_close_v2(handle_); }

void DatabaseConnection::exec(const std::string& sql) {
  const int rc = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  if (rc == SQLITE_OK) return;
  if (rc == sqlite::kNotAcknowledged)
    throw Error(Errc::timeout, sql + ": " + commit_error(handle_));
  if (rc == SQLITE_CONSTRAINT_COMMITHOOK)
    throw Error(Errc::not_leader, sql + ": " + commit_error(handle_));
  if ((rc & 0xff) == SQLITE_BUSY && leads_ && !*leads_)
    throw Error(Errc::not_leader, sql + ": this node does not lead the database any more");
  throw sqlite::error_of(handle_, sql, rc);
}

std::string Database::path() const { return core_.app.database_file(); }

DatabaseConnection Database::open() {
  App::Core& app = core_.app;
  if (!*app.database_leads)
    throw Error(Errc::not_leader, "app \"" + app.options.name +
                                      "\": this node does not lead it; its database can only be "
                                      "read here (open_reader())");
  sqlite::Handle handle(app.options.sqlite.path, sqlite::Handle::Access::create);
  const std::shared_ptr<const std::atomic<bool>> leads = app.database_leads;
  sqlite3_busy_handler(handle.get(), wait_while_leading,
                       const_cast<std::atomic<bool>*>(leads.get()));
  handle.exec("PRAGMA journal_mode=WAL");
  if (app.options.sqlite.commit == Commit::replicated) {
    std::string why;
    const int rc =
        sqlite::install_commit_hook(handle.get(), app.options.sqlite.commit_timeout, why);
    if (rc != SQLITE_OK)
      throw Error(Errc::system, "database " + handle.path() + ": commits can't wait: " + why);
  }
  return {handle.release(), leads};
}

DatabaseConnection Database::open_reader() {
  sqlite::Handle handle(path(), sqlite::Handle::Access::read_only);
  sqlite3_busy_timeout(handle.get(), kBusyMs);
  return {handle.release(), nullptr};
}

DatabasePosition Database::position() const {
  return core_.wait<DatabasePosition>(
      kStatusLimit, "position",
      [](sqlite::ReplicatedDatabase& database, const Callback<DatabasePosition>& done) {
        done(position_of(database.status()));
      });
}

DatabaseLag Database::lag() const {
  return core_.wait<DatabaseLag>(
      kStatusLimit, "lag",
      [](sqlite::ReplicatedDatabase& database, const Callback<DatabaseLag>& done) {
        const auto status = database.status();
        done(DatabaseLag{status.lag_transactions, status.lag_bytes, status.lag_time,
                         status.lag_records});
      });
}

DatabasePosition Database::sync(milliseconds timeout) {
  return core_.wait<DatabasePosition>(
      timeout + kStatusLimit, "sync",
      [timeout](sqlite::ReplicatedDatabase& database, Callback<DatabasePosition> done) {
        database.sync(timeout, [&database, done = std::move(done)](Result<sqlite::Txid> txid) {
          if (!txid) return done(txid.error());
          DatabasePosition position = position_of(database.status());
          position.txid = txid.value();
          done(position);
        });
      });
}

void Database::wait_for(const DatabasePosition& position, milliseconds timeout) {
  App::Core& app = core_.app;
  core_.wait<bool>(timeout + kStatusLimit, "wait_for",
                   [&app, position, timeout](sqlite::ReplicatedDatabase&, Callback<bool> done) {
                     app.wait_for_position(position, timeout,
                                           [done = std::move(done)](const Failure& failure) {
                                             failure ? done(*failure) : done(true);
                                           });
                   });
}

}  // namespace cluster
