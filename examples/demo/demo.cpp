// make demo: three nodes around examples/notes, its database replicated, and a client that writes
// numbered notes to it; the leader's process is killed, then another leader's machine "loses
// power". Prints what happened when, and looks whether every acknowledged note is there.
// scripts/demo runs it.

#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "demo/history.h"
#include "demo/processes.h"
#include "demo/writer.h"
#include "nats/embedded_server.h"

namespace demo {
namespace {

using cluster::BootClock;
using cluster::Duration;
using cluster::Time;
using namespace std::chrono_literals;

const std::string kPlatform = "demo";
const std::string kApp = "notes";

/// A person has had enough.
struct Interrupted {};

/// Something did not happen. The text says what, and what to read.
struct Failed {
  std::string text;
};

bool colours() {
  static const bool on = isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  return on;
}
std::string bold(const std::string& text) {
  return colours() ? "\033[1m" + text + "\033[0m" : text;
}

__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

/// As one value of a YAML file, whatever is in a folder's name.
std::string yaml(const std::string& text) {
  return nlohmann::json(text).dump();  // JSON is YAML
}

double milliseconds(Duration span) {
  return std::chrono::duration<double, std::milli>(span).count();
}

class Demo {
 public:
  Demo(std::string programs, std::string folder)
      : programs_(std::move(programs)), folder_(std::move(folder)) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP})
      signals_.push_back(loop_.on_signal(signal, [this] { interrupted_ = true; }));
  }

  ~Demo() { stop_nodes(); }
  Demo(const Demo&) = delete;
  Demo& operator=(const Demo&) = delete;

  void run() {
    start();
    write_more_notes();
    const std::string first = leader();
    say("\n%s", bold("1. kill -9 of the leader's process on " + first).c_str());
    fail_over(first, false);
    bring_back(first);
    write_more_notes();
    const std::string second = leader();
    say("\n%s",
        bold("2. " + second + " loses power: node, guardian and notes die at once").c_str());
    fail_over(second, true);
    bring_back(second);
    finish();
  }

 private:
  void start();
  void start_node(const std::string& node);
  void fail_over(const std::string& victim, bool power);
  void bring_back(const std::string& node);
  /// Returns once the leader has proved itself.
  void write_more_notes();
  /// Every note that was acknowledged is on the leader.
  void count_notes();
  void compare_copies();
  void finish();
  void stop_nodes() noexcept;

  std::string leader() const;
  /// Every node is live, and the leader's session is watched by all others.
  bool whole() const;
  template <typename Condition>
  void wait_for(const std::string& what, Duration limit, Condition condition);
  /// A time once it has come; `find` returns it or nothing.
  template <typename Find>
  Time time_of(const std::string& what, Find find);
  /// Which part that should run does not, and where to read why; empty: all run.
  std::string what_has_ended();
  static std::string last_complaint(const std::string& log_file);
  static void row(Time killed, Time when, const std::string& what, const std::string& detail);

  const std::string programs_;
  const std::string folder_;
  cluster::Loop loop_;
  std::vector<cluster::LoopSource> signals_;
  bool interrupted_ = false;
  ReservedPort port_;
  std::vector<std::unique_ptr<cluster::nats::EmbeddedServer>> servers_;
  std::map<std::string, std::unique_ptr<Program>> nodes_;
  std::optional<History> history_;
  std::optional<Writer> writer_;
};

template <typename Condition>
void Demo::wait_for(const std::string& what, Duration limit, Condition condition) {
  std::string ended;
  const bool met = loop_.run_until(
      [&] {
        ended = what_has_ended();
        return interrupted_ || !ended.empty() || condition();
      },
      limit);
  if (interrupted_) throw Interrupted{};
  if (!ended.empty()) throw Failed{ended};
  if (met) return;
  std::string text =
      "for " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(limit).count()) +
      " s it has waited in vain for " + what + ". The logs are " + folder_ +
      "/node-*.log; the last complaints in them:";
  for (const char* node : {"node-1", "node-2", "node-3"})
    text += std::string("\n  ") + node + ": " + last_complaint(folder_ + "/" + node + ".log");
  throw Failed{text};
}

template <typename Find>
Time Demo::time_of(const std::string& what, Find find) {
  std::optional<Time> found;
  wait_for(what, 30s, [&] { return (found = find()).has_value(); });
  return *found;
}

std::string Demo::what_has_ended() {
  for (const auto& server : servers_)
    if (std::string why; !server->running(&why)) return "the NATS server has ended: " + why;
  for (const auto& [node, program] : nodes_)
    if (std::string how; !program->running(&how))
      return node + " " + how + ": read " + program->log_file();
  return "";
}

std::string Demo::last_complaint(const std::string& log_file) {
  std::ifstream file(log_file);
  std::string last = "none";
  for (std::string line; std::getline(file, line);)
    if (line.find(" warn") != std::string::npos || line.find(" error ") != std::string::npos)
      last = line;
  return last;
}

void Demo::start() {
  const Time began = BootClock::now();
  servers_ = cluster::nats::start_local_servers(1, folder_ + "/nats", false);
  history_.emplace(loop_, servers_.front()->url(), kPlatform);
  for (const char* node : {"node-1", "node-2", "node-3"}) start_node(node);
  writer_.emplace(port_.port(), [this](FirstAnswer answer) { history_->answered(answer); });
  wait_for("a first leader that answers", 30s,
           [&] { return whole() && !history_->answers().empty(); });
  say("Three nodes run on an embedded NATS server, %.1f s after the start. %s leads:",
      milliseconds(BootClock::now() - began) / 1000, leader().c_str());
  say("it runs the program under management, %s, on http://127.0.0.1:%d,",
      bold("examples/notes").c_str(), port_.port());
  say("which keeps its notes in SQLite; the other nodes follow its database. A client writes");
  say("note 1, note 2, … through it all the time, each once the last is acknowledged.");
}

void Demo::start_node(const std::string& node) {
  const std::string file = folder_ + "/" + node + ".yaml";
  const std::string data = folder_ + "/" + node + "-data";
  std::filesystem::create_directories(data);
  const std::string port = std::to_string(port_.port());
  std::ofstream(file) << "platform: " << kPlatform << "\n"
                      << "node: " << node << "\n"
                      << "nats:\n  url: " << servers_.front()->url() << "\n"
                      << "folder: " << yaml(folder_ + "/" + node) << "\n"
                      << "http: \"\"\n"
                      << "apps:\n  " << kApp << ":\n    mode: singleton\n"
                      << "    sqlite:\n      path: " << yaml(data + "/notes.db") << "\n"
                      << "      commit: replicated\n    process:\n"
                      << "      command: [" << yaml(programs_ + "/examples/notes") << ", --port, "
                      << yaml(port) << ", --extension, " << yaml(CPP_CLUSTER_EXTENSION) << "]\n"
                      << "      ready:\n        http: http://127.0.0.1:" << port << "/healthz\n";
  const std::string log = folder_ + "/" + node + ".log";
  nodes_[node] = std::make_unique<Program>(
      std::vector<std::string>{CPP_CLUSTER_PROGRAM, "run", "--config", file}, log);
  history_->follow_log(node, log);
}

std::string Demo::leader() const {
  const auto* lease = history_->lease(kApp);
  return lease != nullptr && lease->held ? lease->holder : "";
}

bool Demo::whole() const {
  const auto* led = history_->session(leader());
  if (led == nullptr || !led->live()) return false;
  return std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& node) {
    const auto* session = history_->session(node.first);
    if (session == nullptr || !session->live()) return false;
    const cluster::coord::SessionId id{session->node, session->session};
    return node.first == led->node ||
           std::find(led->voters.begin(), led->voters.end(), id) != led->voters.end();
  });
}

void Demo::row(Time killed, Time when, const std::string& what, const std::string& detail) {
  say("   %8.1f ms  %-15s %s", milliseconds(when - killed), what.c_str(), detail.c_str());
}

void Demo::fail_over(const std::string& victim, bool power) {
  const std::string session = history_->session(victim)->session;
  const std::uint64_t epoch = history_->lease(kApp)->epoch;
  Program& node = *nodes_.at(victim);
  auto below = descendants(node.pid());
  // The guardian first: it must not have time to act for the dead node.
  std::stable_partition(below.begin(), below.end(), [](const Seen& process) {
    return process.name.starts_with("cpp-cluster-gua");
  });
  const bool has_guardian = !below.empty() && below.front().name.starts_with("cpp-cluster-gua");
  if (!has_guardian) throw Failed{victim + " has no guardian: read " + node.log_file()};

  const Time killed = BootClock::now();
  node.kill_hard(power ? below : std::vector<Seen>{});
  nodes_.erase(victim);
  row(killed, killed, "killed", victim);

  std::string detail;
  const Time ended = time_of("the end of " + victim + "'s session", [&]() -> std::optional<Time> {
    for (const auto& [time, record] : history_->sessions())
      if (record.node == victim && record.session == session && !record.live()) {
        const bool left = record.state == cluster::coord::SessionState::left;
        detail = (left ? "left, by " : "expired, by ") + record.ended_by;
        return time;
      }
    return std::nullopt;
  });
  row(killed, ended, "session ended", detail);

  std::string next;
  // Two watches tell of the two, and which tells first is chance; but the session ends first.
  const Time taken = std::max(ended, time_of("another leader", [&]() -> std::optional<Time> {
                                for (const auto& [time, record] : history_->leases())
                                  if (record.app == kApp && record.held && record.epoch > epoch) {
                                    next = record.holder;
                                    detail = next + " leads, epoch " + std::to_string(record.epoch);
                                    return time;
                                  }
                                return std::nullopt;
                              }));
  row(killed, taken, "lease taken", detail);

  const Time ready = time_of("a ready backend on " + next, [&]() -> std::optional<Time> {
    for (const auto& [time, on] : history_->ready())
      if (on == next && time > killed) return time;
    return std::nullopt;
  });

  const FirstAnswer* answer = nullptr;
  const Time answered = time_of("an answer from " + next, [&]() -> std::optional<Time> {
    for (const auto& one : history_->answers())
      if (one.epoch > epoch) {
        answer = &one;
        return one.time;
      }
    return std::nullopt;
  });
  char silence[64];
  std::snprintf(silence, sizeof silence, ", %.1f ms after the last", milliseconds(answer->silence));
  // The client may be served before the node has looked.
  const bool served_first = answered < ready;
  if (!served_first) row(killed, ready, "backend ready", "notes on " + next);
  row(killed, answered, "first answer", "from " + answer->node + silence);
  if (served_first)
    row(killed, ready, "backend ready", "notes on " + next + ", when its node looked next");
  count_notes();
}

void Demo::count_notes() {
  const std::uint64_t acknowledged = writer_->written().notes;
  std::optional<Kept> kept;
  wait_for("the list of notes", 30s,
           [&] { return (kept = read_notes(port_.port(), acknowledged)).has_value(); });
  if (kept->missing > 0)
    throw Failed{std::to_string(kept->missing) + " notes that were acknowledged are lost, note " +
                 std::to_string(kept->first_missing) + " first: read " + folder_ + "/node-*.log"};
  const std::string twice = kept->twice == 0
                                ? ""
                                : "; " + std::to_string(kept->twice) +
                                      " of them twice: no answer came, so the client wrote again";
  say("   %s%s",
      bold("all " + std::to_string(acknowledged) + " acknowledged notes are there").c_str(),
      twice.c_str());
}

void Demo::bring_back(const std::string& node) {
  const Time began = BootClock::now();
  start_node(node);
  wait_for("the return of " + node, 30s, [&] { return whole(); });
  const double whole_after = milliseconds(BootClock::now() - began) / 1000;
  std::string txid;
  const Time caught_up = time_of("the copy of " + node, [&]() -> std::optional<Time> {
    for (const auto& one : history_->caught_up())
      if (one.node == node && one.time > began) {
        txid = one.txid;
        return one.time;
      }
    return std::nullopt;
  });
  say("   %s is started again; its database has caught up after %.1f s, at transaction %s,",
      node.c_str(), milliseconds(caught_up - began) / 1000, txid.c_str());
  say("   and it is one of three again after %.1f s", whole_after);
}

void Demo::write_more_notes() {
  const std::uint64_t until = writer_->written().notes + 500;
  wait_for("500 more notes", 30s, [&] { return writer_->written().notes >= until; });
}

// As an operator would: while the client goes on.
void Demo::compare_copies() {
  say("\n%s", bold("3. cpp-cluster db verify notes").c_str());
  const std::string log = folder_ + "/verify.log";
  Program verify({CPP_CLUSTER_PROGRAM, "db", "verify", kApp, "--nats", servers_.front()->url(),
                  "--platform", kPlatform},
                 log);
  std::string how;
  wait_for("cpp-cluster db verify", 60s, [&] { return !verify.running(&how); });
  std::ifstream file(log);
  for (std::string line; std::getline(file, line);) say("   %s", line.c_str());
  if (how != "exited with status 0") throw Failed{"cpp-cluster db verify " + how};
}

void Demo::finish() {
  write_more_notes();
  count_notes();
  compare_copies();
  const Written written = writer_->written();
  writer_.reset();
  if (written.stale != 0)
    throw Failed{"an older leader has answered after a newer one, " +
                 std::to_string(written.stale) + " times: read " + folder_ + "/node-*.log"};
  say("\n%s %llu notes were acknowledged while the lead moved twice, and none is lost;",
      bold("Survived both.").c_str(), static_cast<unsigned long long>(written.notes));
  say("never did an older leader answer after a newer one. Go on with docs/getting-started.md.");
}

// In order, while NATS is still there; what does not end in time is killed.
void Demo::stop_nodes() noexcept {
  writer_.reset();
  for (const auto& [name, node] : nodes_) kill(node->pid(), SIGTERM);
  const Time until = BootClock::now() + 5s;
  for (const auto& [name, node] : nodes_)
    while (node->running() && BootClock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  nodes_.clear();
}

int run(const std::string& programs) {
  adopt_orphans();
  std::string folder;
  int status = 1;
  bool keep = false;
  try {
    folder = make_temporary_folder();
    Demo demo(programs, folder);
    demo.run();
    status = 0;
  } catch (const Interrupted&) {
    std::fprintf(stderr, "\nInterrupted.\n");
    status = 130;
  } catch (const Failed& failed) {
    std::fprintf(stderr, "\nThe demo has failed: %s\n", failed.text.c_str());
    keep = true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "\nThe demo has failed: %s\n", error.what());
    if (!folder.empty()) std::fprintf(stderr, "Logs are in %s\n", folder.c_str());
    keep = true;
  }
  end_descendants(5);
  std::error_code failure;
  if (!keep && !folder.empty()) std::filesystem::remove_all(folder, failure);
  if (failure)
    std::fprintf(stderr, "Can't remove %s: %s\n", folder.c_str(), failure.message().c_str());
  return status;
}

}  // namespace
}  // namespace demo

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: demo BUILD_FOLDER; it is started by scripts/demo\n");
    return 2;
  }
  return demo::run(std::filesystem::absolute(argv[1]).string());
}
