// A leader steps down: from the end of its on_passive to the start of the next on_active.
#include <algorithm>

#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "cluster/options.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using namespace std::chrono_literals;

constexpr int kApps = 40;
constexpr int kHandoverReferences = 500;

std::string other_node(const Cluster& nodes, const std::string& leader, int turn) {
  std::vector<std::string> others = nodes.nodes();
  std::erase(others, leader);
  return others[static_cast<std::size_t>(turn) % others.size()];
}

// Who stepped down stays out of the election for a while: with many apps there is always one of
// which nobody does.
Distribution repeat_handover(Surroundings& around, Cluster& nodes, int count, bool targeted) {
  const auto rest = 5 * cluster::Timing{}.session_timeout;
  Distribution gaps;
  for (int i = 0; i < count; ++i) {
    if (i % kApps == 0) around.waiting.pass(rest);
    const std::string app = "app-" + std::to_string(i % kApps + 1);
    const std::uint64_t epoch = nodes.epoch(app);
    const std::string leader = nodes.leader(app);
    nodes.forget();
    nodes.step_down(app, targeted ? other_node(nodes, leader, i) : "");
    around.waiting.wait_for("the next leader of " + app, 30s, [&] {
      return nodes.find("active", app, epoch) != nullptr && nodes.epoch(app) > epoch;
    });
    const Moment* end = nodes.find("passive", app, epoch - 1);
    if (end == nullptr) throw Failed{"on_passive of " + app + " was not journaled"};
    gaps.add(nodes.find("active", app, epoch)->time - end->time);
  }
  return gaps;
}

}  // namespace

void handover(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  const RawNats raw = measure_raw_nats(url, 1, kHandoverReferences);
  Cluster nodes(around.waiting, {.folder = around.folder, .urls = {url}, .apps = kApps});
  const Distribution free = repeat_handover(around, nodes, around.amounts.handovers, false);
  const Distribution targeted = repeat_handover(around, nodes, around.amounts.handovers, true);
  around.report.line("to whoever is first: " + free.text());
  around.report.line("to a named node: " + targeted.text());
  around.report.line("reference: a NATS request's round trip: " + raw.request.text());
  around.report.line("reference: a key-value update: " + raw.kv_update.text());
  const std::string beside = " (twice the round trip: " + ms_text(2 * raw.request.median()) +
                             "; two KV updates: " + ms_text(2 * raw.kv_update.median()) + ")";
  for (const auto* gaps : {&free, &targeted})
    around.report.verdict(
        std::string("hand-over, end of on_passive to next on_active, ") +
            (gaps == &free ? "to whoever is first" : "to a named node"),
        "p50 " + ms_text(gaps->median()) + ", p99 " + ms_text(gaps->quantile(0.99)) + beside, "",
        std::nullopt);
}

}  // namespace bench
