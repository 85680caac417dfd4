#include "cli/database_client.h"

#include <algorithm>
#include <cstdio>

#include <unistd.h>

#include "core/names.h"
#include "nats/stored_message.h"

namespace cluster::cli {

std::string size_text(std::uint64_t bytes) {
  if (bytes < 10'000) return std::to_string(bytes) + " B";
  if (bytes < 10'000'000) return std::to_string(bytes / 1'000) + " kB";
  if (bytes < 10'000'000'000) return std::to_string(bytes / 1'000'000) + " MB";
  return std::to_string(bytes / 1'000'000'000) + " GB";
}

std::string time_text(std::int64_t time_ms) { return nats::rfc3339_from(time_ms * 1'000'000); }

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (!shown_.empty()) std::fprintf(stderr, "\r\033[K");
}

void ProgressLine::show(const std::string& what, std::uint64_t done, std::uint64_t all) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ == what && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = what;
  const std::string far = all == 0 ? "…" : std::to_string(done * 100 / all) + " %";
  std::fprintf(stderr, "\r\033[K%s %s", what.c_str(), far.c_str());
  std::fflush(stderr);
}

void check_app(Client& client, const std::string& app) {
  const auto apps = client.apps_with_databases();
  if (std::find(apps.begin(), apps.end(), app) != apps.end()) return;
  const std::string near = nearest_name(app, apps);
  throw CommandError(Exit::not_found, "platform " + client.platform() +
                                          " has no database of an app \"" + app + "\"" +
                                          (near.empty() ? "" : "; did you mean \"" + near + "\"?"));
}

DatabaseStore::DatabaseStore(Client& client, const std::string& app)
    : client_(client),
      stream_(sqlite::wal_stream(client.platform(), app)),
      store_(client.jetstream(), sqlite::snapshot_bucket(client.platform(), app)) {}

void DatabaseStore::work(const std::function<void(sqlite::SnapshotStore&, std::stop_token)>& task) {
  client_.work([&] { task(store_, stop_.get_token()); }, stop_);
}

KeptOfDatabase look_at_store(Client& client, const std::string& app) {
  KeptOfDatabase kept;
  DatabaseStore store(client, app);
  store.work([&](sqlite::SnapshotStore& s, std::stop_token stop) {
    kept = sqlite::kept_files(s, store.stream(), stop);
  });
  return kept;
}

}  // namespace cluster::cli
