// From a commit on the leader until a program reads it from a standby's file.
#include <algorithm>

#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "bench/sql.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using namespace std::chrono_literals;
namespace nats = cluster::nats;

const std::string kLagApp = "app-1";
constexpr double kMostMedian = 1;  // ms
constexpr double kMostP99 = 10;
constexpr int kLagReferences = 1'000;

// Of each commit, until it or a later one was seen.
Distribution between(const std::vector<RowTime>& written, const std::vector<RowTime>& seen) {
  Distribution times;
  auto sight = seen.begin();
  for (auto commit = written.begin() + 1; commit != written.end(); ++commit) {
    while (sight != seen.end() && sight->row < commit->row) ++sight;
    if (sight == seen.end()) throw Failed{"row " + std::to_string(commit->row) + " was never seen"};
    // Others see what was committed a little before the committing program is told.
    times.add(std::max(sight->time - commit->time, cluster::Duration(0)));
  }
  return times;
}

Distribution measure(Surroundings& around, const std::string& folder, Cluster& nodes,
                     const std::string& read_from, double rate) {
  const std::string database = nodes.database_file(nodes.leader(kLagApp));
  Reader reader(around.waiting, folder, read_from);
  around.waiting.pass(500ms);
  const auto written =
      write_rows(around.waiting, folder, database,
                 {.seconds = static_cast<double>(around.amounts.lag_seconds), .rate = rate});
  wait_caught_up(around.waiting, nodes, 60s);
  around.waiting.pass(200ms);
  return between(written, reader.stop());
}

void measure_both(Surroundings& around, bool sync_always) {
  const std::string sync = std::string(", sync_interval ") + (sync_always ? "always" : "default");
  const std::string folder = around.folder + (sync_always ? "/always" : "/default");
  const auto servers = nats::start_local_servers(1, folder + "/nats", sync_always);
  const std::string url = servers.front()->url();
  Cluster nodes(around.waiting, {.folder = folder, .urls = {url}, .database = true, .nodes = 2});
  const std::string leader = nodes.leader(kLagApp);
  const std::string standby = nodes.nodes()[leader == nodes.nodes()[0] ? 1 : 0];
  // So that both have a database.
  write_rows(around.waiting, folder, nodes.database_file(leader), {.seconds = 0.2, .rate = 100});
  wait_caught_up(around.waiting, nodes, 60s);
  for (const int rate : {100, 1'000}) {
    const auto before = stream_state(around.waiting, nodes);
    const auto times = measure(around, folder, nodes, nodes.database_file(standby), rate);
    const auto after = stream_state(around.waiting, nodes);
    const auto own = measure(around, folder, nodes, nodes.database_file(leader), rate);
    const auto messages = std::max<std::uint64_t>(1, after.last_seq - before.last_seq);
    const auto size = (after.bytes - before.bytes) / messages;
    const auto raw = raw_publish_ack(url, kLagReferences, size);
    const std::string what = std::to_string(rate) + " transactions of one row a second" + sync;
    around.report.line(what + ", commit to readable on a standby: " + times.text() + "; in " +
                       std::to_string(messages) + " messages of " + std::to_string(size) +
                       " bytes on average");
    around.report.line("the same reader on the leader's own file, which is what measuring adds: " +
                       own.text());
    around.report.line("reference: publish of as many bytes until JetStream acknowledges: " +
                       raw.text());
    // It is readable before the reader, who is woken and then asks, has read it.
    const double median = times.median() - own.median();
    around.report.verdict("commit to readable on a standby, " + what,
                          "p50 " + ms_text(median) + " (" + ms_text(times.median()) + " less the " +
                              ms_text(own.median()) + " that measuring adds), p99 " +
                              ms_text(times.quantile(0.99)) + " (raw publish p50 " +
                              ms_text(raw.median()) + ", p99 " + ms_text(raw.quantile(0.99)) + ")",
                          "p50 ≤ 1 ms, p99 ≤ 10 ms",
                          median <= kMostMedian && times.quantile(0.99) <= kMostP99);
  }
}

}  // namespace

void lag(Surroundings& around) {
  for (const bool always : {false, true}) measure_both(around, always);
}

}  // namespace bench
