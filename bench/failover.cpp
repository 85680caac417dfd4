// From the death of the leading node, process or machine, to the next leader.
#include <algorithm>
#include <functional>
#include <memory>
#include <random>

#include <sqlite3.h>

#include "bench/built.h"
#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/raw_nats.h"
#include "bench/sql.h"
#include "cluster/options.h"
#include "nats/embedded_server.h"
#include "sqlite/handle.h"

namespace bench {
namespace {

using cluster::BootClock;
using cluster::Duration;
using cluster::Time;
using namespace std::chrono_literals;

const std::string kFailoverApp = "app-1";
constexpr int kFailoverReferences = 500;
constexpr int kOutstandingRows = 85'000;  // about 10 MB of WAL

struct Failovers {
  Distribution total{};        // to the next on_active
  Distribution session_end{};  // to the end of the session, as NATS shows it to a watcher
  Distribution lease{};        // to the next lease
};

// `prepare`: called before the kill of that node; what it returns, right after.
using Prepare = std::function<std::function<void()>(const std::string& victim)>;

Failovers repeat(Surroundings& around, Cluster& nodes, int count, bool machine,
                 const Prepare& prepare = {}) {
  Failovers found;
  // So that kills fall anywhere between two heartbeats; the same places in each run.
  std::mt19937 random(1);
  const cluster::Timing timing;
  std::uniform_int_distribution<int> pause_us(
      0, static_cast<int>(std::chrono::microseconds(timing.session_timeout / 4).count()));
  for (int i = 0; i < count; ++i) {
    nodes.wait_whole();
    around.waiting.pass(std::chrono::microseconds(pause_us(random)));
    nodes.forget();
    const std::string victim = nodes.leader(kFailoverApp);
    const std::uint64_t epoch = nodes.epoch(kFailoverApp);
    const auto then = prepare ? prepare(victim) : std::function<void()>();
    nodes.forget();
    const Time killed = machine ? nodes.kill_machine(victim) : nodes.kill_process(victim);
    if (then) then();
    around.waiting.wait_for("the next leader after " + victim, 60s, [&] {
      return nodes.find("active", kFailoverApp, epoch) != nullptr && !nodes.ends().empty() &&
             nodes.epoch(kFailoverApp) > epoch;
    });
    found.total.add(nodes.find("active", kFailoverApp, epoch)->time - killed);
    found.session_end.add(nodes.ends().front().time - killed);
    const auto& leases = nodes.leases();
    const auto lease = std::find_if(leases.begin(), leases.end(), [&](const SeenLease& seen) {
      return seen.record.app == kFailoverApp && seen.record.held && seen.record.epoch > epoch;
    });
    if (lease != leases.end()) found.lease.add(lease->time - killed);
    nodes.start(victim);
  }
  return found;
}

void details(Surroundings& around, const Failovers& found, const RawNats& raw) {
  around.report.line("to the next on_active: " + found.total.text());
  around.report.line("of that, to the end of the session as a watcher on NATS sees it: " +
                     found.session_end.text());
  around.report.line("of that, to the next lease as a watcher on NATS sees it: " +
                     found.lease.text());
  around.report.line("reference: a NATS request's round trip: " + raw.request.text());
  around.report.line("reference: a key-value update: " + raw.kv_update.text());
}

std::string figures_text(const Distribution& times) {
  return "p50 " + ms_text(times.median()) + ", p99 " + ms_text(times.quantile(0.99)) + ", max " +
         ms_text(times.max());
}

std::string reference_text(const RawNats& raw) {
  return " (round trip " + ms_text(raw.request.median()) + ", KV update " +
         ms_text(raw.kv_update.median()) + ")";
}

}  // namespace

void failover_process(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  const RawNats raw = measure_raw_nats(url, 1, kFailoverReferences);
  {
    Cluster nodes(around.waiting, {.folder = around.folder, .urls = {url}});
    const Failovers found = repeat(around, nodes, around.amounts.failovers, false);
    details(around, found, raw);
    const bool met = found.total.median() <= 50 && found.total.quantile(0.99) <= 200;
    around.report.verdict("kill -9 of the leading process, to the next on_active",
                          figures_text(found.total) + reference_text(raw),
                          "p50 ≤ 50 ms, p99 ≤ 200 ms", met);
  }
  if (std::string(built::kBackend).empty()) return;
  std::error_code ignored;
  const std::string folder = around.folder + "/backend";
  const auto backend_servers =
      cluster::nats::start_local_servers(1, folder + "/nats", around.sync_always);
  Cluster nodes(
      around.waiting,
      {.folder = folder, .urls = {backend_servers.front()->url()}, .backend = built::kBackend});
  const Failovers found = repeat(around, nodes, around.amounts.failovers_with_backend, false);
  around.report.line(
      "with a program under management (examples/notes), until it is ready and "
      "on_active begins: " +
      found.total.text());
  around.report.verdict("the same with a program under management, until that is ready",
                        figures_text(found.total), "", std::nullopt);
}

void failover_database(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  const int count = around.amounts.failovers_with_backend;
  Failovers without, with;
  {
    Cluster nodes(around.waiting, {.folder = around.folder + "/without", .urls = {url}});
    without = repeat(around, nodes, count, false);
  }
  const auto database_servers =
      cluster::nats::start_local_servers(1, around.folder + "/database-nats", around.sync_always);
  Cluster nodes(around.waiting, {.folder = around.folder + "/with",
                                 .urls = {database_servers.front()->url()},
                                 .database = true});
  with = repeat(around, nodes, count, false, [&](const std::string& victim) {
    const std::string file = nodes.database_file(victim);
    // So that the database does not grow from kill to kill: reading it takes a part of the time.
    cluster::sqlite::Handle program(file, cluster::sqlite::Handle::Access::create);
    sqlite3_busy_timeout(program.get(), 10'000);
    program.exec(
        "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, text "
        "TEXT); DELETE FROM rows");
    program.close();
    write_rows(around.waiting, around.folder, file, {.seconds = 0.01});
    wait_caught_up(around.waiting, nodes, 60s);
    // Standbys wait for the writer lock, and so can't apply what comes; they look for it every 5 ms
    // at last: that is in the figure.
    auto locks = std::make_shared<std::vector<cluster::sqlite::Handle>>();
    for (const auto& node : nodes.nodes())
      if (node != victim) {
        locks->push_back(cluster::sqlite::open_beside(nodes.database_file(node), 1'000));
        locks->back().exec("BEGIN IMMEDIATE");
      }
    write_rows(around.waiting, around.folder, file, {.seconds = 0.001, .rows = kOutstandingRows});
    wait_stored(around.waiting, nodes, 60s);
    return [locks] { locks->clear(); };
  });
  const double added = with.total.median() - without.total.median();
  around.report.line("with 10 MB of WAL outstanding on both standbys: " + with.total.text());
  around.report.line("reference: the same without a database: " + without.total.text());
  around.report.verdict("time that a database with 10 MB outstanding adds to a failover",
                        ms_text(added) + " (p50 " + ms_text(with.total.median()) + ", without " +
                            ms_text(without.total.median()) + ")",
                        "≤ 200 ms", added <= 200);
}

void failover_machine(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  const RawNats raw = measure_raw_nats(url, 1, kFailoverReferences);
  Cluster nodes(around.waiting, {.folder = around.folder, .urls = {url}});
  const Failovers found = repeat(around, nodes, around.amounts.machine_failovers, true);
  details(around, found, raw);
  const double session_timeout = milliseconds(cluster::Timing{}.session_timeout);
  around.report.line("reference: session_timeout: " + ms_text(session_timeout));
  const bool met = found.total.median() <= 800 && found.total.max() <= 1'000;
  around.report.verdict("process and guardian killed together, to the next on_active",
                        "median " + ms_text(found.total.median()) + ", max " +
                            ms_text(found.total.max()) + " (session_timeout " +
                            ms_text(session_timeout) + ")",
                        "median ≤ 800 ms, max ≤ 1000 ms", met);
}

}  // namespace bench
