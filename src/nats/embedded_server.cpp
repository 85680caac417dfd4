#include "nats/embedded_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/clock.h"
#include "core/open_files.h"
#include "nats/probe.h"

namespace cluster::nats {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kStopLimit = seconds(10);
constexpr auto kVersionLimit = seconds(10);
constexpr auto kLockLimit =
    seconds(3);  // a server whose owner was killed is going, but not gone yet
constexpr int kPortTries = 5;
constexpr std::array<int, 3> kOldest{2, 10, 0};

Error system_error(const std::string& what) {
  return Error(Errc::system, what + ": " + std::strerror(errno));
}

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// What child processes run between fork and exec: only what is safe there.
struct Spawn {
  std::string program;
  std::vector<std::string> args;  // with the program's name first
  int out = -1;                   // for standard output and error
  int keep = -1;                  // a descriptor to pass on
};

pid_t spawn(const Spawn& s) {
  std::vector<char*> argv;
  for (const auto& a : s.args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const rlimit open_files = open_files_of_children();
  Descriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  pid_t child = ::fork();
  if (child < 0) throw system_error("starting " + s.program);
  if (child > 0) return child;

  // A group of its own: Ctrl-C in a terminal goes to us, and we end it in order.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD, SIGUSR1, SIGUSR2, SIGQUIT})
    ::signal(signal, SIG_DFL);
  ::dup2(null.get(), 0);
  ::dup2(s.out, 1);
  ::dup2(s.out, 2);
  // What this program has open and did not mark as its own is not for the server.
  ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  if (s.keep >= 0) ::fcntl(s.keep, F_SETFD, 0);
  ::setrlimit(RLIMIT_NOFILE, &open_files);
  ::execv(s.program.c_str(), argv.data());
  ::_exit(127);
}

std::string find_binary(const std::string& wanted) {
  auto runs = [](const std::string& path) {
    return ::access(path.c_str(), X_OK) == 0 && !fs::is_directory(path);
  };
  const std::string advice =
      "; install the package nats-server (2.10.23 or newer), or say where it is (embedded.binary)";
  if (wanted.find('/') != std::string::npos) {
    if (runs(wanted)) return wanted;
    throw Error(Errc::not_found, "there is no program \"" + wanted + "\"" + advice);
  }
  const std::string name = wanted.empty() ? "nats-server" : wanted;
  const char* path = std::getenv("PATH");
  // Debian puts it into /usr/sbin, which is not in everyone's PATH.
  std::string folders =
      std::string(path ? path : "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
  for (std::size_t begin = 0; begin <= folders.size();) {
    auto end = std::min(folders.find(':', begin), folders.size());
    std::string candidate = folders.substr(begin, end - begin) + "/" + name;
    if (end > begin && runs(candidate)) return candidate;
    begin = end + 1;
  }
  throw Error(Errc::not_found, "there is no " + name + " in PATH" + advice);
}

std::string output_of_version(const std::string& binary) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw system_error("pipe");
  Descriptor in(ends[0]);
  Descriptor out(ends[1]);
  pid_t child = spawn({binary, {binary, "--version"}, out.get(), -1});
  out = Descriptor();
  std::string text;
  Time end = BootClock::now() + kVersionLimit;
  while (text.size() < 4096) {
    auto left = std::chrono::duration_cast<milliseconds>(end - BootClock::now()).count();
    pollfd p{in.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) <= 0) break;
    char buffer[512];
    auto n = ::read(in.get(), buffer, sizeof buffer);
    if (n <= 0) break;
    text.append(buffer, static_cast<std::size_t>(n));
  }
  ::kill(child, SIGKILL);  // it has said what it has to say
  ::waitpid(child, nullptr, 0);
  return text;
}

void check_version(const std::string& binary) {
  std::string text = output_of_version(binary);
  std::array<int, 3> version{};
  auto at = text.find('v');
  while (at != std::string::npos &&
         std::sscanf(text.c_str() + at, "v%d.%d.%d", &version[0], &version[1], &version[2]) != 3)
    at = text.find('v', at + 1);
  text.erase(std::min(text.find('\n'), text.size()));
  if (at == std::string::npos)
    throw Error(Errc::incompatible,
                binary + " --version says \"" + text + "\": that is no nats-server");
  if (version < kOldest)
    throw Error(Errc::incompatible, binary + " is version " + text.substr(at + 1) +
                                        "; 2.10.0 or newer is needed, 2.10.23 or newer advised: "
                                        "upgrade the package nats-server");
}

// Sockets that hold the ports which they were given, until all have been chosen.
std::vector<int> free_ports(std::size_t count, const std::string& host) {
  std::vector<Descriptor> held;
  std::vector<int> ports;
  for (std::size_t i = 0; i < count; ++i) {
    const bool six = host.find(':') != std::string::npos;
    Descriptor socket(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage address{};
    socklen_t size = six ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    address.ss_family = six ? AF_INET6 : AF_INET;
    if (six) {
      ::inet_pton(AF_INET6, host.c_str(), &reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr);
    } else {
      ::inet_pton(AF_INET, host.c_str(), &reinterpret_cast<sockaddr_in*>(&address)->sin_addr);
    }
    auto* plain = reinterpret_cast<sockaddr*>(&address);
    if (socket.get() < 0 || ::bind(socket.get(), plain, size) != 0 ||
        ::getsockname(socket.get(), plain, &size) != 0)
      throw system_error("finding a free port on " + host);
    ports.push_back(ntohs(six ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                              : reinterpret_cast<sockaddr_in*>(&address)->sin_port));
    held.push_back(std::move(socket));
  }
  return ports;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string place(const std::string& host, int port) {
  return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
         std::to_string(port);
}

std::string last_lines(const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return {};
  const auto size = static_cast<std::int64_t>(in.tellg());
  const auto from = std::max<std::int64_t>(0, size - 4096);
  in.seekg(from);
  std::string text(static_cast<std::size_t>(size - from), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  int lines = 0;
  for (std::size_t i = text.size(); i-- > 0;)
    if (text[i] == '\n' && ++lines == 9) return text.substr(i + 1);
  return text;
}

}  // namespace

struct EmbeddedServer::Core {
  EmbeddedNats options;
  fs::path folder;
  std::string binary;
  bool any_port = false;
  Descriptor lock;
  std::vector<Descriptor> kept_ports;
  mutable pid_t pid = -1;
  mutable int status = 0;

  fs::path log() const { return folder / "nats-server.log"; }
  fs::path errors() const { return folder / "nats-server.err"; }
  std::string last_words() const;
  void take_lock();
  void write_config() const;
  void start();
  void keep_ports();
  bool listens() const;
  bool reap(bool wait) const;
  void stop();
  ServerUrl address() const;
};

// Where a client on this machine reaches it.
ServerUrl EmbeddedServer::Core::address() const {
  ServerUrl url;
  url.host = options.host == "0.0.0.0" ? "127.0.0.1" : options.host == "::" ? "::1" : options.host;
  url.port = options.port;
  return url;
}

std::string EmbeddedServer::Core::last_words() const {
  std::string text = last_lines(log()) + last_lines(errors());
  return text.empty() ? "it has logged nothing"
                      : "the last lines of " + log().string() + " are:\n" + text;
}

// The lock is the server's, too: as long as a process of an earlier run lives, the folder is not
// ours.
void EmbeddedServer::Core::take_lock() {
  const std::string path = folder / "lock";
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0) throw system_error("opening " + path);
  Time end = BootClock::now() + kLockLimit;
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) throw system_error("locking " + path);
    if (BootClock::now() >= end) {
      char pid_text[32] = "";
      auto n = ::pread(file.get(), pid_text, sizeof pid_text - 1, 0);
      throw Error(Errc::system,
                  "another nats-server" +
                      (n > 0 ? " (process " + std::string(pid_text) + ")" : std::string()) +
                      " uses the folder " + folder.string() + "; end it, or use another folder");
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
  lock = std::move(file);
}

void EmbeddedServer::Core::write_config() const {
  std::string text = "# Written by cpp-cluster at each start of this server: changes are lost.\n";
  text += "server_name: " + quoted(options.server_name) + "\n";
  text += "listen: " + quoted(place(options.host, options.port)) + "\n";
  text += "log_file: " + quoted(log()) + "\nlogfile_size_limit: 10MB\nlogfile_max_num: 3\n";
  text += "jetstream {\n  store_dir: " + quoted(folder / "store") + "\n";
  if (options.sync_always) text += "  sync_interval: always\n";
  text += "}\n";
  if (!options.routes.empty()) {
    text += "cluster {\n  name: " + quoted(options.cluster_name) +
            "\n  listen: " + quoted(place(options.cluster_host, options.cluster_port)) +
            "\n  routes: [\n";
    for (const auto& route : options.routes) text += "    " + quoted(route) + "\n";
    text += "  ]\n}\n";
  }
  const std::string path = folder / "nats-server.conf";
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw system_error("writing " + path);
}

void EmbeddedServer::Core::start() {
  if (any_port) options.port = free_ports(1, options.host).front();
  write_config();
  std::error_code none;
  fs::remove(errors(), none);
  Descriptor out(
      ::open(errors().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600));
  if (out.get() < 0) throw system_error("opening " + errors().string());
  pid = spawn({binary, {binary, "--config", folder / "nats-server.conf"}, out.get(), lock.get()});
  const std::string text = std::to_string(pid);
  if (::ftruncate(lock.get(), 0) != 0 || ::pwrite(lock.get(), text.data(), text.size(), 0) < 0)
    throw system_error("writing the lock of " + folder.string());
}

// While a server is down, the kernel may give its ports to anybody who asks for a free one or
// connects to somewhere, and the server could not come back. So they stay bound here. The server
// may listen on them all the same: both sides set SO_REUSEADDR, and nobody listens here.
void EmbeddedServer::Core::keep_ports() {
  if (!kept_ports.empty()) return;
  const auto keep = [this](const std::string& host, int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int yes = 1;
    // Where that can't be had, the server's own start tells why.
    if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1 && socket.get() >= 0 &&
        ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
      kept_ports.push_back(std::move(socket));
  };
  keep(options.host, options.port);
  if (!options.routes.empty()) keep(options.cluster_host, options.cluster_port);
}

// By what the kernel knows of its sockets: whoever answers on the port might be another one. (The
// server's own file of ports does not come when its start has taken more than 5 s.)
bool EmbeddedServer::Core::listens() const {
  const std::string process = "/proc/" + std::to_string(pid);
  std::set<std::string> sockets;
  for (const char* table : {"/net/tcp", "/net/tcp6"}) {
    std::ifstream file(process + table);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
      std::istringstream in(line);
      std::string slot, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      in >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >>
          inode;
      const auto colon = local.rfind(':');
      if (state == "0A" && colon != std::string::npos &&
          std::strtol(local.c_str() + colon + 1, nullptr, 16) == options.port)
        sockets.insert("socket:[" + inode + "]");
    }
  }
  if (sockets.empty()) return false;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(process + "/fd", none))
    if (sockets.contains(fs::read_symlink(entry.path(), none).string())) return true;
  return false;
}

// Has it ended?
bool EmbeddedServer::Core::reap(bool wait) const {
  if (pid < 0) return true;
  pid_t ended = 0;
  do {
    ended = ::waitpid(pid, &status, wait ? 0 : WNOHANG);
  } while (ended < 0 && errno == EINTR);
  if (ended == 0) return false;
  pid = -1;
  return true;
}

void EmbeddedServer::Core::stop() {
  if (reap(false)) return;
  ::kill(pid, SIGTERM);
  Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd p{process.get(), POLLIN, 0};
  Time end = BootClock::now() + kStopLimit;
  while (process.get() >= 0) {
    auto left = std::chrono::duration_cast<milliseconds>(end - BootClock::now()).count();
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) > 0) break;
  }
  if (reap(false)) return;
  ::kill(pid, SIGKILL);
  reap(true);
}

EmbeddedServer::EmbeddedServer(EmbeddedNats options) : core_(std::make_unique<Core>()) {
  auto& core = *core_;
  core.options = std::move(options);
  auto& o = core.options;
  if (o.folder.empty())
    throw Error(Errc::invalid_argument,
                "embedded.folder: is empty; say where JetStream keeps its files");
  if (o.server_name.empty()) o.server_name = "cpp-cluster";
  if (o.cluster_name.empty()) o.cluster_name = "cpp-cluster";
  core.any_port = o.port == 0;
  core.binary = find_binary(o.binary);
  check_version(core.binary);
  std::error_code fault;
  fs::create_directories(o.folder, fault);
  if (fault) throw Error(Errc::system, "creating " + o.folder + ": " + fault.message());
  core.folder = fs::absolute(o.folder);
  core.take_lock();
  core.start();
}

EmbeddedServer::~EmbeddedServer() { core_->stop(); }

void EmbeddedServer::wait_ready(milliseconds timeout) {
  auto& core = *core_;
  Time end = BootClock::now() + timeout;
  int tries = kPortTries;
  Failure why = Error(Errc::unavailable, "it does not listen yet");
  while (true) {
    if (core.reap(false)) {
      std::string words = core.last_words();
      // Somebody else was faster to take the port that was free.
      if (core.any_port && words.find("address already in use") != std::string::npos &&
          --tries > 0) {
        core.start();
        continue;
      }
      throw Error(Errc::backend_failed, "nats-server on " + url() + " has ended; " + words);
    }
    auto left = std::chrono::duration_cast<milliseconds>(end - BootClock::now());
    if (left.count() > 0 && core.listens())
      why = probe_jetstream(core.address(), std::min(left, milliseconds(2'000)));
    if (!why) return;
    if (BootClock::now() >= end)
      throw Error(Errc::timeout, "nats-server is not ready after " +
                                     std::to_string(timeout.count()) + " ms: " + why->what() +
                                     "; " + core.last_words());
    std::this_thread::sleep_for(milliseconds(10));
  }
}

bool EmbeddedServer::running(std::string* why_not) const {
  if (!core_->reap(false)) return true;
  if (why_not) {
    int s = core_->status;
    *why_not = (WIFSIGNALED(s) ? "ended by signal " + std::to_string(WTERMSIG(s))
                               : "ended with status " + std::to_string(WEXITSTATUS(s))) +
               "; " + core_->last_words();
  }
  return false;
}

std::string EmbeddedServer::url() const { return core_->address().text(); }
pid_t EmbeddedServer::pid() const noexcept { return core_->pid; }
const EmbeddedNats& EmbeddedServer::options() const noexcept { return core_->options; }

void EmbeddedServer::kill_hard() {
  if (core_->reap(false)) return;
  ::kill(core_->pid, SIGKILL);
  core_->reap(true);
  core_->keep_ports();
}

void EmbeddedServer::kill() {
  if (core_->reap(false)) return;
  core_->keep_ports();
  ::kill(core_->pid, SIGKILL);
}

void EmbeddedServer::start_again() {
  core_->stop();
  core_->any_port = false;  // clients know it
  core_->keep_ports();
  core_->start();
}

std::size_t servers_up(const std::vector<std::string>& routes) {
  std::size_t up = 0;
  for (const auto& route : routes) {
    const auto server = parse_server_url(route);
    if (!server) continue;
    const auto connected = connect_tcp(server.value(), milliseconds(500));
    if (!connected) continue;
    ::close(connected.value());
    ++up;
  }
  return up;
}

namespace {

// A cluster has a leader before that knows all its servers well enough to place replicas on them.
Failure wait_placement(const EmbeddedServer& server, int replicas, milliseconds limit) {
  const auto url = parse_server_url(server.url()).value();
  const Time end = BootClock::now() + limit;
  for (;;) {
    auto why = probe_placement(url, std::min(replicas, 5), seconds(2));
    if (!why || BootClock::now() >= end) return why;
    std::this_thread::sleep_for(milliseconds(20));
  }
}

// A new cluster's first leader may leave a server out for good: when it is elected in the instant
// in which it knows that server and not yet that this has JetStream (nats-server 2.10.27: in one
// start of 25 on a busy machine). That server's restart brings it in; which one it is, none of them
// says.
void wait_whole(std::vector<std::unique_ptr<EmbeddedServer>>& servers) {
  const int count = static_cast<int>(servers.size());
  if (count == 1) return;
  Failure why = wait_placement(*servers.front(), count, seconds(5));
  for (auto server = servers.rbegin(); why && server != servers.rend(); ++server) {
    (*server)->start_again();
    (*server)->wait_ready(seconds(60));
    why = wait_placement(*servers.front(), count, seconds(5));
  }
  if (why) throw *why;
}

}  // namespace

std::vector<std::unique_ptr<EmbeddedServer>> start_local_servers(int count,
                                                                 const std::string& folder,
                                                                 bool sync_always) {
  std::vector<std::unique_ptr<EmbeddedServer>> servers;
  for (int tries = kPortTries;; --tries) {
    auto ports = free_ports(static_cast<std::size_t>(count) * 2, "127.0.0.1");
    std::vector<std::string> routes;
    for (int i = 0; i < count && count > 1; ++i)
      routes.push_back("nats://127.0.0.1:" +
                       std::to_string(ports[static_cast<std::size_t>(count + i)]));
    try {
      for (int i = 0; i < count; ++i) {
        EmbeddedNats o;
        o.server_name = "nats-" + std::to_string(i + 1);
        o.folder = count > 1 ? folder + "/" + o.server_name : folder;
        o.port = ports[static_cast<std::size_t>(i)];
        o.cluster_name = "local";
        o.cluster_host = "127.0.0.1";
        o.cluster_port = ports[static_cast<std::size_t>(count + i)];
        o.routes = routes;
        o.sync_always = sync_always;
        servers.push_back(std::make_unique<EmbeddedServer>(std::move(o)));
      }
      for (auto& server : servers) server->wait_ready(seconds(tries > 1 ? 30 : 60));
      wait_whole(servers);
      return servers;
    } catch (const Error& error) {
      servers.clear();
      // A port that was free when it was chosen can be taken by somebody else meanwhile.
      const bool taken =
          error.errc() == Errc::backend_failed &&
          std::string(error.what()).find("address already in use") != std::string::npos;
      // On a busy machine new servers of a cluster now and then find no leader for minutes, though
      // all are connected, or one of them stays out (nats-server 2.10.27); begun anew, they do.
      const bool apart =
          count > 1 && (error.errc() == Errc::timeout || error.errc() == Errc::unavailable);
      if (tries <= 1 || !(taken || apart)) throw;
    }
  }
}

}  // namespace cluster::nats
