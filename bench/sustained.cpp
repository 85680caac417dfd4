// A writer that commits as fast as its core can: what replication takes from it, and whether
// replication keeps up.
#include <algorithm>
#include <filesystem>

#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "bench/sql.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using cluster::Duration;
using namespace std::chrono_literals;
namespace nats = cluster::nats;

const std::string kSustainedApp = "app-1";
constexpr int kWritersCore = 0;
constexpr int kOthersCore = 1;
constexpr double kLeastRatio = 0.9;       // of the writer's rate without replication
constexpr double kLeastBytesRatio = 0.7;  // of raw publishing
constexpr double kMostWal = 2;            // of wal_limit
constexpr int kBacklogRows = 1'000'000;
constexpr std::size_t kRawUnderWay = std::size_t{8} * 1024 * 1024;  // bytes

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string number_text(double value, int digits = 2) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

double seconds(Duration span) { return milliseconds(span) / 1000; }

struct Round {
  double off = 0, on = 0;       // rows a second
  double bytes_per_second = 0;  // while the writer wrote
  double catch_up_ms = 0;
  double stored_ms = 0;
  std::uint64_t message_size = 0;
};

double rows_per_second(const std::vector<RowTime>& written) {
  return static_cast<double>(written.back().row - written.front().row) /
         seconds(written.back().time - written.front().time);
}

// One transaction that is far more than can be under way.
struct Backlog {
  double bytes_per_second = 0;      // of its messages, from its commit until JetStream has all
  double raw_bytes_per_second = 0;  // the same messages, with nothing of ours
  std::uint64_t bytes = 0, message_size = 0;
};

template <typename T>
double median_of(const std::vector<T>& all, double T::* value) {
  std::vector<double> values;
  for (const auto& one : all) values.push_back(one.*value);
  return median(values);
}

struct Rounds {
  std::vector<Round> rounds{};
  std::uintmax_t most_wal = 0;
};

struct Stored {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
};

// A stream whose older part went into a snapshot meanwhile tells only what its messages have on
// average.
Stored stored_between(const nats::StreamState& before, const nats::StreamState& after) {
  const auto messages = std::max<std::uint64_t>(1, after.last_seq - before.last_seq);
  if (after.first_seq == before.first_seq) return {messages, after.bytes - before.bytes};
  return {messages, messages * (after.bytes / std::max<std::uint64_t>(1, after.messages))};
}

// From the commit of a large transaction until JetStream has all of it.
Backlog measure_backlog(Surroundings& around, Cluster& nodes, const std::string& folder,
                        const std::string& url) {
  const auto before = stream_state(around.waiting, nodes);
  const std::string leader = nodes.leader(kSustainedApp);
  const auto txid = nodes.database(leader).txid;
  const auto written = write_rows(around.waiting, folder, nodes.database_file(leader),
                                  {.seconds = 0.001, .rows = kBacklogRows});
  // A node that has not read it yet does not know that anything waits.
  around.waiting.wait_for("the node to see a large transaction", 60s,
                          [&] { return nodes.database(leader).txid > txid; });
  wait_stored(around.waiting, nodes, 120s);
  const auto took = cluster::BootClock::now() - written.back().time;
  wait_caught_up(around.waiting, nodes, 120s);
  const auto after = stream_state(around.waiting, nodes);
  const auto [messages, bytes] = stored_between(before, after);
  if (bytes < messages) throw Failed{"the stream has nothing of a large transaction"};
  Backlog found;
  found.bytes = bytes;
  found.message_size = bytes / messages;
  found.bytes_per_second = static_cast<double>(bytes) / seconds(took);
  const std::vector<std::size_t> sizes(messages, bytes / messages);
  const auto depth = std::clamp<std::size_t>(kRawUnderWay / (bytes / messages), 4, 256);
  const auto raw = raw_publish_async(url, sizes, static_cast<std::int64_t>(depth));
  found.raw_bytes_per_second = static_cast<double>(bytes) / seconds(raw);
  return found;
}

void measure_backlogs(Surroundings& around, bool sync_always, int node_count) {
  const std::string sync = (sync_always ? "always" : "default") + standbys(node_count);
  const std::string folder = around.folder + "/" + (sync_always ? "always" : "default") +
                             "-backlog-" + std::to_string(node_count);
  std::filesystem::create_directories(folder);
  const auto servers = nats::start_local_servers(1, folder + "/nats", sync_always);
  const std::string url = servers.front()->url();
  Cluster nodes(around.waiting,
                {.folder = folder, .urls = {url}, .database = true, .nodes = node_count});
  std::vector<Backlog> all;
  // The first one makes the database.
  for (int i = 0; i <= around.amounts.sustained_rounds; ++i) {
    const auto one = measure_backlog(around, nodes, folder, url);
    if (i == 0) continue;
    all.push_back(one);
    around.report.line("one transaction of a million rows, sync_interval " + sync + ": " +
                       number_text(static_cast<double>(one.bytes) / 1e6, 1) +
                       " MB in messages of " + std::to_string(one.message_size) + " bytes; " +
                       number_text(one.bytes_per_second / 1e6, 1) + " MB/s, raw publishing " +
                       number_text(one.raw_bytes_per_second / 1e6, 1) + " MB/s");
  }
  const double bytes = median_of(all, &Backlog::bytes_per_second);
  const double raw = median_of(all, &Backlog::raw_bytes_per_second);
  around.report.verdict(
      "bytes that are replicated while a large transaction waits, sync_interval " + sync,
      number_text(bytes / 1e6, 1) + " MB/s, raw publishing " + number_text(raw / 1e6, 1) +
          " MB/s: " + number_text(bytes / raw),
      "≥ 0.7 of raw", bytes / raw >= kLeastBytesRatio);
}

Rounds measure(Surroundings& around, const std::string& folder, bool sync_always, int rows,
               int node_count) {
  std::filesystem::create_directories(folder);
  const auto servers = nats::start_local_servers(1, folder + "/nats", sync_always);
  const std::string url = servers.front()->url();
  Cluster nodes(around.waiting,
                {.folder = folder, .urls = {url}, .database = true, .nodes = node_count});
  const std::string database = nodes.database_file(nodes.leader(kSustainedApp));
  const Load load{.seconds = static_cast<double>(around.amounts.sustained_seconds),
                  .rows = rows,
                  .core = kWritersCore};
  Rounds found;
  const auto look_at_wal = [&] {
    std::error_code none;
    const auto size = std::filesystem::file_size(database + "-wal", none);
    if (!none) found.most_wal = std::max(found.most_wal, size);
  };
  for (int i = 0; i < around.amounts.sustained_rounds; ++i) {
    Round round;
    round.off = rows_per_second(write_rows(around.waiting, folder, folder + "/alone.db", load));
    const auto before = stream_state(around.waiting, nodes);
    const auto written = write_rows(around.waiting, folder, database, load, look_at_wal);
    round.on = rows_per_second(written);
    Duration stored{};
    round.catch_up_ms = milliseconds(wait_caught_up(around.waiting, nodes, 120s, &stored));
    round.stored_ms = milliseconds(stored);
    look_at_wal();
    const auto after = stream_state(around.waiting, nodes);
    const auto [messages, bytes] = stored_between(before, after);
    round.message_size = bytes / messages;
    round.bytes_per_second =
        static_cast<double>(bytes) /
        (seconds(written.back().time - written.front().time) + round.stored_ms / 1000);
    found.rounds.push_back(round);
  }
  return found;
}

void report(Surroundings& around, const std::string& what, const Rounds& found, bool standby) {
  const cluster::Sqlite options;
  const double off = median_of(found.rounds, &Round::off), on = median_of(found.rounds, &Round::on);
  const double catch_up = median_of(found.rounds, &Round::catch_up_ms);
  const double stored = median_of(found.rounds, &Round::stored_ms);
  const double limit = static_cast<double>(options.wal_limit);
  const double wal = static_cast<double>(found.most_wal) / limit;
  for (const auto& round : found.rounds)
    around.report.line(what + ": rows a second " + number_text(round.off, 0) + " alone, " +
                       number_text(round.on, 0) + " replicated; " +
                       number_text(round.bytes_per_second / 1e6, 1) + " MB/s in messages of " +
                       std::to_string(round.message_size) + " bytes; all stored after another " +
                       ms_text(round.stored_ms) +
                       (standby ? ", on the standby after " + ms_text(round.catch_up_ms) : ""));
  around.report.verdict(
      what + ": the writer's rate with replication",
      number_text(on, 0) + " rows/s, alone " + number_text(off, 0) + ": " + number_text(on / off) +
          "; " +
          (standby ? "on the standby " + ms_text(catch_up) : "all stored " + ms_text(stored)) +
          " after the last commit",
      "≥ 0.9", on / off >= kLeastRatio);
  around.report.verdict(what + ": the longest WAL", number_text(wal) + " of wal_limit", "≤ 2",
                        wal <= kMostWal);
}

}  // namespace

void sustained(Surroundings& around) {
  for (const bool always : {false, true})
    for (const int nodes : {kLeaderAlone, kWithStandby}) measure_backlogs(around, always, nodes);
  const Pinned pinned({kOthersCore});
  around.report.line(
      "the writer has core 0 for itself, all else (server, nodes) shares core 1; "
      "medians of " +
      std::to_string(around.amounts.sustained_rounds) + " rounds of " +
      std::to_string(around.amounts.sustained_seconds) + " s");
  for (const bool always : {false, true})
    for (const int rows : {1, 1'000})
      for (const int nodes : {kLeaderAlone, kWithStandby}) {
        const std::string sync = always ? "always" : "default";
        const auto found = measure(
            around,
            around.folder + "/" + sync + "-" + std::to_string(rows) + "-" + std::to_string(nodes),
            always, rows, nodes);
        report(around,
               "transactions of " + std::to_string(rows) + (rows == 1 ? " row" : " rows") +
                   ", sync_interval " + sync + standbys(nodes),
               found, nodes == kWithStandby);
      }
}

}  // namespace bench
