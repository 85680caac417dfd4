// Nodes that use keys and locks at random (tests/tools/e2e_workload) while a test does harm, and
// what must hold of all that their clients were told.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "e2e/harness.h"
#include "linearizability.h"

namespace cluster::e2e {

class Workload {
 public:
  explicit Workload(Settings settings = {}) : c(std::move(settings)) {}

  Cluster c;
  /// Of every node; see tests/tools/e2e_workload.h.
  json options = {{"keys", {"key.a", "key.b", "key.c", "key.d"}},
                  {"locks", {"first", "second"}},
                  {"kv_clients", 3},
                  {"lock_clients", 3},
                  {"pace_ms", 8}};

  /// node-1 to node-<count>; waits until all watch each other and are at work.
  void start(int count);
  /// One node, with these options in place of those.
  void start(const std::string& node, const json& other = json::object());

  /// How many calls have returned like that; empty: all.
  std::size_t count(const std::string& what, const std::string& outcome);
  /// Of calls for keys, those that came to nothing, or may have.
  std::size_t keys_troubled();
  /// How often `what` was noted: of a lock's token, "lost", say.
  const std::vector<json>& noted(const std::string& what);
  /// Waits until as many calls as that have returned so since now.
  testing::AssertionResult wait_more(const std::string& what, const std::string& outcome,
                                     std::size_t more);
  /// The first that took a lock after the holder of that token did; null: nobody yet.
  json next_holder(const std::string& lock, std::uint64_t token);
  /// How often the guard of that token was asked after `ns`, and said that it holds the lock.
  std::size_t held_after(std::uint64_t token, std::int64_t ns) const;
  /// From `ns` on, that process may lose each lock that it holds by then: it was killed, or
  /// stopped.
  void harmed(pid_t pid, std::int64_t ns) { harmed_.emplace_back(pid, ns); }

  /// Ends the work on all nodes that run.
  void end();
  /// The same, and checks all that was written down.
  void finish();
  /// Once the work has ended: a value that JetStream has given two revisions, as far as writers,
  /// watches and the keys' history tell; empty: none. Each value is written once. Servers of which
  /// one has lost messages do that; with a single server it would be a fault of ours.
  std::string contradiction();
  /// The store has that value at that revision.
  bool holds(std::uint64_t revision, const std::string& value);

 private:
  struct Call {
    json call{};
    json told{};  // null: it has not returned
    std::string outcome() const { return told.is_null() ? "unknown" : told.at("outcome"); }
  };
  using Registers = std::map<std::string, std::vector<linearizability::RegisterOperation>>;
  using Mutexes = std::map<std::string, std::vector<linearizability::MutexOperation>>;

  void read();
  testing::AssertionResult wait_for_histories();
  Registers registers() const;
  Mutexes mutexes() const;
  /// From when on each token may be lost.
  std::multimap<std::uint64_t, std::int64_t> losses() const;
  void read_what_is_left();
  void check_keys();
  void check_locks();
  void check_fences();
  void check_watches();
  void check_watch(pid_t pid, const std::vector<json>& lines);
  void check_watched(const json& event);
  bool may_be_gone(const Call& write, const json& next) const;

  std::size_t read_ = 0;                                         // bytes
  std::map<std::pair<std::string, std::uint64_t>, Call> calls_;  // by client and id
  std::map<std::pair<std::string, std::string>, std::size_t> returned_;
  std::map<std::string, const Call*> writers_;                         // by value
  std::map<std::string, std::vector<json>> notes_;                     // by their kind
  std::map<std::string, std::size_t> told_of_;                         // calls, by key or lock
  std::map<std::string, std::map<std::uint64_t, json>> acquisitions_;  // by lock and token
  std::map<std::string, int> clients_;                                 // by node
  std::vector<std::pair<pid_t, std::int64_t>> harmed_;
  std::map<std::string, std::vector<json>> left_;  // history of a key, as it is at the end
};

}  // namespace cluster::e2e
