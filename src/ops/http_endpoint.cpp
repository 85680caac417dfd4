#include "ops/http_endpoint.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <httplib.h>

#include "cluster/error.h"
#include "core/log.h"
#include "core/unique_fd.h"

namespace cluster {
namespace {

constexpr std::array<std::string_view, 3> kPaths = {"/health", "/ready", "/status"};
constexpr int kThreads = 3;
constexpr std::size_t kWaitingConnections = 32;  // more wait in the kernel
constexpr int kTimeoutSeconds = 5;
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

// httplib's own pool queues without a bound. Here the thread that accepts waits, and then the
// kernel's backlog.
class BoundedPool : public httplib::TaskQueue {
 public:
  BoundedPool() {
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
  }

  void enqueue(std::function<void()> task) override {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return tasks_.size() < kWaitingConnections; });
    tasks_.push_back(std::move(task));
    wake_.notify_one();
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
      wake_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
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
  bool ending_ = false;
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
  std::thread thread;
  std::atomic<bool> stopping{false};
  std::atomic<bool> ended{false};
};

HttpEndpoint::HttpEndpoint(const std::string& address, Answer answer)
    : state_(std::make_unique<State>()) {
  HostPort where = parse_address(address);
  auto& server = state_->server;
  server.new_task_queue = [] { return new BoundedPool; };  // owned by httplib
  // httplib's default is SO_REUSEPORT, with which two nodes would share a port unawares.
  server.set_socket_options([](int fd) {
    int yes = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  });
  server.set_tcp_nodelay(true);
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  server.set_keep_alive_timeout(1);
  server.set_keep_alive_max_count(100);
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
  state_->thread = std::thread([state = state_.get()] {
    state->server.listen_after_bind();
    state->ended = true;
    if (!state->stopping) log::error("http_endpoint_ended", {{"address", state->address}});
  });
  // Before it runs, httplib would miss a stop().
  while (!state_->server.is_running() && !state_->ended) std::this_thread::yield();
}

HttpEndpoint::~HttpEndpoint() { stop(); }

const std::string& HttpEndpoint::address() const noexcept { return state_->address; }

void HttpEndpoint::stop() {
  if (!state_->thread.joinable()) return;
  state_->stopping = true;
  state_->server.stop();
  state_->thread.join();
}

}  // namespace cluster
