#include "e2e/harness.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "built.h"
#include "core/ids.h"
#include "core/process_scan.h"
#include "core/unique_fd.h"
#include "shell.h"

extern char** environ;

namespace cluster::e2e {
namespace {

constexpr std::size_t kTail = 60;  // lines of a log that a failed test prints
constexpr seconds kAnswerLimit(20);
constexpr seconds kStateLimit(60);

std::string new_folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "cpp-cluster-e2e-XXXXXX");
  if (!::mkdtemp(pattern.data())) throw Error(Errc::system, "mkdtemp failed");
  return pattern;
}

std::string mark_of(const std::string& folder) { return "CPP_CLUSTER_E2E=" + folder; }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

char state_in(const std::string& stat) {
  const auto at = stat.rfind(") ");
  return at == std::string::npos ? 'X' : stat[at + 2];
}

// Of all its threads, since the first one may have ended, or stand still, before the others do.
std::string states_of(pid_t pid) {
  std::string states;
  std::error_code none;
  for (std::filesystem::directory_iterator task("/proc/" + std::to_string(pid) + "/task", none),
       end;
       !none && task != end; task.increment(none))
    states += state_in(read_file(task->path() / "stat"));
  return states;
}

bool all_are(const std::string& states, std::string_view wanted) {
  return states.find_first_not_of(wanted) == std::string::npos;
}

constexpr std::string_view kGone = "XZ";

// Until all its threads are in one of these states.
void wait_until_all_are(pid_t pid, std::string_view wanted, const char* what) {
  const Time end = BootClock::now() + kStateLimit * slowness();
  for (auto now = states_of(pid); !all_are(now, wanted); now = states_of(pid)) {
    if (BootClock::now() >= end) {
      ADD_FAILURE() << "process " << pid << what << "; its threads are in states " << now;
      return;
    }
    std::this_thread::sleep_for(milliseconds(1));
  }
}

std::string field(const std::string& text, std::size_t wanted) {
  std::istringstream in(text);
  std::string part;
  for (std::size_t i = 0; i <= wanted; ++i)
    if (!std::getline(in, part, '\0')) return {};
  return part;
}

// That NATS, or this machine, was slow says nothing of what is there: asked again until it is
// known, or `end`.
template <typename T, typename Ask>
Result<T> until_known(Loop& loop, Duration limit, Time end, const Ask& ask) {
  for (;;) {
    auto answer = nats::await<T>(loop, limit, ask);
    if (answer || answer.error().errc() == Errc::not_found || BootClock::now() >= end)
      return answer;
    loop.run_once(milliseconds(10));
  }
}

bool connect_to(int fd, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

bool accepts(int port) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return connect_to(fd.get(), port);
}

// Signals to 0 and to negative ids reach whole groups of processes, this one's first of all.
void signal_one(pid_t pid, int signal) {
  if (pid <= 0) throw Error(Errc::invalid_argument, "a signal to a process that is not there");
  ::kill(pid, signal);
}

// They are written hundreds of times a second, and only the first and the newest of them tell
// something: between these the process was at work.
bool is_sign_of_life(const std::string& what) {
  return what == "alive" || what == "refused" || what == "leads";
}

// When something was at work, for certain: from its first sign to its last.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::string node{};
  std::uint64_t epoch = 0;
  pid_t pid = 0;
};

std::string told(const Interval& i) {
  return i.node + " (process " + std::to_string(i.pid) + ", epoch " + std::to_string(i.epoch) +
         ") from " + std::to_string(i.begin) + " to " + std::to_string(i.end);
}

// A backend and what it has started share epoch and node: they may be at work together.
void expect_no_overlap(std::vector<Interval> intervals, const std::string& what) {
  std::erase_if(intervals, [](const Interval& i) { return i.begin > i.end; });
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  const Interval* latest = nullptr;
  for (const auto& next : intervals) {
    if (latest && (latest->epoch != next.epoch || latest->node != next.node)) {
      EXPECT_LE(latest->end, next.begin)
          << what << ": two at the same time:\n  " << told(*latest) << "\n  " << told(next);
      EXPECT_LE(latest->epoch, next.epoch)
          << what << ": an older epoch came later:\n  " << told(*latest) << "\n  " << told(next);
    }
    if (!latest || next.end > latest->end) latest = &next;
  }
}

}  // namespace

std::string read_file(const std::string& path) {
  std::ostringstream text;
  std::ifstream file(path, std::ios::binary);
  if (file) text << file.rdbuf();
  return text.str();
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  if (!file.flush()) throw Error(Errc::system, "can't write " + path);
}

void each_new_line(const std::string& path, std::size_t& read,
                   const std::function<void(const std::string&)>& take) {
  std::ifstream file(path);
  if (!file) return;
  const auto end = std::filesystem::file_size(path);
  file.seekg(static_cast<std::streamoff>(read));
  for (std::string line; read < end && std::getline(file, line) && !file.eof();) {
    read += line.size() + 1;
    take(line);
  }
}

// The port stays bound here, so that the kernel gives it to nobody else, until this process ends. A
// server with SO_REUSEADDR may listen on it all the same, since nobody listens here.
int free_port() {
  static std::vector<UniqueFd> held;
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw Error(Errc::system, "no free port");
  held.push_back(std::move(fd));
  return ntohs(address.sin_port);
}

std::string http_get(int port, const std::string& path) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval limit{.tv_sec = 10L * slowness(), .tv_usec = 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  if (!connect_to(fd.get(), port) ||
      ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
    return {};
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(n));
  return answer;
}

bool alive(pid_t pid) { return !all_are(states_of(pid), kGone); }

int ended_with(Errc code) { return 10 + static_cast<int>(code); }

void kill_and_wait(pid_t pid) {
  signal_one(pid, SIGKILL);
  wait_until_all_are(pid, kGone, " was killed and is there still");
}

void stop_and_wait(pid_t pid) {
  signal_one(pid, SIGSTOP);
  // One that the kernel holds up (D) runs nothing of the program before it stops.
  wait_until_all_are(pid, "TDXZ", " was stopped and runs still");
}

// ---- Child

Child::Child(Options options) : options_(std::move(options)) {
  std::vector<char*> arguments;
  for (auto& a : options_.command) arguments.push_back(a.data());
  arguments.push_back(nullptr);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
  environment.insert(environment.end(), options_.environment.begin(), options_.environment.end());
  std::vector<char*> variables;
  for (auto& e : environment) variables.push_back(e.data());
  variables.push_back(nullptr);

  const int output =
      ::open(options_.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const int input =
      options_.input >= 0 ? options_.input : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int network =
      options_.network_of.empty() ? -1 : ::open(options_.network_of.c_str(), O_RDONLY | O_CLOEXEC);
  if (output < 0 || input < 0 || (network < 0 && !options_.network_of.empty()))
    throw Error(Errc::system, "can't open what " + options_.command.front() + " is to have");
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(126);
    if (network >= 0 && ::setns(network, CLONE_NEWNET) != 0) ::_exit(125);
    ::dup2(input, 0);
    ::dup2(output, 1);
    ::dup2(output, 2);
    ::execvpe(arguments[0], arguments.data(), variables.data());
    ::_exit(127);
  }
  const int reason = errno;
  ::close(output);
  if (options_.input < 0) ::close(input);
  if (network >= 0) ::close(network);
  if (pid_ < 0) throw Error(Errc::system, std::string("fork: ") + std::strerror(reason));
}

Child::~Child() {
  if (!running()) return;
  signal(SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Child::running() {
  int status = 0;
  if (!ended_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    ended_ = true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return !ended_;
}

void Child::signal(int signal) const {
  if (!ended_) ::kill(pid_, signal);
}

std::string Child::output() const { return read_file(options_.output); }

// ---- Cluster

struct Cluster::Store {
  Store(const std::vector<std::string>& urls, const std::string& platform)
      : connection(loop, options_of(urls)),
        jetstream(connection, seconds(2)),
        members(jetstream, platform + "_members"),
        leases(jetstream, platform + "_leases") {
    loop.run_until([&] { return connection.state() == nats::ConnectionState::connected; },
                   seconds(10));
  }
  static nats::ConnectOptions options_of(const std::vector<std::string>& urls) {
    nats::ConnectOptions options;
    options.nats.servers = urls;
    options.name = "test";
    return options;
  }

  Loop loop;
  nats::Connection connection;
  nats::JetStream jetstream;
  nats::KeyValue members;
  nats::KeyValue leases;
};

Cluster::Cluster(Settings settings)
    : settings_(settings), folder_(new_folder()), platform_("e" + random_id().substr(0, 10)) {
  std::transform(platform_.begin(), platform_.end(), platform_.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  // Nodes die with this process by themselves; what they started, and what is stopped, by the
  // reaper.
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw Error(Errc::system, "pipe2 failed");
  reaper_ = std::make_unique<Child>(
      Child::Options{.command = {built::kE2eNode, "--reaper", mark_of(folder_)},
                     .environment = {},
                     .output = path("reaper.log"),
                     .network_of = {},
                     .input = ends[0]});
  ::close(ends[0]);
  reaper_pipe_ = ends[1];
  if (settings_.servers > 0) {
    servers_ = nats::start_local_servers(settings_.servers, path("nats"), false);
    for (const auto& server : servers_) urls_.push_back(server->url());
    use(urls_);
  }
}

Cluster::~Cluster() {
  stop_all();
  check_history();
  if (testing::Test::HasFailure() || std::uncaught_exceptions() > 0) print_logs();
  store_.reset();
  servers_.clear();
  own_servers_.clear();
  ::close(reaper_pipe_);
  std::error_code none;
  if (!std::getenv("CLUSTER_TEST_KEEP")) std::filesystem::remove_all(folder_, none);
}

void Cluster::stop_all() {
  if (settings_.stop_in_order) {
    // One after the other would take long: leads would move from each to the next.
    for (auto& [name, node] : nodes_) node->signal(SIGTERM);
    EXPECT_TRUE(wait_for("nodes to stop in order", [&] { return running_nodes().empty(); }));
    for (auto& [name, node] : nodes_) {
      if (!node->running() && node->status() != 0 && node->status() != 128 + SIGKILL)
        ADD_FAILURE() << name << " ended with status " << node->status();
    }
  }
  nodes_.clear();
  replaced_.clear();
  auto left = end_marked({mark_of(folder_)}, seconds(20));
  EXPECT_TRUE(left.remaining.empty()) << left.remaining.front().command << " can't be ended";
}

void Cluster::print_logs() {
  std::ostringstream out;
  std::map<std::string, std::vector<std::string>> logs;
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    if (entry.path().extension() == ".log")
      logs[entry.path().stem()] = lines_of(read_file(entry.path()));
  auto& last = logs["journal"];
  for (const auto& e : journal())
    if (e.what != "alive" && e.what != "leads")
      last.push_back(std::to_string(e.ns / 1000) + "us " + std::to_string(e.pid) + ' ' + e.node +
                     ' ' + e.app + ' ' + e.what + ' ' + std::to_string(e.epoch) + ' ' + e.detail);
  for (const auto& [name, lines] : logs) {
    out << "---- " << name << '\n';
    for (std::size_t i = lines.size() > kTail ? lines.size() - kTail : 0; i < lines.size(); ++i)
      out << lines[i] << '\n';
  }
  std::cerr << out.str();
}

std::vector<std::string> Cluster::urls() const { return urls_; }

std::vector<nats::EmbeddedServer*> Cluster::all_servers() const {
  std::vector<nats::EmbeddedServer*> all;
  for (const auto& server : servers_) all.push_back(server.get());
  return all;
}

void Cluster::use(std::vector<std::string> urls, bool there) {
  urls_ = std::move(urls);
  store_.reset();
  if (there) store_ = std::make_unique<Store>(urls_, platform_);
}

std::string Cluster::start_server(std::string configuration, int port) {
  if (port == 0) port = free_port();
  const std::string name = "server-" + std::to_string(own_servers_.size() + 1);
  auto fill_in = [&](const std::string& word, const std::string& value) {
    for (auto at = configuration.find(word); at != std::string::npos; at = configuration.find(word))
      configuration.replace(at, word.size(), value);
  };
  fill_in("PORT", std::to_string(port));
  fill_in("FOLDER", path(name));
  write_file(path(name + ".conf"), configuration);
  own_servers_.push_back(std::make_unique<Child>(
      Child::Options{.command = {"nats-server", "-c", path(name + ".conf")},
                     .environment = {std::string("PATH=") + std::getenv("PATH") + ":/usr/sbin"},
                     .output = path(name + ".log"),
                     .network_of = {},
                     .input = -1}));
  auto& server = *own_servers_.back();
  const auto begun = wait_for("a NATS server", [&] { return !server.running() || accepts(port); });
  if (!begun || !server.running()) throw Error(Errc::timeout, "nats-server: " + server.output());
  return "nats://127.0.0.1:" + std::to_string(port);
}

std::optional<std::size_t> Cluster::stream_leader(const std::string& stream) {
  nats::Message request;
  request.subject = "$JS.API.STREAM.INFO." + stream;
  auto answer =
      nats::await<nats::Message>(store_->loop, seconds(2), [&](Callback<nats::Message> done) {
        store_->connection.request(std::move(request), seconds(1), std::move(done));
      });
  if (!answer) return std::nullopt;
  const auto info = json::parse(answer.value().data, nullptr, false);
  if (!info.is_object() || !info.contains("cluster")) return std::nullopt;
  const std::string name = info["cluster"].value("leader", "");
  for (std::size_t i = 0; i < servers_.size(); ++i)
    if (servers_[i]->options().server_name == name) return i;
  return std::nullopt;
}

json Cluster::node_options(const std::string& node) const {
  constexpr std::int64_t kLongest = 60'000;  // that is allowed
  const auto session = std::min(settings_.session_timeout.count() * slowness(), kLongest);
  return {{"platform", platform_},
          {"node", node},
          {"nats", urls_},
          {"folder", path("folder-" + node)},
          {"journal", path("journal")},
          {"session_timeout_ms", session},
          {"lease_ttl_ms", session * 10},
          // Guardians may be slow; yet the survivor of two nodes needs three quarters of its
          // session_timeout to do without its voter.
          {"stop_margin_ms", session / 6},
          {"cooldown_ms", 1000},
          {"apps", {{{"name", "db"}, {"backend", backend()}}}}};
}

json Cluster::backend(const std::vector<std::string>& more) const {
  std::vector<std::string> command{built::kE2eBackend, path("journal"), path("fence")};
  command.insert(command.end(), more.begin(), more.end());
  return {{"command", command}, {"stop_timeout_ms", 10'000 * slowness()}};
}

std::vector<std::string> Cluster::marks() const {
  return {mark_of(folder_), std::string("CPP_CLUSTER_GUARDIAN=") + built::kGuardian};
}

std::unique_ptr<Child> Cluster::make(const json& options, Child::Options how) const {
  const std::string name = options.at("node");
  how.command = {built::kE2eNode, options.dump()};
  for (auto& mark : marks()) how.environment.push_back(std::move(mark));
  if (how.output.empty()) how.output = path(name + ".log");
  return std::make_unique<Child>(std::move(how));
}

Child& Cluster::start(const json& options, Child::Options how) {
  const std::string name = options.at("node");
  if (nodes_.contains(name)) replaced_.push_back(std::move(nodes_[name]));
  nodes_[name] = make(options, std::move(how));
  return *nodes_[name];
}

std::string Cluster::start_nodes(int count) {
  std::vector<std::string> names;
  for (int i = 1; i <= count; ++i) names.push_back("node-" + std::to_string(i));
  for (const auto& name : names) start(name);
  EXPECT_TRUE(wait_watched(names));
  return wait_leader();
}

std::vector<std::string> Cluster::running_nodes() {
  std::vector<std::string> running;
  for (auto& [name, node] : nodes_)
    if (node->running()) running.push_back(name);
  return running;
}

std::vector<std::string> Cluster::other_nodes(const std::string& than) {
  auto others = running_nodes();
  std::erase(others, than);
  return others;
}

int Cluster::logged(const std::string& node, const std::vector<std::string>& texts) const {
  int found = 0;
  for (const auto& line : lines_of(log(node)))
    found += std::all_of(texts.begin(), texts.end(), [&](const std::string& text) {
      return line.find(text) != std::string::npos;
    });
  return found;
}

testing::AssertionResult Cluster::wait_logged(const std::string& node,
                                              const std::vector<std::string>& texts) {
  return wait_for("\"" + texts.front() + "\" in the log of " + node,
                  [&] { return logged(node, texts) > 0; });
}

pid_t Cluster::guardian(const std::string& node) const {
  for (const auto& process : find_marked({mark_of(folder_)})) {
    const std::string line = read_file("/proc/" + std::to_string(process.pid) + "/cmdline");
    if (field(line, 0) == "cpp-cluster-guardian" && field(line, 1) == platform_ + "/" + node &&
        alive(process.pid))
      return process.pid;
  }
  return 0;
}

pid_t Cluster::backend_pid(const std::string& node) {
  const auto begun = events(node, "db", "backend_begin");
  return !begun.empty() && alive(begun.back().pid) ? begun.back().pid : 0;
}

testing::AssertionResult Cluster::wait_for(const std::string& what,
                                           const std::function<bool()>& condition, seconds limit) {
  const Time end = BootClock::now() + limit * slowness();
  while (!condition()) {
    if (BootClock::now() >= end)
      return testing::AssertionFailure() << "waited in vain for " << what;
    if (store_)
      store_->loop.run_once(milliseconds(10));
    else
      std::this_thread::sleep_for(milliseconds(10));
  }
  return testing::AssertionSuccess();
}

const std::vector<Event>& Cluster::journal() {
  each_new_line(path("journal"), journal_read_, [&](const std::string& line) {
    std::istringstream in(line);
    Event e;
    in >> e.ns >> e.pid >> e.node >> e.app >> e.what >> e.epoch >> e.detail;
    if (is_sign_of_life(e.what)) {
      auto& [signs, newest] = signs_[{e.pid, e.epoch, e.app, e.what}];
      if (++signs > 2) {
        journal_[newest] = std::move(e);
        return;
      }
      newest = journal_.size();
    }
    journal_.push_back(std::move(e));
  });
  return journal_;
}

std::vector<Event> Cluster::events(const std::string& node, const std::string& app,
                                   const std::string& what) {
  std::vector<Event> found;
  for (const auto& e : journal())
    if ((node.empty() || e.node == node) && e.app == app && e.what == what) found.push_back(e);
  return found;
}

std::string Cluster::wait_lease_moves(const std::string& from, std::uint64_t after,
                                      const std::string& app) {
  std::string next;
  EXPECT_TRUE(wait_for(
      "another node than " + from + " to lead " + app,
      [&] {
        auto record = lease(app);
        if (!record || record->value("state", "") != "held" || record->value("epoch", 0u) <= after)
          return false;
        next = record->value("holder", "");
        const auto done = events(next, app, "active_end");
        const auto begun = events(next, app, "backend_begin");
        return next != from && !done.empty() && done.back().epoch > after && !begun.empty() &&
               begun.back().epoch > after;
      },
      seconds(90)));
  return next;
}

std::set<std::string> Cluster::active(const std::string& app) {
  std::map<std::string, std::string> last;
  for (const auto& e : journal()) {
    auto node = nodes_.find(e.node);
    if (node == nodes_.end() || node->second->pid() != e.pid || e.app != app) continue;
    if (e.what.rfind("active_", 0) == 0 || e.what.rfind("passive_", 0) == 0) last[e.node] = e.what;
  }
  std::set<std::string> active;
  for (const auto& [node, what] : last)
    if (what == "active_end" && nodes_.at(node)->running()) active.insert(node);
  return active;
}

std::string Cluster::wait_leader(const std::string& app, const std::string& not_this,
                                 std::uint64_t after) {
  std::string leader;
  auto settled = [&] {
    auto now = active(app);
    if (now.size() != 1 || *now.begin() == not_this) return false;
    auto record = lease(app);
    if (!record || record->value("state", "") != "held" || record->value("epoch", 0u) <= after ||
        record->value("holder", "") != *now.begin())
      return false;
    leader = *now.begin();
    const auto begun = events(leader, app, "backend_begin");
    return !begun.empty() && begun.back().epoch == record->value("epoch", 0u) &&
           alive(begun.back().pid);
  };
  EXPECT_TRUE(wait_for("one node to lead " + app, settled, seconds(90)));
  return leader;
}

testing::AssertionResult Cluster::wait_members(const std::vector<std::string>& nodes,
                                               seconds limit) {
  const auto all_live = [&] {
    return std::all_of(nodes.begin(), nodes.end(), [&](const std::string& name) {
      auto record = member(name);
      return record && record->value("state", "") == "live";
    });
  };
  return wait_for("nodes to be live members", all_live, limit);
}

testing::AssertionResult Cluster::wait_watched(const std::vector<std::string>& nodes,
                                               seconds limit) {
  std::set<std::pair<json, json>> acknowledged;  // owner, voter
  const auto listening = store_->connection.subscribe(
      platform_ + "._.session.*.ack", [&](const nats::Message& message) {
        const json ack = json::parse(message.data);
        acknowledged.emplace(ack.at("owner"), ack.at("voter"));
      });
  const auto watched = [&] {
    std::map<json, json> voters;  // of the current sessions
    for (const auto& name : nodes) {
      const auto record = member(name);
      if (!record || record->value("state", "") != "live") return false;
      voters[name + "/" + record->value("session", "")] = record->value("voters", json::array());
    }
    return std::all_of(voters.begin(), voters.end(), [&](const auto& one) {
      const auto& [owner, its] = one;
      return its.size() + 1 == nodes.size() &&
             std::all_of(its.begin(), its.end(), [&](const json& voter) {
               return voters.contains(voter) && acknowledged.contains({owner, voter});
             });
    });
  };
  return wait_for("nodes to be live members that all watch each other", watched, limit);
}

Result<nats::KvEntry> Cluster::read(const std::string& bucket, const std::string& key) {
  auto& store = bucket == "members" ? store_->members : store_->leases;
  return until_known<nats::KvEntry>(
      store_->loop, seconds(3), BootClock::now() + kAnswerLimit * slowness(),
      [&](Callback<nats::KvEntry> done) { store.get(key, std::move(done)); });
}

std::optional<json> Cluster::lease(const std::string& app) {
  auto entry = read("leases", app);
  return entry ? std::optional(json::parse(entry.value().value)) : std::nullopt;
}

std::optional<json> Cluster::member(const std::string& node) {
  auto entry = read("members", node);
  return entry ? std::optional(json::parse(entry.value().value)) : std::nullopt;
}

std::string Cluster::member_state(const std::string& node) {
  const auto record = member(node);
  return record ? record->value("state", "") : "none";
}

std::uint64_t Cluster::epoch(const std::string& app) {
  auto record = lease(app);
  return record ? record->value("epoch", std::uint64_t{0}) : 0;
}

json Cluster::ask(const std::string& node, const std::string& what, const json& options) {
  return request(platform_ + "._.node." + node + "." + what, options);
}

std::vector<json> Cluster::audit_log() {
  const std::string stream = platform_ + "_audit";
  std::vector<json> entries;
  const auto limit = kAnswerLimit * slowness();
  const Time end = BootClock::now() + 3 * limit;
  // What comes from now on is left for the next time.
  const auto state = until_known<nats::StreamState>(
      store_->loop, limit, end,
      [&](Callback<nats::StreamState> done) { store_->jetstream.stream(stream, std::move(done)); });
  for (std::uint64_t sequence = 1; state && sequence <= state.value().last_seq; ++sequence) {
    const auto message = until_known<nats::StoredMessage>(
        store_->loop, limit, end, [&](Callback<nats::StoredMessage> done) {
          store_->jetstream.message(stream, sequence, std::move(done));
        });
    if (!message) break;
    entries.push_back(json::parse(message.value().data, nullptr, false));
  }
  return entries;
}

json Cluster::audited(const std::string& category, const std::string& action) {
  json newest;
  for (const auto& entry : audit_log())
    if (entry.value("category", "") == category && entry.value("action", "") == action)
      newest = entry;
  return newest;
}

Cluster::Told Cluster::command(const std::string& arguments) const {
  const std::string line = "timeout -v -k 10 " + std::to_string(120 * slowness()) + " " +
                           shell_quoted(built::kProgram) + " " + arguments + " --nats " +
                           urls_.front() + " --platform " + platform_ + " --timeout 60s 2>&1";
  Told told;
  std::FILE* pipe = ::popen(line.c_str(), "r");
  if (pipe == nullptr) return told;
  char buffer[4096];
  for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    told.out.append(buffer, n);
  const int status = ::pclose(pipe);
  told.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return told;
}

json Cluster::request(const std::string& subject, const json& request) {
  nats::Message message;
  message.subject = subject;
  message.data = request.dump();
  const auto limit = kAnswerLimit * slowness();
  auto answer = nats::await<nats::Message>(
      store_->loop, limit + seconds(1), [&](Callback<nats::Message> done) {
        store_->connection.request(std::move(message), limit, std::move(done));
      });
  if (!answer) return {{"error", answer.error().what()}};
  for (const auto& [name, value] : answer.value().headers)
    if (name == "Nats-Service-Error") return {{"error", value}};
  auto parsed = json::parse(answer.value().data, nullptr, false);
  return parsed.is_object() ? parsed : json{{"error", "no JSON object: " + answer.value().data}};
}

std::optional<std::string> Cluster::put_member(const std::string& node, const json& record) {
  auto made = nats::await<bool>(store_->loop, seconds(10), [&](Callback<bool> done) {
    store_->members.ensure({.bucket = platform_ + "_members"},
                           [done](Failure failure) { failure ? done(*failure) : done(true); });
  });
  if (!made) return made.error().what();
  auto stored = nats::await<std::uint64_t>(
      store_->loop, seconds(10),
      [&](Callback<std::uint64_t> done) { store_->members.put(node, record.dump(), done); });
  return stored ? std::nullopt : std::optional<std::string>(stored.error().what());
}

void Cluster::check_history() {
  std::map<std::pair<pid_t, std::string>, Interval> leads;  // that have not ended
  std::map<std::string, std::vector<Interval>> all_leads;
  std::map<std::pair<pid_t, std::string>, Interval> work;
  std::map<std::pair<pid_t, std::string>, std::string> hooks;
  for (const auto& e : journal()) {
    const std::pair key(e.pid, e.app);
    if (e.what == "leads_begin") {
      // Its thread may have stood still between the look at the lead and at the clock: it counts
      // once a later look has confirmed it.
      leads[key] = {e.ns, 0, e.node, e.epoch, e.pid};
    } else if (e.what == "leads" && leads.contains(key)) {
      leads[key].end = e.ns;
    } else if (e.what == "leads_end" && leads.contains(key)) {
      leads[key].end = e.ns;
      all_leads[e.app].push_back(leads[key]);
      leads.erase(key);
    } else if (e.what == "alive" && !forgiven_.contains(e.pid)) {
      work.try_emplace(key, Interval{e.ns, e.ns, e.node, e.epoch, e.pid}).first->second.end = e.ns;
    } else if (e.what == "active_begin" || e.what == "passive_begin" || e.what == "active_end" ||
               e.what == "passive_end" || e.what == "active_threw" || e.what == "passive_threw") {
      std::string& last = hooks[key];
      if (e.what == "active_begin") {
        EXPECT_TRUE(last.empty() || last.rfind("passive_", 0) == 0)
            << e.node << ": on_active of " << e.app << " after " << last;
      }
      if (e.what == "passive_begin") {
        EXPECT_EQ(last.rfind("active_", 0), 0u)
            << e.node << ": on_passive of " << e.app << " after " << last;
      }
      EXPECT_FALSE(e.what.ends_with("_begin") && last.ends_with("_begin"))
          << e.node << ": " << e.what << " of " << e.app << " overlaps " << last;
      last = e.what;
    }
  }
  for (const auto& [key, lead] : leads) all_leads[key.second].push_back(lead);
  for (auto& [app, intervals] : all_leads) {
    std::erase_if(intervals, [](const Interval& i) { return i.begin > i.end; });
    expect_no_overlap(intervals, "leaders of " + app);
    std::sort(intervals.begin(), intervals.end(),
              [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < intervals.size(); ++i)
      EXPECT_LT(intervals[i - 1].epoch, intervals[i].epoch)
          << "epochs of " << app << " do not grow:\n  " << told(intervals[i - 1]) << "\n  "
          << told(intervals[i]);
  }
  std::map<std::string, std::vector<Interval>> all_work;
  for (const auto& [key, interval] : work) all_work[key.second].push_back(interval);
  for (const auto& [app, intervals] : all_work) {
    if (app.starts_with("spread")) continue;  // at work on every node
    expect_no_overlap(intervals, "backends of " + app);
  }
}

}  // namespace cluster::e2e
