// What the commands for databases share: which databases a platform has, their streams and
// snapshots, and how figures and progress are shown.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "cli/client.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/stored_claims.h"

namespace cluster::cli {

/// "812 B", "12 kB", "3 MB".
std::string size_text(std::uint64_t bytes);
/// RFC 3339, in UTC.
std::string time_text(std::int64_t time_ms);
/// One line on a terminal, written over and over, and gone at the end.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  /// "<what> 42 %", or "<what> …" when `all` is 0. Something else is shown at once, the same again
  /// only some times a second.
  void show(const std::string& what, std::uint64_t done, std::uint64_t all);

 private:
  const bool terminal_;
  std::string shown_{};  // of what
  std::chrono::steady_clock::time_point last_{};
};

/// Throws CommandError{not_found} when the platform has no database of that app.
void check_app(Client& client, const std::string& app);

/// What the store of an app is asked, from a thread that may block.
class DatabaseStore {
 public:
  DatabaseStore(Client& client, const std::string& app);

  /// Runs `task` as Client::work does.
  void work(const std::function<void(sqlite::SnapshotStore&, std::stop_token)>& task);
  const std::string& stream() const noexcept { return stream_; }

 private:
  Client& client_;
  const std::string stream_;
  sqlite::SnapshotStore store_;
  std::stop_source stop_{};
};

/// What is kept of a database beside the nodes' copies.
using KeptOfDatabase = sqlite::KeptFiles;
KeptOfDatabase look_at_store(Client& client, const std::string& app);

}  // namespace cluster::cli
