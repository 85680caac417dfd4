// kill -9 of one NATS server of three: sessions and leads must outlive it.
#include <algorithm>
#include <map>

#include <nlohmann/json.hpp>

#include "bench/cluster.h"
#include "bench/figures.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using cluster::BootClock;
using cluster::Time;
using nlohmann::json;
using namespace std::chrono_literals;
namespace nats = cluster::nats;

using Servers = std::vector<std::unique_ptr<nats::EmbeddedServer>>;
const std::vector<std::string> kStreams{"KV_" + kPlatform + "_members",
                                        "KV_" + kPlatform + "_leases"};

struct Replicas {
  std::string leader{};
  bool all_current = false;
  std::string text = "nobody answers";
};

// Empty while nobody answers.
Replicas replicas(Waiting& waiting, Cluster& nodes, const std::string& stream) {
  const auto answer = nats::await<std::string>(waiting.loop(), 2s, [&](auto done) {
    nodes.jetstream().api("STREAM.INFO." + stream, "", 500ms, done);
  });
  if (!answer) return {};
  const json info = json::parse(answer.value(), nullptr, false);
  if (!info.contains("cluster")) return {};
  Replicas found{info["cluster"].value("leader", ""), false, answer.value()};
  const json others = info["cluster"].value("replicas", json::array());
  found.all_current =
      others.size() == 2 && std::all_of(others.begin(), others.end(), [](const json& peer) {
        return peer.value("current", false) && !peer.value("offline", false) &&
               peer.value("lag", 0) == 0;
      });
  return found;
}

// Asks again and again until `fits` is true for every stream. Returns what it last saw of one that
// did not fit to the end; empty: all do.
std::string look_at_streams(Surroundings& around, Cluster& nodes, cluster::Duration limit,
                            const std::function<bool(const Replicas&)>& fits) {
  const Time until = BootClock::now() + limit;
  for (;;) {
    std::string misfit;
    for (const auto& stream : kStreams)
      if (const Replicas seen = replicas(around.waiting, nodes, stream); !fits(seen))
        misfit = stream + ": " + seen.text;
    if (misfit.empty() || BootClock::now() > until) return misfit;
    around.waiting.pass(50ms);
  }
}

void wait_for_streams(Surroundings& around, Cluster& nodes, const std::string& what,
                      const std::function<bool(const Replicas&)>& fits) {
  const std::string misfit = look_at_streams(around, nodes, 120s, fits);
  if (!misfit.empty()) throw Failed{"for 120 s it has waited in vain for " + what + "; " + misfit};
}

struct Losses {
  Distribution outage{};  // until both streams have a leader again
  int led_members = 0;    // kills of the server that led the members' stream
  int sessions_lost = 0;
  int leader_changes = 0;
  int reconnects = 0;
  int never_current = 0;  // kills after which a replica lagged behind for good
};

// Now and then a server that was killed comes back with a replica that nats-server never calls
// current again. Two of three are left, which is enough for the next loss; it is counted.
void wait_for_replicas(Surroundings& around, Cluster& nodes, Losses& found) {
  const std::string misfit = look_at_streams(
      around, nodes, 30s, [](const Replicas& r) { return !r.leader.empty() && r.all_current; });
  if (misfit.empty()) return;
  ++found.never_current;
  around.report.line("a replica is not current 30 s after its server's start: " + misfit);
  wait_for_streams(around, nodes, "a leader", [](const Replicas& r) { return !r.leader.empty(); });
}

Losses repeat(Surroundings& around, Cluster& nodes, Servers& servers, bool with_node) {
  Losses found;
  // By what the nodes say, and by the ids that stand on NATS: neither may miss one.
  const int lost_before = nodes.count_log_lines("session_ended");
  int ids_changed = 0;
  std::map<std::string, std::string> sessions;
  for (const auto& name : nodes.nodes()) sessions[name] = nodes.session(name);
  wait_for_replicas(around, nodes, found);
  for (int i = 0; i < around.amounts.server_kills; ++i) {
    nodes.wait_whole(120s);
    // Servers say "current" of one that has just come back. Each loss is to be one of its own, not
    // the second within lease_ttl, in which nobody could write in between.
    nodes.wait_rewritten();
    const std::string leads = replicas(around.waiting, nodes, kStreams.front()).leader;
    // Each server in turn, and each second time the one that leads.
    auto server = servers.begin() + (i / 2) % static_cast<int>(servers.size());
    if (i % 2 == 1)
      server = std::find_if(servers.begin(), servers.end(),
                            [&](const auto& one) { return one->options().server_name == leads; });
    if (server == servers.end()) throw Failed{"no server of ours leads " + kStreams.front()};
    const std::string victim = (*server)->options().server_name;
    if (victim == leads) ++found.led_members;

    const std::string leader = nodes.leader("app-1");
    std::string node;
    for (const auto& name : nodes.nodes())
      if (name != leader && (node.empty() || i % 2 == 1)) node = name;
    nodes.forget();
    const int reconnects = nodes.count_log_lines("nats_disconnected");
    const Time killed = BootClock::now();
    (*server)->kill_hard();
    if (with_node) nodes.kill_machine(node);
    wait_for_streams(around, nodes, "other servers that lead the streams of " + victim,
                     [&](const Replicas& r) { return !r.leader.empty() && r.leader != victim; });
    found.outage.add(BootClock::now() - killed);
    (*server)->start_again();
    (*server)->wait_ready(60s);
    wait_for_replicas(around, nodes, found);
    if (with_node) {
      around.waiting.wait_for("the end of the session of " + node, 60s,
                              [&] { return nodes.ended(node); });
      nodes.start(node);
    }
    nodes.wait_whole(120s);
    for (auto& [name, session] : sessions) {
      if (nodes.session(name) == session) continue;
      if (!with_node || name != node) ++ids_changed;
      session = nodes.session(name);
    }
    found.reconnects += nodes.count_log_lines("nats_disconnected") - reconnects;
    for (const auto& moment : nodes.moments())
      if (moment.what == "active") ++found.leader_changes;
  }
  found.sessions_lost = std::max(ids_changed, nodes.count_log_lines("session_ended") - lost_before);
  return found;
}

void tell(Surroundings& around, const std::string& what, const Losses& found) {
  around.report.line(what + ": " + std::to_string(found.outage.size()) + " kills, " +
                     std::to_string(found.led_members) +
                     " of them of the server that led the members' stream; nodes lost their "
                     "connection " +
                     std::to_string(found.reconnects) + " times");
  if (found.never_current > 0)
    around.report.line(what + ": " + std::to_string(found.never_current) +
                       " times a replica was not current 30 s after its server's start");
  around.report.line(what + ", until both streams had a leader again: " + found.outage.text());
  around.report.line(what +
                     ": sessions lost by healthy nodes: " + std::to_string(found.sessions_lost) +
                     ", leadership changes: " + std::to_string(found.leader_changes));
}

}  // namespace

void server_loss(Surroundings& around) {
  Servers servers = nats::start_local_servers(3, around.folder + "/nats", around.sync_always);
  std::vector<std::string> urls;
  for (const auto& server : servers) urls.push_back(server->url());
  Cluster nodes(around.waiting, {.folder = around.folder, .urls = urls});
  const std::string times = std::to_string(around.amounts.server_kills) + " times";

  const Losses alone = repeat(around, nodes, servers, false);
  tell(around, "one server killed", alone);
  around.report.verdict(
      "kill -9 of one NATS server of three, " + times + ": sessions lost by healthy nodes",
      std::to_string(alone.sessions_lost) + " (without a stream leader for p50 " +
          ms_text(alone.outage.median()) + ", max " + ms_text(alone.outage.max()) + ")",
      "0", alone.sessions_lost == 0);

  const Losses both = repeat(around, nodes, servers, true);
  tell(around, "a server and a node that does not lead killed", both);
  around.report.verdict(
      "the same with a node that does not lead, " + times + ": leadership changes",
      std::to_string(both.leader_changes) +
          " (sessions lost by healthy nodes: " + std::to_string(both.sessions_lost) + ")",
      "0", both.leader_changes == 0 && both.sessions_lost == 0);
}

}  // namespace bench
