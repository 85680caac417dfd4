// A snapshot of a database and its restore, as the commands do them, beside cp.
#include <filesystem>
#include <fstream>

#include "bench/built.h"
#include "bench/child.h"
#include "bench/cluster.h"
#include "bench/figures.h"
#include "bench/sql.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using cluster::BootClock;
using namespace std::chrono_literals;
namespace fs = std::filesystem;
namespace nats = cluster::nats;

const std::string kSnapshotApp = "app-1";
constexpr int kRowsAtOnce = 100'000;
constexpr double kMostMemoryMib = 64;

struct Took {
  cluster::Duration time{};
  double memory_mib = 0;
};

Took run(Surroundings& around, const std::vector<std::string>& command) {
  const std::string log = around.folder + "/commands.log";
  const auto begin = BootClock::now();
  Child child(command, log);
  std::string how;
  around.waiting.wait_for(command.front(), 10min, [&] { return !child.running(&how); });
  const auto took = BootClock::now() - begin;
  if (how != "exited with status 0") throw Failed{command.front() + " " + how + ": read " + log};
  return {took, static_cast<double>(child.most_memory_kib()) / 1024};
}

std::string whole(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0f", value);
  return text;
}

}  // namespace

void snapshot(Surroundings& around) {
  const auto servers = nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  Cluster nodes(around.waiting,
                {.folder = around.folder, .urls = {url}, .database = true, .nodes = 2});
  const std::string leader = nodes.leader(kSnapshotApp);
  const std::string database = nodes.database_file(leader);
  const auto wanted =
      std::uint64_t{1024} * 1024 * static_cast<std::uint64_t>(around.amounts.snapshot_mib);
  const auto size = [&] {
    std::error_code none;
    const auto found = fs::file_size(database, none);
    return none ? 0 : found;
  };
  while (size() < wanted) {
    write_rows(around.waiting, around.folder, database, {.seconds = 0.001, .rows = kRowsAtOnce});
    wait_caught_up(around.waiting, nodes, 120s);
  }
  const auto bytes = static_cast<double>(size());
  const auto rate = [&](const Took& took) { return bytes / 1e3 / milliseconds(took.time); };
  const auto line = [&](const std::string& what, const Took& took, const std::string& memory) {
    around.report.line(what + ": " + whole(milliseconds(took.time)) + " ms, " + whole(rate(took)) +
                       " MB/s" + memory);
  };
  const auto command = [&](const std::string& what) {
    return std::vector<std::string>{built::kProgram, "snapshot", what,         kSnapshotApp,
                                    "--nats",        url,        "--platform", kPlatform};
  };
  around.report.line("a database of " + whole(bytes / (1024 * 1024)) +
                     " MiB, half of which a compressor can save");
  // A first one, of less than that, may have been taken when the stream got long.
  const pid_t node = nodes.node_pid(leader);
  // What writing took is not counted: the kernel's mark of the peak begins anew.
  std::ofstream("/proc/" + std::to_string(node) + "/clear_refs") << "5";
  const Took make = run(around, command("create"));
  const double node_mib = static_cast<double>(status_kib(node, "VmHWM")) / 1024;
  line("snapshot create", make, "; the leading node had at most " + whole(node_mib) + " MiB");
  const std::string restored = around.folder + "/restored.db",
                    copied = around.folder + "/copied.db";
  auto restore = command("restore");
  for (const auto& word : {std::string("--to"), restored}) restore.push_back(word);
  const Took get = run(around, restore);
  line("snapshot restore, verified and synced", get,
       "; it had at most " + whole(get.memory_mib) + " MiB");
  const Took copy =
      run(around, {"sh", "-c", "cp \"$1\" \"$2\" && sync \"$2\"", "sh", database, copied});
  line("reference: cp of the database, and sync of the copy", copy, "");
  around.report.verdict("snapshot of a database of " + whole(bytes / 1e6) + " MB",
                        whole(rate(make)) + " MB/s (cp " + whole(rate(copy)) +
                            " MB/s); memory of the node " + whole(node_mib) + " MiB",
                        "memory ≤ 64 MiB", node_mib <= kMostMemoryMib);
  around.report.verdict("restore of it",
                        whole(rate(get)) + " MB/s (cp " + whole(rate(copy)) + " MB/s); memory " +
                            whole(get.memory_mib) + " MiB",
                        "memory ≤ 64 MiB", get.memory_mib <= kMostMemoryMib);
}

}  // namespace bench
