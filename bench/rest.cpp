// What three nodes cost while nothing happens, with 1, 100 and 1,000 apps.
#include <algorithm>

#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/monitored_server.h"

namespace bench {
namespace {

using cluster::BootClock;
using cluster::Duration;
using cluster::Time;
using namespace std::chrono_literals;

constexpr double kMostMib = 20;  // with 100 apps
// Threads that ran the hooks of the start end after 10 s without work.
constexpr auto kUntilRest = 12s;
constexpr double kMostMessageGrowth = 1.05;  // what runs in 30 s is not the same number each time

struct Costs {
  double messages = 0;  // a second; what the server passes on counts as received and as sent
  double node_cpu = 0;  // percent of a core; the highest of the three
  double guardian_cpu = 0;
  double server_cpu = 0;
  double node_mib = 0;  // resident; the highest of the three
  double guardian_mib = 0;
};

double mib(pid_t pid) { return static_cast<double>(status_kib(pid, "VmRSS")) / 1024; }

std::string number(double value, const char* unit) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return std::string(text) + unit;
}

Costs measure(Surroundings& around, int apps) {
  const std::string folder = around.folder + "/" + std::to_string(apps);
  const MonitoredServer server(around.waiting, folder + "/nats", around.sync_always);
  Cluster nodes(around.waiting, {.folder = folder, .urls = {server.url()}, .apps = apps});
  nodes.disconnect();
  around.waiting.pass(kUntilRest);

  std::vector<pid_t> pids{server.pid()};
  for (const auto& node : nodes.nodes()) pids.push_back(nodes.node_pid(node));
  for (const auto& node : nodes.nodes()) pids.push_back(nodes.guardian_pid(node));
  std::vector<Duration> before;
  for (const pid_t pid : pids) before.push_back(cpu_time(pid));
  const std::int64_t messages = server.messages();
  const Time begin = BootClock::now();
  around.waiting.pass(std::chrono::seconds(around.amounts.rest_seconds));
  const double seconds = milliseconds(BootClock::now() - begin) / 1000;
  Costs costs;
  costs.messages = static_cast<double>(server.messages() - messages) / seconds;
  const auto percent = [&](std::size_t i) {
    return milliseconds(cpu_time(pids[i]) - before[i]) / 1000 / seconds * 100;
  };
  costs.server_cpu = percent(0);
  for (std::size_t i = 1; i <= 3; ++i) {
    costs.node_cpu = std::max(costs.node_cpu, percent(i));
    costs.guardian_cpu = std::max(costs.guardian_cpu, percent(i + 3));
    costs.node_mib = std::max(costs.node_mib, mib(pids[i]));
    costs.guardian_mib = std::max(costs.guardian_mib, mib(pids[i + 3]));
  }
  around.report.line(
      std::to_string(apps) + (apps == 1 ? " app: " : " apps: ") +
      number(costs.messages, " messages a second, in and out; a node takes ") +
      number(costs.node_cpu, "% of a core and ") + number(costs.node_mib, " MiB, a guardian ") +
      number(costs.guardian_cpu, "% and ") + number(costs.guardian_mib, " MiB, the server ") +
      number(costs.server_cpu, "%"));
  return costs;
}

}  // namespace

void rest(Surroundings& around) {
  const Costs one = measure(around, 1);
  const Costs hundred = measure(around, 100);
  const Costs thousand = measure(around, 1'000);
  around.report.verdict(
      "messages a second at rest with 1, 100 and 1,000 apps, in and out of the server",
      number(one.messages, ", ") + number(hundred.messages, ", ") + number(thousand.messages, ""),
      "do not grow with apps",
      std::max(hundred.messages, thousand.messages) <= one.messages * kMostMessageGrowth);
  around.report.verdict("resident memory of a node at rest with 1, 100 and 1,000 apps",
                        number(one.node_mib, ", ") + number(hundred.node_mib, ", ") +
                            number(thousand.node_mib, " MiB") + " (its guardian " +
                            number(hundred.guardian_mib, " MiB)"),
                        "≤ 20 MiB with 100 apps", hundred.node_mib <= kMostMib);
  around.report.verdict("processor time of a node at rest with 1, 100 and 1,000 apps",
                        number(one.node_cpu, "%, ") + number(hundred.node_cpu, "%, ") +
                            number(thousand.node_cpu, "% of a core"),
                        "", std::nullopt);
}

}  // namespace bench
