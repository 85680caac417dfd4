// cluster_bench: every figure beside a reference of the same run. scripts/bench starts it.
//   cluster_bench [--quick] [--sync always|default] FOLDER [FIGURE...]
// Ends with 0 when all could be measured, targets met or not.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <thread>

#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench/built.h"
#include "bench/child.h"
#include "bench/figures.h"
#include "cluster/error.h"
#include "cluster/version.h"

namespace bench {
namespace {

namespace fs = std::filesystem;

struct Figure {
  const char* name;
  const char* title;
  void (*measure)(Surroundings&);
};

constexpr Figure kFigures[] = {
    {"failover_process", "failover_process: kill -9 of the leading process", failover_process},
    {"failover_machine", "failover_machine: process and guardian killed together",
     failover_machine},
    {"failover_database", "failover_database: kill -9 of a leader with a database",
     failover_database},
    {"handover", "handover: a leader steps down", handover},
    {"server_loss", "server_loss: kill -9 of one NATS server of three", server_loss},
    {"rest", "rest: three nodes while nothing happens", rest},
    {"sim", "sim: the simulator", simulator},
    {"nats", "nats: operations by libnats alone and through our layer", nats_layer},
    {"talk", "talk: keys, calls and events, beside libnats alone", talk},
    {"locks", "locks: a lock's cycle, hand-overs, locks that are held", locks},
    {"lag", "lag: a database, from commit to readable on a standby", lag},
    {"sustained", "sustained: a database, written as fast as a core can", sustained},
    {"apply", "apply: a database, pages that a standby takes", apply},
    {"commit", "commit: a database, commits that wait for JetStream", commit},
    {"snapshot", "snapshot: a database, snapshot and restore", snapshot},
};

constexpr Amounts kQuick{.failovers = 10,
                         .failovers_with_backend = 5,
                         .machine_failovers = 5,
                         .handovers = 40,
                         .server_kills = 2,
                         .rest_seconds = 5,
                         .simulator_seeds = 100,
                         .raw_operations = 500,
                         .talk_operations = 2'000,
                         .calls_for_memory = 50'000,
                         .locks_held = 1'000,
                         .lock_hand_overs = 200,
                         .lock_kills = 5,
                         .lag_seconds = 3,
                         .sustained_rounds = 2,
                         .sustained_seconds = 2,
                         .apply_mib = 128,
                         .commit_seconds = 2,
                         .snapshot_mib = 128};

constexpr double kMostBusyPercent = 10;

std::string value_of(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const auto begin = line.find_first_not_of(" \t", line.find(':') + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "unknown";
}

std::string file_system(const std::string& folder) {
  struct statfs found{};
  if (statfs(folder.c_str(), &found) != 0) return "unknown";
  switch (static_cast<unsigned long>(found.f_type)) {
    case 0xEF53: return "ext4";
    case 0x58465342: return "xfs";
    case 0x9123683E: return "btrfs";
    case 0x01021994: return "tmpfs";
    case 0x794C7630: return "overlayfs";
    default: {
      char text[32];
      std::snprintf(text, sizeof text, "type 0x%lx", static_cast<unsigned long>(found.f_type));
      return text;
    }
  }
}

std::string server_version(Waiting& waiting, const std::string& folder) {
  const std::string log = folder + "/version.log";
  Child child({"nats-server", "--version"}, log);
  waiting.wait_for("nats-server --version", std::chrono::seconds(30),
                   [&] { return !child.running(); });
  std::ifstream file(log);
  std::string text;
  std::getline(file, text);
  return text;
}

struct CpuTicks {
  std::int64_t idle = 0;
  std::int64_t all = 0;
};

CpuTicks cpu_ticks() {
  std::ifstream file("/proc/stat");
  std::string word;
  file >> word;
  CpuTicks ticks;
  std::int64_t value = 0;
  // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user.
  for (int i = 0; i < 8 && file >> value; ++i) {
    ticks.all += value;
    if (i == 3 || i == 4) ticks.idle += value;
  }
  return ticks;
}

// What others do on this machine, as percent of all cores.
double busy_percent(Waiting& waiting) {
  const CpuTicks before = cpu_ticks();
  waiting.pass(std::chrono::seconds(3));
  const CpuTicks after = cpu_ticks();
  const auto all = static_cast<double>(std::max<std::int64_t>(1, after.all - before.all));
  return 100 - 100 * static_cast<double>(after.idle - before.idle) / all;
}

void environment(Waiting& waiting, Report& report, const std::string& folder, bool quick,
                 bool sync_always) {
  report.section("Environment");
  utsname system{};
  uname(&system);
  const unsigned cores = std::thread::hardware_concurrency();
  report.line(std::to_string(cores) + " cores (" + value_of("/proc/cpuinfo", "model name") +
              "), memory " + value_of("/proc/meminfo", "MemTotal") + ", " + system.sysname + " " +
              system.release);
  report.line(server_version(waiting, folder) + ", on this machine, over loopback");
  report.line(std::string("JetStream storage: file, on ") + file_system(folder) +
              ", sync_interval: " + (sync_always ? "always" : "default (2 minutes)"));
  report.line(std::string("cpp-cluster ") + CLUSTER_VERSION +
              ", " BENCH_BUILD_TYPE ", " BENCH_COMPILER);
  const double busy = busy_percent(waiting);
  char text[96];
  std::snprintf(text, sizeof text, "in the 3 s before, others used %.0f%% of the cores%s", busy,
                busy > kMostBusyPercent ? ": THIS MACHINE IS NOT IDLE, times are too long" : "");
  report.line(text);
  if (quick)
    report.line("--quick: few repetitions; a p99 of less than 100 is no more than a maximum");
}

int run(bool quick, bool sync_always, const std::string& build, std::set<std::string> wanted) {
  for (const auto& name : wanted) {
    bool known = false;
    for (const auto& figure : kFigures) known = known || name == figure.name;
    if (known) continue;
    std::cerr << "there is no figure \"" << name << "\"; there are:";
    for (const auto& figure : kFigures) std::cerr << " " << figure.name;
    std::cerr << "\n";
    return 2;
  }
  // Guardians and backends of killed nodes become our children: none is lost, and none stays as a
  // zombie.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  setenv("CPP_CLUSTER_GUARDIAN", built::kGuardian, 1);
  const std::string results = build + "/results.md";
  const std::string work = build + "/work";
  fs::remove_all(work);
  fs::create_directories(work);
  Report report(results);
  int status = 0;
  bool keep = false;
  try {
    Waiting waiting;
    environment(waiting, report, work, quick, sync_always);
    for (const auto& figure : kFigures) {
      if (!wanted.empty() && !wanted.contains(figure.name)) continue;
      report.section(figure.title);
      Surroundings around{.waiting = waiting,
                          .report = report,
                          .folder = work + "/" + figure.name,
                          .sync_always = sync_always,
                          .amounts = quick ? kQuick : Amounts{}};
      fs::create_directories(around.folder);
      try {
        figure.measure(around);
      } catch (const Failed& failed) {
        report.failed(figure.name, failed.text);
      } catch (const std::exception& error) {
        report.failed(figure.name, error.what());
      }
    }
    report.summary();
    if (!report.all_measured()) {
      status = 1;
      keep = true;
    }
  } catch (const Interrupted&) {
    std::cerr << "\nInterrupted.\n";
    status = 130;
  }
  if (keep)
    std::cerr << "\nNot everything could be measured; logs are in " << work << "\n";
  else
    fs::remove_all(work);
  std::cout << "\nThis is also in " << results << "\n";
  return status;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  // What a new platform waits for is no part of any figure.
  ::setenv("CPP_CLUSTER_FOUNDING_WAIT", "0s", 0);
  bool quick = false;
  bool sync_always = true;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--quick") {
      quick = true;
    } else if (word == "--sync" && i + 1 < argc && std::strcmp(argv[i + 1], "always") == 0) {
      ++i;
    } else if (word == "--sync" && i + 1 < argc && std::strcmp(argv[i + 1], "default") == 0) {
      sync_always = false;
      ++i;
    } else {
      words.push_back(word);
    }
  }
  if (words.empty() || words.front().starts_with('-')) {
    std::cerr << "usage: cluster_bench [--quick] [--sync always|default] FOLDER [FIGURE...]; it is "
                 "started by scripts/bench\n";
    return 2;
  }
  try {
    return bench::run(quick, sync_always, std::filesystem::absolute(words.front()).string(),
                      {words.begin() + 1, words.end()});
  } catch (const std::exception& error) {
    std::cerr << "bench: " << error.what() << "\n";
    return 1;
  }
}
