// The loadable extension cpp_cluster_sqlite: the connection that loads it waits at each commit
// until JetStream has acknowledged it (docs/replication.md). For SQLite programs in any language;
// needs nothing of the library's.
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>

#include <sqlite3ext.h>

#include "sqlite/commit_hook.h"

SQLITE_EXTENSION_INIT1

namespace {

int load(sqlite3* handle, std::string& why) {
  auto timeout = cluster::sqlite::kDefaultCommitTimeout;
  if (const char* value = std::getenv("CPP_CLUSTER_COMMIT_TIMEOUT"); value && *value != '\0') {
    char* end = nullptr;
    errno = 0;
    const long long ms = std::strtoll(value, &end, 10);
    if (*end != '\0' || errno != 0 || ms < 1) {
      why = "CPP_CLUSTER_COMMIT_TIMEOUT: \"" + std::string(value) + "\" are no milliseconds";
      return SQLITE_ERROR;
    }
    timeout = std::chrono::milliseconds(ms);
  }
  return cluster::sqlite::install_commit_hook(handle, timeout, why);
}

}  // namespace

// SQLite takes the name of this from the file's: its letters, without digits and marks.
extern "C" __attribute__((visibility("default"))) int sqlite3_cppclustersqlite_init(
    sqlite3* handle, char** message, const sqlite3_api_routines* routines) {
  SQLITE_EXTENSION_INIT2(routines);
  std::string why;
  int rc = SQLITE_NOMEM;
  try {
    rc = load(handle, why);
  } catch (const std::exception& error) {
    why = error.what();
  }
  if (rc != SQLITE_OK && message) *message = sqlite3_mprintf("cpp_cluster_sqlite: %s", why.c_str());
  return rc;
}
