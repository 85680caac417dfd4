// Nodes with a replicated database, to which their backend writes numbered rows, and what must hold
// of rows and copies whatever has happened.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cluster/sqlite.h"
#include "e2e/harness.h"
#include "sqlite/handle.h"

namespace cluster {

/// For the names of tests.
inline void PrintTo(Commit commit, std::ostream* out) {
  *out << (commit == Commit::async ? "async" : "replicated");
}

}  // namespace cluster

namespace cluster::e2e {

using Row = std::pair<std::uint64_t, std::uint64_t>;  // epoch, number

/// Committed rows that a history may lack; those are in what was set aside then.
enum class Loss { none, reported };

/// A connection to a database that a node may be at work on. It waits for its locks, as SQLite's
/// users do: nodes and SQLite itself take them for moments.
sqlite::Handle open_to_read(const std::string& path);

/// For tests of what must hold whatever commits wait for.
class ByCommit : public testing::TestWithParam<Commit> {
 protected:
  static bool replicated() { return GetParam() == Commit::replicated; }
  /// Of what was acknowledged.
  static Loss allowed() { return replicated() ? Loss::none : Loss::reported; }
};
inline auto both_commits() { return testing::Values(Commit::async, Commit::replicated); }
inline std::string commit_name(const testing::TestParamInfo<Commit>& one) {
  return one.param == Commit::async ? "Async" : "Replicated";
}

class Databases {
 public:
  explicit Databases(Settings settings = {}) : c(std::move(settings)) {}

  Cluster c;
  std::vector<std::string> nodes;
  int lost = 0;  ///< rows that were committed and are only in what was set aside, found by check()
  int row_bytes = 100;
  /// Backends' commits wait for JetStream: they load the extension.
  Commit commit = Commit::async;
  /// Replicas have a file of their own.
  bool separate = false;
  bool spoilt = false;  ///< what was set aside need be no sound database
  /// Changes what a node is started with.
  std::function<void(const std::string& node, json& options, Child::Options& how)> adjust{};

  std::string folder(const std::string& node) const { return c.path("data-" + node); }
  /// Its `path`, and with `separate` its `replica`.
  std::string file(const std::string& node) const { return folder(node) + "/app.db"; }
  std::string replica(const std::string& node) const { return folder(node) + "/replica.db"; }
  /// The one of them that it has.
  std::string copy(const std::string& node) const;

  /// node-1 to node-<count>; waits until one leads, and returns which.
  std::string start(int count);
  /// The same, and all of them watch each other and have the database.
  std::string start_watched(int count);
  void restart(const std::string& node);
  /// SIGTERM, and waits.
  void stop(const std::string& node);
  /// SIGKILL to the node, its guardian and its backend: what is left is as if its machine had died.
  void kill_all_of(const std::string& node);

  /// What a node's status says of its database; empty when there is no answer.
  json status(const std::string& node);
  /// The node's database may lead, or does.
  bool ready(const std::string& node);
  testing::AssertionResult wait_ready(const std::string& node);

  /// Entries of the audit log: "diverged", say, of the app's database.
  std::uint64_t audited(const std::string& action);

  std::string log() const { return c.path("rows"); }
  /// What backends have logged: "committed" or "unsure" rows.
  const std::set<Row>& logged(const std::string& what);
  testing::AssertionResult wait_for_rows(std::size_t more);
  /// Backends write no more, and the one that is at work has said so.
  testing::AssertionResult hush();
  void resume();
  static std::set<Row> rows_of(const std::string& path);

  /// Hushes, and waits until all nodes are ready, at one position, and hold the same rows.
  testing::AssertionResult settle();
  /// Settles. Of nodes that run: their copies are sound, and readers see the same bytes in all.
  /// Returns the rows of them.
  std::set<Row> check_copies();
  /// Settles, and stops all nodes. Then all copies are the same bytes, and sound, and what they
  /// hold is right (check_rows).
  void check(Loss loss = Loss::none);
  /// Of what the settled nodes hold: each committed row is there, but for the last ones of an epoch
  /// if `loss` allows that; these are in databases that were set aside, and as many as reported.
  void check_rows(const std::set<Row>& rows, Loss loss);

 private:
  testing::AssertionResult look_at_copies(std::set<Row>& rows);
  json options(const std::string& node) const;
  struct Aside {
    std::string node{};
    std::set<Row> rows{};
    std::string held{};        ///< transactions that only it has, as the log tells
    std::uint64_t common = 0;  ///< the last that the history has, too
  };
  void read_aside(const std::string& node, const std::string& path);
  void check_reported(const std::set<Row>& history);

  std::uint64_t hushed_ = 0;
  std::map<std::string, std::set<Row>> logged_;
  std::size_t log_read_ = 0;
  std::map<std::string, Aside> aside_;  // by file; the oldest are dropped in time
};

/// What counts of a database's WAL. The file may have older frames behind that, which stay there.
/// Reads no database: readers keep a WAL from being begun anew.
std::string live_wal(const std::string& database);

void flip_bit(const std::string& path, std::uint64_t offset);
/// In the file of the node that leads, as a disk does it: no time tells of it.
void rot_bit(Databases& d, const std::string& leader, std::uint64_t offset);

}  // namespace cluster::e2e
