// A cluster of real processes for the end-to-end tests: NATS servers, nodes (tests/tools/e2e_node),
// what they run, and the journal that all of them write; with the faults that a test brings about,
// and the checks that hold whatever happens.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/types.h>
#include <nlohmann/json.hpp>

#include "core/loop.h"
#include "core/result.h"
#include "long_waits.h"
#include "nats/connection.h"
#include "nats/embedded_server.h"
#include "nats/jetstream.h"
#include "nats/key_value.h"
#include "slowness.h"

namespace cluster::e2e {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// One line of the journal.
struct Event {
  std::int64_t ns = 0;  ///< CLOCK_BOOTTIME
  pid_t pid = 0;
  std::string node{};
  std::string app{};
  std::string what{};
  std::uint64_t epoch = 0;
  std::string detail{};
};

/// A child that dies with this process; its output goes to a file.
class Child {
 public:
  struct Options {
    std::vector<std::string> command{};
    std::vector<std::string> environment{};  ///< added to this process's
    std::string output{};                    ///< appended to
    std::string network_of{};                ///< /proc/…/ns/net to run in; empty: this process's
    int input = -1;                          ///< its standard input; -1: /dev/null
  };
  explicit Child(Options options);
  /// SIGKILL, if it runs still.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  bool running();
  /// As a shell tells it: the exit status, or 128 + the signal. Only after running() was false.
  int status() const { return status_; }
  void signal(int signal) const;
  std::string output() const;

 private:
  Options options_;
  pid_t pid_ = -1;
  bool ended_ = false;
  int status_ = -1;
};

/// What tests/tools/e2e_node ends with on an error.
int ended_with(Errc code);
/// Kill or stop a process by id, and wait until the kernel has done so with all its threads; a
/// failure when it does not. Throws when the id is 0, as of a backend that does not run.
void kill_and_wait(pid_t pid);
void stop_and_wait(pid_t pid);
bool alive(pid_t pid);  ///< a zombie is not

/// One of 127.0.0.1 that nobody else gets while this process lives; whoever sets SO_REUSEADDR may
/// listen on it.
int free_port();
/// What an HTTP server on this machine answers to a GET, headers and all; empty: it does not.
std::string http_get(int port, const std::string& path);
/// The text of a file; empty when there is none.
std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& text);
/// Hands over each whole line that a file has behind its first `read` bytes, which go on to be
/// more. What is written from now on is left for the next time: who writes may be as fast as this
/// reads.
void each_new_line(const std::string& path, std::size_t& read,
                   const std::function<void(const std::string&)>& take);

struct Settings {
  int servers = 1;  ///< NATS servers that the cluster starts; 0: none
  milliseconds session_timeout{1000};
  bool stop_in_order = true;  ///< at the end nodes must stop on SIGTERM with status 0
};
/// Where no session is to end, or only by its guardian: none is to end because the machine is busy.
inline constexpr Settings kPatient{.session_timeout = milliseconds(5000)};
/// Where one session is to end because its timeout passes, which the test waits for, and none of
/// the others is to.
inline constexpr Settings kSteady{.session_timeout = milliseconds(2500)};

/// A test's own cluster. What it makes is gone when it goes; at its end it checks what must hold in
/// every history (see check_history) and, when the test has failed, prints logs.
class Cluster {
 public:
  explicit Cluster(Settings settings = {});
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  const std::string& platform() const { return platform_; }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  /// For the environment of a process that this object is to end with its own, and to count in.
  std::vector<std::string> marks() const;

  // NATS
  nats::EmbeddedServer& server(std::size_t i) { return *servers_.at(i); }
  std::size_t servers() const { return servers_.size(); }
  std::vector<nats::EmbeddedServer*> all_servers() const;
  std::vector<std::string> urls() const;
  /// A server of its own configuration (`port`, `jetstream` and so on as nats-server reads them;
  /// PORT and FOLDER are filled in; `port` 0: a free one); waits until it accepts connections.
  /// Returns its URL.
  std::string start_server(std::string configuration, int port = 0);
  /// Of a stream: the index of the server that leads it.
  std::optional<std::size_t> stream_leader(const std::string& stream);
  /// Nodes that are started from now on, and this test, use these servers.
  /// `there` false: this test has no connection of its own, since none can be had.
  void use(std::vector<std::string> urls, bool there = true);

  // Nodes
  /// What a node is started with: its platform, NATS, folder, timing and the app "db".
  json node_options(const std::string& node) const;
  /// A backend that writes to the journal; `more` are arguments of tests/tools/e2e_backend.
  json backend(const std::vector<std::string>& more = {}) const;
  Child& start(const json& options, Child::Options how = {});
  /// A process that this object does not count among its nodes, with a log of its own.
  std::unique_ptr<Child> make(const json& options, Child::Options how) const;
  Child& start(const std::string& node) { return start(node_options(node)); }
  Child& start(const char* node) { return start(node_options(node)); }
  /// node-1 to node-<count>, all with a backend; waits until one leads, and returns which.
  std::string start_nodes(int count);
  Child& node(const std::string& name) { return *nodes_.at(name); }
  std::vector<std::string> running_nodes();
  std::vector<std::string> other_nodes(const std::string& than);
  std::string log(const std::string& node) const { return read_file(path(node + ".log")); }
  /// How many lines of a node's log hold all of these.
  int logged(const std::string& node, const std::vector<std::string>& texts) const;
  pid_t guardian(const std::string& node) const;  ///< 0: none
  pid_t backend_pid(const std::string& node);     ///< the newest; 0: none runs

  // What can be seen
  /// Waits for `condition` until `limit` (times slowness) has passed.
  testing::AssertionResult wait_for(const std::string& what, const std::function<bool()>& condition,
                                    seconds limit = seconds(60));
  /// Waits for a line of the node's log that holds all of these.
  testing::AssertionResult wait_logged(const std::string& node,
                                       const std::vector<std::string>& texts);
  /// Of what a process repeats ("alive", "refused" and "leads" in one epoch), the first and the
  /// newest line.
  const std::vector<Event>& journal();
  std::vector<Event> events(const std::string& node, const std::string& app,
                            const std::string& what);
  /// Nodes that run and whose newest hook of `app` was a complete on_active.
  std::set<std::string> active(const std::string& app);
  /// Waits until exactly one node is active, the lease's record names it and its backend is at
  /// work; none but `not_this` and those that hold epochs up to `after` will
  /// do. Returns which; empty (and a failure) when that takes too long.
  std::string wait_leader(const std::string& app = "db", const std::string& not_this = {},
                          std::uint64_t after = 0);
  /// Waits until another node than `from` holds the lease, has completed on_active and has a
  /// backend at work, whatever `from` believes; returns which.
  std::string wait_lease_moves(const std::string& from, std::uint64_t after,
                               const std::string& app = "db");
  /// Waits until all of them are live members of the platform.
  testing::AssertionResult wait_members(const std::vector<std::string>& nodes,
                                        seconds limit = seconds(60));
  /// And until each has all others (three at most) as its voters, and they have acknowledged a
  /// heartbeat of it: the loss of a node whose session is too young for that is seen by lease_ttl
  /// alone.
  testing::AssertionResult wait_watched(const std::vector<std::string>& nodes,
                                        seconds limit = seconds(60));
  std::optional<json> lease(const std::string& app = "db");
  std::optional<json> member(const std::string& node);
  /// As its record has it; "none": there is no record.
  std::string member_state(const std::string& node);
  std::uint64_t epoch(const std::string& app = "db");
  /// A request to a node's control service; the error's text, if any, in "error".
  json ask(const std::string& node, const std::string& what, const json& request = json::object());
  /// A request to NATS, its JetStream API say; the error's text, if any, in "error".
  json request(const std::string& subject, const json& request = json::object());
  /// All entries that the platform's audit log has by now, in order.
  std::vector<json> audit_log();
  /// Of those, the newest of that category and action; null when there is none.
  json audited(const std::string& category, const std::string& action);
  struct Told {
    int status = -1;
    std::string out{};
  };
  /// What the program cpp-cluster says of the platform.
  Told command(const std::string& arguments) const;
  std::optional<std::string> put_member(const std::string& node, const json& record);

  /// Until when a process that was killed or stopped, and then woken, may have been at work: that
  /// process's lines are left out of the check for overlaps.
  void allow_overlap(pid_t pid) { forgiven_.insert(pid); }
  /// Whatever happens: at most one node leads an app at any instant, and at most one backend of it
  /// is at work; epochs grow from lead to lead; on_active and on_passive come in pairs.
  void check_history();

 private:
  struct Store;
  Result<nats::KvEntry> read(const std::string& bucket, const std::string& key);
  void stop_all();
  void print_logs();

  Settings settings_;
  std::string folder_;
  std::string platform_;
  std::unique_ptr<Child> reaper_;
  int reaper_pipe_ = -1;
  std::vector<std::unique_ptr<nats::EmbeddedServer>> servers_;
  std::vector<std::unique_ptr<Child>> own_servers_;
  std::vector<std::string> urls_;
  std::map<std::string, std::unique_ptr<Child>> nodes_;
  std::vector<std::unique_ptr<Child>> replaced_;
  std::unique_ptr<Store> store_;
  std::vector<Event> journal_;
  std::size_t journal_read_ = 0;
  /// How often each sign of life was read, and where its newest is in journal_.
  std::map<std::tuple<pid_t, std::uint64_t, std::string, std::string>,
           std::pair<std::size_t, std::size_t>>
      signs_;
  std::set<pid_t> forgiven_;
};

}  // namespace cluster::e2e
