#include "ops/http_endpoint.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <httplib.h>
#include <sys/stat.h>

#include "cluster/clock.h"
#include "cluster/error.h"
#include "core/log.h"
#include "core/unique_fd.h"

namespace cluster {
namespace {

constexpr std::array<std::string_view, 4> kPaths = {"/health", "/ready", "/status", "/metrics"};
constexpr std::size_t kMostThreads = 32;
constexpr std::size_t kWaitingConnections = 32;               // more wait in the kernel
constexpr int kTimeoutSeconds = 5;                            // between two reads or writes
constexpr Duration kRequestLimit = std::chrono::seconds(10);  // for a connection's one request
constexpr Duration kLookInterval = std::chrono::seconds(2);
constexpr Duration kEndInterval = std::chrono::milliseconds(10);
constexpr std::size_t kPayloadLimit = 64 * 1024;

struct HostPort {
  std::string host;
  int port = 0;
  bool v6() const { return host.find(':') != std::string::npos; }
  std::string text(int actual) const {
    return (v6() ? "[" + host + "]" : host) + ":" + std::to_string(actual);
  }
};

HostPort parse_address(const std::string& address) {
  auto refuse = [&](const std::string& why) {
    return Error(Errc::invalid_argument, "HTTP address \"" + address + "\": " + why +
                                             "; write it like 127.0.0.1:8080 or [::1]:8080");
  };
  auto colon = address.rfind(':');
  if (colon == std::string::npos) throw refuse("the port is missing");
  HostPort parts;
  parts.host = address.substr(0, colon);
  std::string_view port = std::string_view(address).substr(colon + 1);
  auto [end, failed] = std::from_chars(port.data(), port.data() + port.size(), parts.port);
  if (failed != std::errc{} || end != port.data() + port.size() || parts.port < 0 ||
      parts.port > 65535)
    throw refuse("\"" + std::string(port) + "\" is no port from 0 to 65535");
  if (!parts.host.empty() && parts.host.front() == '[') {
    if (parts.host.back() != ']') throw refuse("a [ without a ]");
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  } else if (parts.v6()) {
    throw refuse("an IPv6 address needs brackets");
  }
  if (parts.host.empty()) throw refuse("the host is missing (0.0.0.0 means all addresses)");
  return parts;
}

// httplib only says that it could not listen: the same again tells why.
std::string why_not(const HostPort& where) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  int failed = ::getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &list);
  if (failed != 0) return std::string(::gai_strerror(failed)) + "; correct the host";
  std::string why = "the system refused it";
  for (addrinfo* one = list; one; one = one->ai_next) {
    UniqueFd fd(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int yes = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (::bind(fd.get(), one->ai_addr, one->ai_addrlen) == 0 && ::listen(fd.get(), 1) == 0)
      continue;
    why = std::strerror(errno);
    if (errno == EADDRINUSE)
      why += "; end the program that uses the port, or choose another `http` address";
    if (errno == EADDRNOTAVAIL) why += "; this machine does not have that address";
    if (errno == EACCES) why += "; ports below 1024 need root";
  }
  ::freeaddrinfo(list);
  return why;
}

// A thread for each connection, up to a limit; they come as they are needed. httplib's own pool
// queues without a bound. Here the thread that accepts waits, and then the kernel's backlog.
class BoundedPool : public httplib::TaskQueue {
 public:
  // From 0.17 on httplib asks whether the task was taken; here it always is.
  using Taken = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));

  Taken enqueue(std::function<void()> task) override {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return tasks_.size() < kWaitingConnections || ending_; });
    tasks_.push_back(std::move(task));
    if (idle_ < tasks_.size() && threads_.size() < kMostThreads) {
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error& error) {
        // The system's limit of threads: those that there are take it up, or it is closed in time.
        log::warn("http_no_thread", {{"why", error.what()}, {"threads", threads_.size()}});
      }
    }
    wake_.notify_one();
    return static_cast<Taken>(true);
  }

  void shutdown() override {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      ++idle_;
      wake_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
      --idle_;
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      room_.notify_one();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable room_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool ending_ = false;
};

// The connections that the endpoint has accepted. httplib does not hand them out, and has no limit
// for a whole request: a client that sends a byte now and then would keep a thread for good. So
// they are looked for among this process's descriptors, by the address that they share with the
// listener.
class Connections {
 public:
  /// The socket that accepts them.
  void listens(int fd) {
    size_ = sizeof address_;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address_), &size_) != 0) size_ = 0;
  }

  /// Ends those that have been there for `limit`, by what this object has seen.
  void end_older_than(Duration limit) {
    const Time now = BootClock::now();
    std::map<ino_t, Time> seen;
    DIR* descriptors = ::opendir("/proc/self/fd");
    if (!descriptors) return;
    while (dirent* entry = ::readdir(descriptors)) {
      struct stat what{};
      const int number = std::atoi(entry->d_name);
      // Closing a copy of a file's descriptor would end all of this process's locks on that file,
      // SQLite's above all: of files no copy is made.
      if (entry->d_name[0] == '.' ||
          ::fstatat(::dirfd(descriptors), entry->d_name, &what, 0) != 0 || !S_ISSOCK(what.st_mode))
        continue;
      // A copy: the number may come to mean something else at any time.
      UniqueFd fd(::fcntl(number, F_DUPFD_CLOEXEC, 0));
      if (!fd || ::fstat(fd.get(), &what) != 0) continue;
      if (!S_ISSOCK(what.st_mode)) {
        [[maybe_unused]] const int kept = fd.release();  // it has just become a file
        continue;
      }
      if (!accepted(fd.get())) continue;
      const auto known = first_seen_.find(what.st_ino);
      const Time since = known == first_seen_.end() ? now : known->second;
      if (now - since >= limit)
        ::shutdown(fd.get(), SHUT_RDWR);
      else
        seen[what.st_ino] = since;
    }
    ::closedir(descriptors);
    first_seen_ = std::move(seen);
  }

 private:
  bool accepted(int fd) const {
    int listening = 0;
    socklen_t option = sizeof listening;
    sockaddr_storage local{};
    socklen_t size = sizeof local;
    return size_ != 0 && ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &option) == 0 &&
           listening == 0 && ::getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0 &&
           same(local);
  }
  // A listener on all addresses leaves its port to no other.
  bool same(const sockaddr_storage& local) const {
    if (local.ss_family != address_.ss_family) return false;
    if (local.ss_family == AF_INET) {
      const auto& a = reinterpret_cast<const sockaddr_in&>(local);
      const auto& b = reinterpret_cast<const sockaddr_in&>(address_);
      return a.sin_port == b.sin_port &&
             (b.sin_addr.s_addr == htonl(INADDR_ANY) || a.sin_addr.s_addr == b.sin_addr.s_addr);
    }
    if (local.ss_family != AF_INET6) return false;
    const auto& a = reinterpret_cast<const sockaddr_in6&>(local);
    const auto& b = reinterpret_cast<const sockaddr_in6&>(address_);
    return a.sin6_port == b.sin6_port &&
           (std::memcmp(&b.sin6_addr, &in6addr_any, sizeof in6addr_any) == 0 ||
            std::memcmp(&a.sin6_addr, &b.sin6_addr, sizeof a.sin6_addr) == 0);
  }

  sockaddr_storage address_{};
  socklen_t size_ = 0;
  std::map<ino_t, Time> first_seen_;  // by the socket's inode
};

std::string known_paths() {
  std::string list;
  for (auto path : kPaths) list += (list.empty() ? "\"" : ", \"") + std::string(path) + "\"";
  return "[" + list + "]";
}

void reply(httplib::Response& response, int status, const std::string& body,
           const std::string& type = "application/json") {
  response.status = status;
  response.set_content(body, type);
  response.set_header("Cache-Control", "no-store");
}

void answer_request(const HttpEndpoint::Answer& answer, const httplib::Request& request,
                    httplib::Response& response) {
  if (request.method != "GET" && request.method != "HEAD") {
    response.set_header("Allow", "GET, HEAD");
    response.set_header("Connection", "close");  // its body has not been read
    reply(response, 405, R"({"error":"only GET and HEAD are answered here"})");
    return;
  }
  if (std::find(kPaths.begin(), kPaths.end(), request.path) == kPaths.end()) {
    reply(response, 404, R"({"error":"no such path","paths":)" + known_paths() + "}");
    return;
  }
  try {
    HttpReply made = answer(request.path);
    reply(response, made.status, made.body, made.content_type);
  } catch (const std::exception& error) {
    log::error("http_answer_failed", {{"path", request.path}, {"error", error.what()}});
    reply(response, 500, R"({"error":"the node could not answer; its log says why"})");
  }
}

}  // namespace

struct HttpEndpoint::State {
  httplib::Server server;
  std::string address;
  int listener = -1;
  Connections connections;
  std::thread thread;
  std::thread watch;
  std::atomic<bool> stopping{false};
  std::atomic<bool> ended{false};
  std::mutex mutex;
  std::condition_variable stop;

  // Until the last connection is served; once it is to stop, all that are there end.
  void watch_connections() {
    while (!ended) {
      connections.end_older_than(stopping ? Duration::zero() : kRequestLimit);
      std::unique_lock lock(mutex);
      if (stopping)
        stop.wait_for(lock, kEndInterval, [&] { return ended.load(); });
      else
        stop.wait_for(lock, kLookInterval, [&] { return stopping || ended; });
    }
  }
};

HttpEndpoint::HttpEndpoint(const std::string& address, Answer answer)
    : state_(std::make_unique<State>()) {
  HostPort where = parse_address(address);
  auto& server = state_->server;
  server.new_task_queue = [] { return new BoundedPool; };  // owned by httplib
  // httplib's default is SO_REUSEPORT, with which two nodes would share a port unawares.
  server.set_socket_options([state = state_.get()](int fd) {
    state->listener = fd;
    int yes = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  });
  server.set_tcp_nodelay(true);
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  server.set_keep_alive_max_count(1);  // a connection that lasts would hold one of few threads
  server.set_payload_max_length(kPayloadLimit);
  server.set_pre_routing_handler(
      [answer = std::move(answer)](const httplib::Request& request, httplib::Response& response) {
        answer_request(answer, request, response);
        return httplib::Server::HandlerResponse::Handled;
      });
  int port = where.port;
  if (port == 0) {
    port = server.bind_to_any_port(where.host);
  } else if (!server.bind_to_port(where.host, port)) {
    port = -1;
  }
  if (port <= 0)
    throw Error(Errc::system, "HTTP endpoint: can't listen on " + address + ": " + why_not(where));
  state_->address = where.text(port);
  state_->connections.listens(state_->listener);
  state_->thread = std::thread([state = state_.get()] {
    state->server.listen_after_bind();
    {
      const std::lock_guard lock(state->mutex);
      state->ended = true;
      state->stop.notify_all();
    }
    if (!state->stopping) log::error("http_endpoint_ended", {{"address", state->address}});
  });
  // Before it runs, httplib would miss a stop().
  while (!state_->server.is_running() && !state_->ended) std::this_thread::yield();
  state_->watch = std::thread([state = state_.get()] { state->watch_connections(); });
}

HttpEndpoint::~HttpEndpoint() { stop(); }

const std::string& HttpEndpoint::address() const noexcept { return state_->address; }

void HttpEndpoint::stop() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    state_->stop.notify_all();
  }
  state_->server.stop();
  state_->thread.join();
  state_->watch.join();
}

}  // namespace cluster
