#include "sqlite/commit_hook.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#ifdef CLUSTER_SQLITE_EXTENSION
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT3
#else
#include <sqlite3.h>
#endif

#include "sqlite/commit_client.h"
#include "sqlite/commit_place.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMostTimeout = std::chrono::hours(24);
// A node that leads greets at once; one that was stopped never.
constexpr milliseconds kGreetingLimit{2'000};
constexpr const char* kMain = "main";

/// What belongs to one connection; the functions of it own this together.
struct Committer {
  Committer(sqlite3* h, std::string database, milliseconds t)
      : handle(h), client(std::move(database)), timeout(t) {}
  sqlite3* handle;
  CommitClient client;
  milliseconds timeout;
  CommitClient::Stored stored{};  // as of the last acknowledged commit
  std::string error{};            // of the last commit
  bool announced = false;         // a commit was let through, and the WAL hook has not come
};

bool in_wal_mode(sqlite3* handle) {
  sqlite3_file* file = nullptr;
  unsigned char version = 0;
  constexpr sqlite3_int64 kReadVersion = 19;  // in the header; 2: with a WAL
  return sqlite3_file_control(handle, kMain, SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK &&
         file != nullptr && file->pMethods != nullptr &&
         file->pMethods->xRead(file, &version, 1, kReadVersion) == SQLITE_OK && version == 2;
}

// Another file is at the database's path: what is committed to this one, nobody follows.
bool was_replaced(sqlite3* handle) {
  int moved = 0;
  return sqlite3_file_control(handle, kMain, SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK &&
         moved != 0;
}
constexpr const char* kReplaced =
    "the database's file was replaced since this connection opened it: open it anew";

int after_commit(void* self, sqlite3*, const char* database, int) noexcept {
  auto& committer = *static_cast<Committer*>(self);
  if (std::strcmp(database, kMain) != 0) return SQLITE_OK;
  const bool was_ready = std::exchange(committer.announced, false);
  std::string why;
  // After the answer, for it may be that of a later lead of this node, with another file.
  if (committer.client.sync(committer.timeout, committer.stored, why, was_ready)) {
    if (!was_replaced(committer.handle)) {
      committer.error.clear();
      return SQLITE_OK;
    }
    why = kReplaced;
  }
  committer.error = "committed here, but not acknowledged by JetStream: " + why;
  sqlite3_log(kNotAcknowledged, "%s", committer.error.c_str());
  return kNotAcknowledged;
}

int before_commit(void* self) noexcept {
  auto& committer = *static_cast<Committer*>(self);
  // A transaction of a temporary or attached database is none of ours.
  if (sqlite3_txn_state(committer.handle, kMain) != SQLITE_TXN_WRITE) return 0;
  std::string why;
  if (committer.announced && !in_wal_mode(committer.handle)) {
    why = "the database is not in WAL mode: it can't be replicated (run PRAGMA journal_mode=WAL)";
  } else if (was_replaced(committer.handle)) {
    why = kReplaced;
  } else if (const auto limit = std::min(committer.timeout, kGreetingLimit);
             committer.client.ready(CommitClient::Clock::now() + limit, why)) {
    // Whatever took its place since: sqlite3_wal_autocheckpoint() and its pragma do.
    sqlite3_wal_hook(committer.handle, after_commit, self);
    committer.announced = true;
    return 0;
  }
  committer.error = "rolled back: " + why;
  sqlite3_log(SQLITE_CONSTRAINT_COMMITHOOK, "%s", committer.error.c_str());
  return 1;
}

// ---- SQL functions

using Owner = std::shared_ptr<Committer>;

Committer& committer_of(sqlite3_context* context) {
  return **static_cast<Owner*>(sqlite3_user_data(context));
}

void result_text(sqlite3_context* context, const std::string& text) {
  sqlite3_result_text(context, text.c_str(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
}

void result_position(sqlite3_context* context, const CommitClient::Stored& at) {
  result_text(context, "{\"epoch\":" + std::to_string(at.epoch) +
                           ",\"txid\":" + std::to_string(at.txid) +
                           ",\"sequence\":" + std::to_string(at.sequence) + "}");
}

// cluster_sync([ms]): all that was committed, by whomever, is stored.
void sync_function(sqlite3_context* context, int count, sqlite3_value** values) {
  auto& committer = committer_of(context);
  auto limit = committer.timeout;
  if (count == 1)
    limit = std::clamp(milliseconds(sqlite3_value_int64(values[0])), milliseconds(1), kMostTimeout);
  std::string why;
  if (committer.client.sync(limit, committer.stored, why))
    return result_position(context, committer.stored);
  sqlite3_result_error(context, ("cluster_sync: " + why).c_str(), -1);
}

void position_function(sqlite3_context* context, int, sqlite3_value**) {
  const auto& at = committer_of(context).stored;
  if (at.epoch != 0) result_position(context, at);
}

void error_function(sqlite3_context* context, int, sqlite3_value**) {
  const auto& error = committer_of(context).error;
  if (!error.empty()) result_text(context, error);
}

void timeout_function(sqlite3_context* context, int count, sqlite3_value** values) {
  auto& committer = committer_of(context);
  if (count == 1) {
    const auto ms = sqlite3_value_int64(values[0]);
    if (ms < 1 || ms > kMostTimeout.count())
      return sqlite3_result_error(context, "cluster_commit_timeout: 1 ms to a day", -1);
    committer.timeout = milliseconds(ms);
  }
  sqlite3_result_int64(context, committer.timeout.count());
}

struct Function {
  const char* name;
  int arguments;
  void (*run)(sqlite3_context*, int, sqlite3_value**);
};
constexpr std::array<Function, 6> kFunctions{{{"cluster_sync", 0, sync_function},
                                              {"cluster_sync", 1, sync_function},
                                              {"cluster_position", 0, position_function},
                                              {"cluster_commit_error", 0, error_function},
                                              {"cluster_commit_timeout", 0, timeout_function},
                                              {"cluster_commit_timeout", 1, timeout_function}}};
// Not from a trigger or a view of a database that somebody else has made.
constexpr int kTextRep = SQLITE_UTF8 | SQLITE_DIRECTONLY;

int add_functions(sqlite3* handle, const Owner& committer) {
  for (const auto& function : kFunctions) {
    const int rc = sqlite3_create_function_v2(
        handle, function.name, function.arguments, kTextRep, new Owner(committer), function.run,
        nullptr, nullptr, [](void* owner) { delete static_cast<Owner*>(owner); });
    if (rc == SQLITE_OK) continue;
    for (const auto& added : kFunctions)
      sqlite3_create_function_v2(handle, added.name, added.arguments, kTextRep, nullptr, nullptr,
                                 nullptr, nullptr, nullptr);
    return rc;
  }
  return SQLITE_OK;
}

}  // namespace

int install_commit_hook(sqlite3* handle, milliseconds timeout, std::string& why) {
  const char* file = sqlite3_db_filename(handle, kMain);
  if (file == nullptr || *file == '\0') {
    why = "the connection's main database is no file: nothing replicates it";
    return SQLITE_ERROR;
  }
  if (!check_commit_folder_variable(why)) return SQLITE_ERROR;
  const auto committer =
      std::make_shared<Committer>(handle, file, std::clamp(timeout, milliseconds(1), kMostTimeout));
  if (const int rc = add_functions(handle, committer); rc != SQLITE_OK) {
    why = "its SQL functions can't be added: " + std::string(sqlite3_errstr(rc));
    return rc;
  }
  sqlite3_commit_hook(handle, before_commit, committer.get());
  sqlite3_wal_hook(handle, after_commit, committer.get());
  return SQLITE_OK;
}

}  // namespace cluster::sqlite
