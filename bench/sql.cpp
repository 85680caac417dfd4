#include "bench/sql.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include <sched.h>

#include "bench/built.h"

namespace bench {
namespace {

using cluster::BootClock;
using cluster::Duration;
using cluster::Time;
using namespace std::chrono_literals;

constexpr auto kProgramLimit = 60s;  // over what it was told to take

std::vector<RowTime> read_lines(const std::string& path) {
  std::vector<RowTime> lines;
  std::ifstream file(path);
  std::int64_t row = 0, ns = 0;
  while (file >> row >> ns) lines.push_back({row, Time(Duration(ns))});
  if (lines.empty()) throw Failed{path + " has no line"};
  return lines;
}

void wait_for_end(Waiting& waiting, Child& process, Duration limit, const std::string& log,
                  const std::function<void()>& meanwhile = {}) {
  std::string how;
  const Time end = BootClock::now() + limit;
  while (process.running(&how)) {
    if (BootClock::now() > end) throw Failed{"bench_sql does not end: read " + log};
    if (meanwhile) meanwhile();
    waiting.pass(5ms);
  }
  if (how != "exited with status 0") throw Failed{"bench_sql " + how + ": read " + log};
}

cpu_set_t cores_now() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0)
    throw Failed{std::string("sched_getaffinity: ") + std::strerror(errno)};
  return cores;
}

void run_on(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    throw Failed{std::string("sched_setaffinity: ") + std::strerror(errno)};
}

}  // namespace

std::vector<RowTime> write_rows(Waiting& waiting, const std::string& folder,
                                const std::string& database, const Load& load,
                                const std::function<void()>& meanwhile) {
  const std::string out = folder + "/written", log = folder + "/write.log";
  Child process(
      {built::kSql, "write", database, std::to_string(load.core), std::to_string(load.seconds),
       std::to_string(load.rate), std::to_string(load.rows), out},
      log);
  wait_for_end(waiting, process,
               std::chrono::milliseconds(static_cast<int>(load.seconds * 1e3)) + kProgramLimit, log,
               meanwhile);
  return read_lines(out);
}

Commits commit_rows(Waiting& waiting, const std::string& folder, const std::string& database,
                    const std::string& extension, double seconds, int committers) {
  const std::string out = folder + "/commits", log = folder + "/commit.log";
  Child process({built::kSql, "commit", database, extension, std::to_string(seconds),
                 std::to_string(committers), out},
                log);
  wait_for_end(waiting, process,
               std::chrono::milliseconds(static_cast<int>(seconds * 1e3)) + kProgramLimit, log);
  Commits commits;
  auto lines = read_lines(out);
  for (const auto& line : lines) commits.times.add(Duration(line.row));
  std::sort(lines.begin(), lines.end(), [](auto& a, auto& b) { return a.time < b.time; });
  for (std::size_t i = 1; i < lines.size(); ++i)
    commits.longest_gap = std::max(commits.longest_gap, lines[i].time - lines[i - 1].time);
  commits.per_second = static_cast<double>(lines.size()) / seconds;
  return commits;
}

Reader::Reader(Waiting& waiting, const std::string& folder, const std::string& database)
    : waiting_(waiting),
      out_(folder + "/read"),
      log_(folder + "/read.log"),
      process_({built::kSql, "read", database, out_}, log_) {}

std::vector<RowTime> Reader::stop() {
  kill(process_.pid(), SIGTERM);
  wait_for_end(waiting_, process_, kProgramLimit, log_);
  return read_lines(out_);
}

Duration wait_caught_up(Waiting& waiting, Cluster& nodes, Duration limit, Duration* stored) {
  const Time begin = BootClock::now();
  bool first = true;
  while (true) {
    const auto leader = nodes.database(nodes.leader("app-1"));
    bool all = leader.lag_transactions == 0 && leader.role == "primary";
    if (all && first && stored != nullptr) *stored = BootClock::now() - begin;
    first = first && !all;
    for (const auto& node : nodes.nodes()) all = all && nodes.database(node).txid == leader.txid;
    const Time now = BootClock::now();
    if (all) return now - begin;
    if (now - begin > limit) throw Failed{"the nodes do not come to the same transaction"};
    waiting.pass(2ms);
  }
}

void wait_stored(Waiting& waiting, Cluster& nodes, Duration limit) {
  const Time begin = BootClock::now();
  while (nodes.database(nodes.leader("app-1")).lag_transactions > 0) {
    if (BootClock::now() - begin > limit) throw Failed{"JetStream does not get all transactions"};
    waiting.pass(2ms);
  }
}

cluster::nats::StreamState stream_state(Waiting& waiting, Cluster& nodes) {
  namespace nats = cluster::nats;
  const auto state = nats::await<nats::StreamState>(waiting.loop(), 10s, [&](auto done) {
    nodes.jetstream().stream(kPlatform + "_app-1_wal", done);
  });
  if (!state) throw Failed{state.error().what()};
  return state.value();
}

Pinned::Pinned(const std::vector<int>& cores) {
  const cpu_set_t now = cores_now();
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &now)) before_.push_back(core);
  run_on(cores);
}

Pinned::~Pinned() {
  try {
    run_on(before_);
  } catch (const Failed&) {
    // They were ours before; then what follows runs on fewer.
  }
}

}  // namespace bench
