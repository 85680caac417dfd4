// Commits that wait until JetStream has acknowledged them: what that takes, and what many
// committers gain by sharing round trips.
#include "bench/built.h"
#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "bench/sql.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using namespace std::chrono_literals;
namespace nats = cluster::nats;

const std::string kApp = "app-1";
constexpr int kCommitters = 16;
constexpr double kLeastGain = 5;
constexpr int kReferenceOperations = 2'000;

std::string rate_text(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0f commits/s", per_second);
  return text;
}

void measure(Surroundings& around, bool sync_always, int node_count) {
  const std::string folder =
      around.folder + (sync_always ? "/always-" : "/default-") + std::to_string(node_count);
  const std::string sync =
      std::string("sync_interval ") + (sync_always ? "always" : "default") + standbys(node_count);
  const auto servers = nats::start_local_servers(1, folder + "/nats", sync_always);
  const std::string url = servers.front()->url();
  Cluster nodes(around.waiting,
                {.folder = folder, .urls = {url}, .database = true, .nodes = node_count});
  const std::string database = nodes.database_file(nodes.leader(kApp));
  const double seconds = around.amounts.commit_seconds;
  const auto commits = [&](const std::string& extension, int committers) {
    auto found = commit_rows(around.waiting, folder, database, extension, seconds, committers);
    wait_caught_up(around.waiting, nodes, 60s);
    return found;
  };
  const auto local = commits("-", 1);
  const auto before = stream_state(around.waiting, nodes);
  const auto one = commits(built::kExtension, 1);
  const auto after = stream_state(around.waiting, nodes);
  const auto many = commits(built::kExtension, kCommitters);
  const auto messages = std::max<std::uint64_t>(1, after.last_seq - before.last_seq);
  const auto raw =
      raw_publish_ack(url, kReferenceOperations, (after.bytes - before.bytes) / messages);
  around.report.line(sync + ": one committer: " + one.times.text() + "; " +
                     rate_text(one.per_second) + ", the longest pause " +
                     ms_text(milliseconds(one.longest_gap)) +
                     "; the same without waiting: " + local.times.text());
  around.report.line(sync + ": " + std::to_string(kCommitters) +
                     " committers: " + many.times.text() + "; " + rate_text(many.per_second) +
                     ", the longest pause " + ms_text(milliseconds(many.longest_gap)));
  around.report.line("reference: publish of as many bytes until JetStream acknowledges: " +
                     raw.text());
  const auto p50_p99 = [](const Distribution& times) {
    return "p50 " + ms_text(times.median()) + ", p99 " + ms_text(times.quantile(0.99));
  };
  around.report.verdict("commit = replicated, " + sync,
                        p50_p99(one.times) + " (raw publish " + p50_p99(raw) + ")", "", {});
  char gain[32];
  std::snprintf(gain, sizeof gain, "%.1f times", many.per_second / one.per_second);
  around.report.verdict(std::to_string(kCommitters) + " committers that share round trips, " + sync,
                        std::string(gain) + " one committer's rate: " + rate_text(many.per_second) +
                            ", " + p50_p99(many.times),
                        "≥ 5 times", many.per_second / one.per_second >= kLeastGain);
}

}  // namespace

void commit(Surroundings& around) {
  for (const bool always : {false, true})
    for (const int nodes : {kLeaderAlone, kWithStandby}) measure(around, always, nodes);
}

}  // namespace bench
