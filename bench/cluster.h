// Nodes of one platform as processes, what they write down, and what NATS shows of them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/child.h"
#include "bench/wait.h"
#include "coord/records.h"
#include "nats/key_value.h"

namespace bench {

inline const std::string kPlatform = "bench";

/// What a node says of its app's database.
struct DatabaseStatus {
  std::string role{};
  bool ready = false;
  std::uint64_t txid = 0;
  std::uint64_t lag_transactions = 0;
  std::uint64_t lag_bytes = 0;
  std::string trouble{};
};

/// What a node has written down: "active" as on_active begins, "passive" as on_passive ends.
struct Moment {
  cluster::Time time{};
  std::string node{};
  std::string what{};
  std::string app{};
  std::uint64_t epoch = 0;
};

/// When the benchmark saw something on NATS.
struct SeenEnd {
  cluster::Time time{};
  std::string node{};
};
struct SeenLease {
  cluster::Time time{};
  cluster::coord::LeaseRecord record{};
};

class Cluster {
 public:
  struct Options {
    std::string folder{};
    std::vector<std::string> urls{};  ///< of the NATS servers
    int apps = 1;
    std::string backend{};  ///< examples/notes, run by the leader of each app; empty: none
    bool database = false;  ///< the app has one, see database_file(); not with a backend
    int nodes = 3;
  };

  /// Starts the nodes and waits until they are whole.
  Cluster(Waiting& waiting, Options options);
  /// Kills everything.
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  const std::vector<std::string>& nodes() const { return names_; }
  cluster::nats::Connection& connection() { return nats_->connection; }
  cluster::nats::JetStream& jetstream() { return nats_->jetstream; }

  /// Starts a node that was killed.
  void start(const std::string& node);
  /// Kills its process alone; returns the time just before.
  cluster::Time kill_process(const std::string& node);
  /// Kills guardian, process and backend at once; returns the time just before.
  cluster::Time kill_machine(const std::string& node);
  /// Every node is live, watches all others, has its guardian, and every app has a leader whose
  /// on_active has begun. Throws Failed, also when a node has ended by itself.
  void wait_whole(cluster::Duration limit = std::chrono::seconds(60));
  /// Every node has rewritten its record twice from now on: the first of them may have been on its
  /// way for long.
  void wait_rewritten(cluster::Duration limit = std::chrono::seconds(60));
  /// The record of that node's session that was killed last is no longer live.
  bool ended(const std::string& node) const;
  /// The session of a node by the newest record seen; empty: none is live.
  std::string session(const std::string& node) const;
  /// Asks the app's leader to step down, and waits for its answer.
  void step_down(const std::string& app, const std::string& target);

  /// Where a node has its database.
  std::string database_file(const std::string& node) const;
  /// Asks the node. Throws Failed.
  DatabaseStatus database(const std::string& node);

  /// Who leads, by the newest lease seen; empty: nobody.
  std::string leader(const std::string& app) const;
  std::uint64_t epoch(const std::string& app) const;
  /// The first that fits since the last forget().
  const Moment* find(const std::string& what, const std::string& app,
                     std::uint64_t epoch_above) const;
  const std::vector<Moment>& moments() const { return moments_; }
  const std::vector<SeenEnd>& ends() const { return ends_; }
  const std::vector<SeenLease>& leases() const { return leases_; }
  void forget();
  /// Lines of all nodes' logs with that event's name, since the start.
  int count_log_lines(const std::string& event) const;

  pid_t node_pid(const std::string& node) const { return nodes_.at(node).process->pid(); }
  pid_t guardian_pid(const std::string& node) const { return nodes_.at(node).guardian; }
  /// Ends the benchmark's own connection to NATS, for measurements of what nodes do alone.
  void disconnect() { nats_.reset(); }

 private:
  struct Node {
    std::unique_ptr<Child> process{};
    int journal = -1;  // our end
    cluster::LoopSource reader{};
    std::string unread{};
    pid_t guardian = 0;  // 0: not known yet
    std::string killed_session{};
  };
  struct Nats {
    Nats(cluster::Loop& loop, const std::vector<std::string>& urls);
    cluster::nats::Connection connection;
    cluster::nats::JetStream jetstream;
    cluster::nats::KeyValue members;
    cluster::nats::KeyValue leases;
    std::unique_ptr<cluster::nats::KvWatch> members_watch{}, leases_watch{};
  };

  void watch();
  void read_journal(const std::string& node);
  void line(const std::string& node, const std::string& text);
  void buried(const std::string& node);
  void reap_orphans();
  bool whole() const;
  bool led(const std::string& app) const;
  void learn_guardians();
  pid_t backend_of(const std::string& node);
  std::string log_file(const std::string& node) const;

  Waiting& waiting_;
  Options options_;
  std::optional<ReservedPort> port_;
  std::vector<std::string> names_;
  std::map<std::string, Node> nodes_;
  std::unique_ptr<Nats> nats_;
  std::map<std::string, cluster::coord::SessionRecord> sessions_;  // the newest, by node
  std::map<std::string, int> rewrites_;  // records seen, by node, since wait_rewritten() began
  std::map<std::string, cluster::coord::LeaseRecord> lease_;  // the newest, by app
  std::map<std::string, std::uint64_t> active_;               // newest epoch made active, by app
  std::vector<Moment> moments_;
  std::vector<SeenEnd> ends_;
  std::vector<SeenLease> leases_;
  std::vector<pid_t> orphans_;  // guardians and backends of killed nodes
};

}  // namespace bench
