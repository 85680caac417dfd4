#include "bench/cluster.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "bench/built.h"
#include "coord/records_json.h"

namespace bench {

using cluster::BootClock;
using cluster::Duration;
using cluster::Time;
using nlohmann::json;
using namespace std::chrono_literals;
namespace coord = cluster::coord;
namespace nats = cluster::nats;

namespace {

nats::Message control_message(const std::string& node, const std::string& what) {
  nats::Message message;
  message.subject = kPlatform + "._.node." + node + "." + what;
  return message;
}

}  // namespace

Cluster::Nats::Nats(cluster::Loop& loop, const std::vector<std::string>& urls)
    : connection(loop, {.nats = {.servers = urls}, .name = "bench"}),
      jetstream(connection),
      members(jetstream, kPlatform + "_members"),
      leases(jetstream, kPlatform + "_leases") {}

Cluster::Cluster(Waiting& waiting, Options options)
    : waiting_(waiting),
      options_(std::move(options)),
      nats_(std::make_unique<Nats>(waiting.loop(), options_.urls)) {
  if (!options_.backend.empty()) port_.emplace();
  waiting_.wait_for("a connection to NATS", 10s, [this] {
    return nats_->connection.state() == nats::ConnectionState::connected;
  });
  std::filesystem::create_directories(options_.folder);
  for (int i = 1; i <= options_.nodes; ++i) names_.push_back("node-" + std::to_string(i));
  for (const auto& node : names_) {
    if (options_.database)
      std::filesystem::create_directories(std::filesystem::path(database_file(node)).parent_path());
    start(node);
  }
  watch();
  wait_whole(180s);
}

Cluster::~Cluster() {
  for (auto& [name, node] : nodes_) {
    if (node.guardian > 0) {
      kill(node.guardian, SIGKILL);
      orphans_.push_back(node.guardian);
    }
    node.reader.reset();
    node.process.reset();
    if (node.journal >= 0) close(node.journal);
  }
  // A guardian of a node that was killed before may be at work still.
  for (const pid_t pid : orphans_) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

std::string Cluster::log_file(const std::string& node) const {
  return options_.folder + "/" + node + ".log";
}

void Cluster::start(const std::string& name) {
  reap_orphans();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw cluster::Error(cluster::Errc::system, std::string("pipe: ") + std::strerror(errno));
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  std::string urls;
  for (const auto& url : options_.urls) urls += (urls.empty() ? "" : ",") + url;
  std::vector<std::string> command{built::kNode, name, urls, options_.folder + "/" + name,
                                   std::to_string(options_.apps)};
  if (port_) {
    command.push_back(options_.backend);
    command.push_back(std::to_string(port_->port()));
  } else if (options_.database) {
    command.push_back(database_file(name));
  }
  Node& node = nodes_[name];
  node.process = std::make_unique<Child>(command, log_file(name), ends[1]);
  close(ends[1]);
  node.journal = ends[0];
  node.unread.clear();
  node.reader =
      waiting_.loop().on_fd(node.journal, EPOLLIN, [this, name](unsigned) { read_journal(name); });
}

void Cluster::read_journal(const std::string& name) {
  Node& node = nodes_[name];
  char buffer[4096];
  for (;;) {
    const ssize_t size = read(node.journal, buffer, sizeof buffer);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return;
    if (size == 0) {
      node.reader.reset();
      return;
    }
    node.unread.append(buffer, static_cast<std::size_t>(size));
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = node.unread.find('\n', begin)) != std::string::npos;
         begin = end + 1)
      line(name, node.unread.substr(begin, end - begin));
    node.unread.erase(0, begin);
  }
}

void Cluster::line(const std::string& node, const std::string& text) {
  std::istringstream in(text);
  std::int64_t ns = 0;
  Moment moment{.node = node};
  in >> ns >> moment.what >> moment.app >> moment.epoch;
  moment.time = Time(Duration(ns));
  if (moment.what == "active") active_[moment.app] = std::max(active_[moment.app], moment.epoch);
  moments_.push_back(std::move(moment));
}

void Cluster::watch() {
  nats::KvWatch::Handlers members;
  members.entry = [this](nats::KvEntry entry) {
    const auto record = coord::session_record_from(entry.key, entry.value);
    if (!record) throw record.error();
    if (!record.value().live()) ends_.push_back({BootClock::now(), entry.key});
    sessions_[entry.key] = record.value();
    ++rewrites_[entry.key];
  };
  nats::KvWatch::Handlers leases;
  leases.entry = [this](nats::KvEntry entry) {
    const auto record = coord::lease_record_from(entry.key, entry.value);
    if (!record) throw record.error();
    leases_.push_back({BootClock::now(), record.value()});
    lease_[entry.key] = record.value();
  };
  nats_->members_watch = nats_->members.watch(">", std::move(members));
  nats_->leases_watch = nats_->leases.watch(">", std::move(leases));
}

pid_t Cluster::backend_of(const std::string& node) {
  const auto answer = nats::await<nats::Message>(waiting_.loop(), 5s, [&](auto done) {
    nats_->connection.request(control_message(node, "status"), 5s, done);
  });
  if (!answer) throw Failed{"no status of " + node + ": " + answer.error().what()};
  const json status = json::parse(answer.value().data);
  for (const auto& app : status.at("apps"))
    if (app.at("backend").is_object()) return app.at("backend").at("pid");
  return 0;
}

// The control service answers once a session is in force; that the guardian is there is asked, too.
void Cluster::learn_guardians() {
  for (auto& [name, node] : nodes_) {
    if (node.guardian > 0) continue;
    std::string last = "nothing was asked";
    const Time until = BootClock::now() + 10s;
    while (node.guardian <= 0) {
      const auto answer = nats::await<nats::Message>(waiting_.loop(), 2s, [&](auto done) {
        nats_->connection.request(control_message(name, "status"), 1s, done);
      });
      if (answer) node.guardian = json::parse(answer.value().data).at("guardian").at("pid");
      last = answer ? "it has none" : answer.error().what();
      if (node.guardian > 0) break;
      if (BootClock::now() > until) throw Failed{"no guardian of " + name + " is known: " + last};
      waiting_.pass(5ms);
    }
  }
}

void Cluster::reap_orphans() {
  std::erase_if(orphans_, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
}

void Cluster::buried(const std::string& name) {
  Node& node = nodes_.at(name);
  node.killed_session = sessions_[name].session;
  node.process->kill_hard();
  read_journal(name);
  node.reader.reset();
  close(node.journal);
  node.journal = -1;
  orphans_.push_back(node.guardian);
  node.guardian = 0;
}

Time Cluster::kill_process(const std::string& name) {
  const pid_t backend = options_.backend.empty() ? 0 : backend_of(name);
  if (backend > 0) orphans_.push_back(backend);
  const Time killed = BootClock::now();
  kill(node_pid(name), SIGKILL);
  buried(name);
  return killed;
}

Time Cluster::kill_machine(const std::string& name) {
  const pid_t backend = options_.backend.empty() ? 0 : backend_of(name);
  if (backend > 0) orphans_.push_back(backend);
  const Time killed = BootClock::now();
  // The guardian first: it must not have time to act.
  kill(guardian_pid(name), SIGKILL);
  kill(node_pid(name), SIGKILL);
  if (backend > 0) kill(-backend, SIGKILL);
  buried(name);
  return killed;
}

bool Cluster::ended(const std::string& name) const {
  const auto& record = sessions_.at(name);
  return !record.live() || record.session != nodes_.at(name).killed_session;
}

std::string Cluster::session(const std::string& name) const {
  const auto& record = sessions_.at(name);
  return record.live() ? record.session : "";
}

bool Cluster::led(const std::string& app) const {
  const auto lease = lease_.find(app);
  if (lease == lease_.end() || !lease->second.held) return false;
  const auto holder = sessions_.find(lease->second.holder);
  const auto active = active_.find(app);
  return holder != sessions_.end() && holder->second.live() &&
         holder->second.session == lease->second.session && active != active_.end() &&
         active->second == lease->second.epoch;
}

bool Cluster::whole() const {
  for (const auto& name : names_) {
    const auto seen = sessions_.find(name);
    if (seen == sessions_.end() || !seen->second.live()) return false;
    if (seen->second.session == nodes_.at(name).killed_session) return false;
    for (const auto& other : names_) {
      const auto them = sessions_.find(other);
      if (other == name) continue;
      if (them == sessions_.end()) return false;
      const coord::SessionId id{other, them->second.session};
      const auto& voters = seen->second.voters;
      if (std::find(voters.begin(), voters.end(), id) == voters.end()) return false;
    }
  }
  for (int i = 1; i <= options_.apps; ++i)
    if (!led("app-" + std::to_string(i))) return false;
  return true;
}

void Cluster::wait_whole(Duration limit) {
  std::string gone;
  waiting_.wait_for("all nodes to watch each other, and a leader of every app", limit, [&] {
    for (auto& [name, node] : nodes_)
      if (std::string how; !node.process->running(&how)) gone = name + " " + how;
    return !gone.empty() || whole();
  });
  if (!gone.empty()) throw Failed{gone};
  learn_guardians();
  reap_orphans();
}

void Cluster::wait_rewritten(Duration limit) {
  rewrites_.clear();
  waiting_.wait_for("every node to rewrite its record", limit, [&] {
    return std::all_of(names_.begin(), names_.end(),
                       [&](const std::string& name) { return rewrites_[name] >= 2; });
  });
}

void Cluster::step_down(const std::string& app, const std::string& target) {
  nats::Message message = control_message(leader(app), "stepdown");
  message.data = json{{"v", 1}, {"app", app}, {"target", target}}.dump();
  const auto answer = nats::await<nats::Message>(waiting_.loop(), 20s, [&](auto done) {
    nats_->connection.request(std::move(message), 10s, done);
  });
  if (!answer) throw Failed{"step-down of " + app + ": " + answer.error().what()};
  if (const auto error = answer.value().header("Nats-Service-Error"); !error.empty())
    throw Failed{"step-down of " + app + ": " + std::string(error)};
}

std::string Cluster::database_file(const std::string& node) const {
  return options_.folder + "/" + node + "-data/app.db";
}

DatabaseStatus Cluster::database(const std::string& node) {
  const auto answer = nats::await<nats::Message>(waiting_.loop(), 10s, [&](auto done) {
    nats_->connection.request(control_message(node, "status"), 10s, done);
  });
  if (!answer) throw Failed{"no status of " + node + ": " + answer.error().what()};
  const json status = json::parse(answer.value().data);
  const json& found = status.at("apps").at(0).at("database");
  DatabaseStatus database;
  database.role = found.at("role");
  database.ready = found.at("ready");
  database.txid = found.at("txid");
  database.lag_transactions = found.at("lag").at("transactions");
  database.lag_bytes = found.at("lag").at("bytes");
  database.trouble = found.at("trouble");
  return database;
}

std::string Cluster::leader(const std::string& app) const {
  const auto lease = lease_.find(app);
  return lease != lease_.end() && lease->second.held ? lease->second.holder : "";
}

std::uint64_t Cluster::epoch(const std::string& app) const {
  const auto lease = lease_.find(app);
  return lease == lease_.end() ? 0 : lease->second.epoch;
}

const Moment* Cluster::find(const std::string& what, const std::string& app,
                            std::uint64_t epoch_above) const {
  const auto found = std::find_if(moments_.begin(), moments_.end(), [&](const Moment& moment) {
    return moment.what == what && moment.app == app && moment.epoch > epoch_above;
  });
  return found == moments_.end() ? nullptr : &*found;
}

void Cluster::forget() {
  moments_.clear();
  ends_.clear();
  leases_.clear();
}

int Cluster::count_log_lines(const std::string& event) const {
  int count = 0;
  for (const auto& name : names_) {
    std::ifstream file(log_file(name));
    for (std::string text; std::getline(file, text);)
      if (text.find(" " + event + " ") != std::string::npos) ++count;
  }
  return count;
}

}  // namespace bench
