// Programs that write and read a database (bench_sql), as cluster_bench runs them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/child.h"
#include "bench/cluster.h"
#include "bench/report.h"
#include "bench/wait.h"

namespace bench {

/// Raw publishing has no reader, nor has what others replicate to NATS, and a commit waits for no
/// standby: so that is measured of a leader alone. What a standby takes from the same cores, beside
/// it.
constexpr int kLeaderAlone = 1;  // nodes
constexpr int kWithStandby = 2;
/// What a figure's name says of that.
inline std::string standbys(int nodes) {
  return nodes == kLeaderAlone ? "" : ", a standby on the same cores";
}

/// The row that was committed, or seen, last; and when.
struct RowTime {
  std::int64_t row = 0;
  cluster::Time time{};
};

struct Load {
  double seconds = 0;
  double rate = 0;  ///< transactions a second; 0: as fast as it goes
  int rows = 1;     ///< of a transaction
  int core = -1;    ///< that it runs on; -1: any
};

/// Writes to the database in a process of its own, until `load` is over; `meanwhile` is called
/// every few milliseconds. The first element is the beginning.
std::vector<RowTime> write_rows(Waiting& waiting, const std::string& folder,
                                const std::string& database, const Load& load,
                                const std::function<void()>& meanwhile = {});

/// What COMMIT took, of rows that were committed one by one, and how many there were a second.
struct Commits {
  Distribution times{};
  double per_second = 0;
  cluster::Duration longest_gap{};  ///< between a commit of any and the next
};

/// So many connections commit for so long, each with the extension loaded; "-": none.
Commits commit_rows(Waiting& waiting, const std::string& folder, const std::string& database,
                    const std::string& extension, double seconds, int committers);

/// Looks at a database, in a process of its own, whenever its WAL was written.
class Reader {
 public:
  Reader(Waiting& waiting, const std::string& folder, const std::string& database);
  /// What it has seen.
  std::vector<RowTime> stop();

 private:
  Waiting& waiting_;
  const std::string out_, log_;
  Child process_;
};

/// Until all nodes have what is committed; how long that took. `stored`: how long until JetStream
/// had it.
cluster::Duration wait_caught_up(Waiting& waiting, Cluster& nodes, cluster::Duration limit,
                                 cluster::Duration* stored = nullptr);

/// Until JetStream has all that is committed.
void wait_stored(Waiting& waiting, Cluster& nodes, cluster::Duration limit);

/// The stream that the database is replicated through.
cluster::nats::StreamState stream_state(Waiting& waiting, Cluster& nodes);

/// Keeps this thread, and what is started by it, on some cores for as long as it lives.
class Pinned {
 public:
  explicit Pinned(const std::vector<int>& cores);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  std::vector<int> before_;
};

}  // namespace bench
