// A client that numbers its rows: what a backend of the end-to-end tests does with its database.
// Each row is a transaction; once it is committed, a line in the rows' log says so.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

namespace cluster::e2e {

/// Lines: "committed", or "unsure" (the commit has failed and may stand all the same), epoch,
/// number; or "quiet", epoch, which quiet.
class RowWriter {
 public:
  struct Options {
    std::string log{};
    std::string extension{};                        ///< loaded into the connection; empty: none
    std::string first = "PRAGMA journal_mode=WAL";  ///< what the connection begins with
    int bytes = 100;                                ///< of a row
  };

  RowWriter(const std::string& database, std::uint64_t epoch, Options options)
      : epoch_(epoch), options_(std::move(options)) {
    log_ = ::open(options_.log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    check(log_ >= 0 ? SQLITE_OK : SQLITE_CANTOPEN, options_.log.c_str());
    check(sqlite3_open(database.c_str(), &db_), "open");
    sqlite3_busy_timeout(db_, 10'000);
    run(options_.first.c_str());
    run("PRAGMA synchronous=NORMAL;"
        "CREATE TABLE IF NOT EXISTS rows(epoch, number, filler, PRIMARY KEY(epoch, number))");
    // A backend may be started several times in one epoch.
    const std::string newest = "SELECT max(number) FROM rows WHERE epoch=" + std::to_string(epoch_);
    check(sqlite3_exec(
              db_, newest.c_str(),
              [](void* number, int, char** values, char**) {
                if (values[0] != nullptr)
                  *static_cast<std::uint64_t*>(number) = std::strtoull(values[0], nullptr, 10);
                return 0;
              },
              &number_, nullptr),
          "newest row");
    if (options_.extension.empty()) return;
    sqlite3_enable_load_extension(db_, 1);
    char* why = nullptr;
    check(sqlite3_load_extension(db_, options_.extension.c_str(), nullptr, &why),
          why != nullptr ? why : "extension");
  }
  ~RowWriter() { sqlite3_close(db_); }
  RowWriter(const RowWriter&) = delete;
  RowWriter& operator=(const RowWriter&) = delete;

  void write_row() {
    const std::string row = std::to_string(epoch_) + "," + std::to_string(++number_);
    const std::string sql =
        "INSERT INTO rows VALUES(" + row + ",randomblob(" + std::to_string(options_.bytes) + "))";
    const int rc = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr);
    const char* what = rc == SQLITE_OK ? "committed " : "unsure ";
    if (rc != SQLITE_OK)
      std::fprintf(stderr, "row %s: %s (%d)\n", row.c_str(), sqlite3_errmsg(db_), rc);
    write_line(what, number_);
  }

  /// Says in the log, once for each `number`, that no row is written for now.
  void be_quiet(std::uint64_t number) {
    if (std::exchange(told_quiet_, number) != number) write_line("quiet ", number);
  }

 private:
  void write_line(const char* what, std::uint64_t number) const {
    const std::string line = what + std::to_string(epoch_) + " " + std::to_string(number) + "\n";
    if (::write(log_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) ::_exit(2);
  }
  void run(const char* sql) { check(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr), sql); }
  void check(int rc, const char* what) const {
    if (rc == SQLITE_OK) return;
    std::fprintf(stderr, "%s: %s\n", what, db_ != nullptr ? sqlite3_errmsg(db_) : "failed");
    std::exit(2);
  }

  sqlite3* db_ = nullptr;
  const std::uint64_t epoch_;
  const Options options_;
  std::uint64_t number_ = 0;
  std::uint64_t told_quiet_ = 0;
  int log_ = -1;
};

}  // namespace cluster::e2e
