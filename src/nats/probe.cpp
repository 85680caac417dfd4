#include "nats/probe.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cluster/clock.h"
#include "core/ids.h"

namespace cluster::nats {
namespace {

constexpr std::size_t kLineLimit = 64 * 1024;

// The reason in the way people know it, beginning small: "connection refused".
std::string reason(int error) {
  std::string text = std::strerror(error);
  if (text.size() > 1 && std::islower(static_cast<unsigned char>(text[1])))
    text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

  // The next line without its end; an empty answer with errno ETIMEDOUT or ECONNRESET when none
  // comes.
  Result<std::string> line(Time end, const std::string& place) {
    while (true) {
      if (auto at = read_.find("\r\n"); at != std::string::npos) {
        std::string line = read_.substr(0, at);
        read_.erase(0, at + 2);
        return line;
      }
      if (read_.size() > kLineLimit)
        return Error(Errc::incompatible, place + ": what listens there is no NATS server");
      if (!wait(POLLIN, end))
        return Error(Errc::timeout, place + ": no answer within the time limit");
      char buffer[4096];
      auto n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n == 0) return Error(Errc::unavailable, place + ": closed the connection at once");
      if (n < 0 && errno != EAGAIN && errno != EINTR)
        return Error(Errc::unavailable, place + ": " + reason(errno));
      if (n > 0) read_.append(buffer, static_cast<std::size_t>(n));
    }
  }

  bool wait(short events, Time end) const {
    while (true) {
      auto left = std::chrono::ceil<std::chrono::milliseconds>(end - BootClock::now()).count();
      if (left <= 0) return false;
      pollfd p{fd_, events, 0};
      int n = ::poll(&p, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
      if (n > 0) return true;
      if (n < 0 && errno != EINTR) return false;
    }
  }

 private:
  int fd_;
  std::string read_;
};

template <typename T>
T field_or(const nlohmann::json& object, const char* name, T otherwise) {
  auto it = object.find(name);
  if (it == object.end()) return otherwise;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!it->is_string()) return otherwise;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!it->is_boolean()) return otherwise;
  } else {
    if (!it->is_number_integer()) return otherwise;
  }
  return it->template get<T>();
}

Result<Greeting> read_greeting(Socket& socket, Time end, const std::string& place) {
  auto line = socket.line(end, place);
  if (!line) return line.error();
  if (line.value().rfind("INFO ", 0) != 0)
    return Error(Errc::incompatible, place + ": what listens there is no NATS server");
  auto info = nlohmann::json::parse(line.value().substr(5), nullptr, false);
  if (!info.is_object())
    return Error(Errc::incompatible, place + ": the server's greeting can't be read");
  Greeting greeting;
  greeting.server_id = field_or<std::string>(info, "server_id", {});
  greeting.server_name = field_or<std::string>(info, "server_name", {});
  greeting.version = field_or<std::string>(info, "version", {});
  greeting.cluster = field_or<std::string>(info, "cluster", {});
  greeting.max_payload = field_or<std::int64_t>(info, "max_payload", 0);
  greeting.jetstream = field_or<bool>(info, "jetstream", false);
  return greeting;
}

}  // namespace

Result<int> connect_tcp(const ServerUrl& server, std::chrono::milliseconds timeout) {
  Time end = BootClock::now() + timeout;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  int fault = getaddrinfo(server.host.c_str(), std::to_string(server.port).c_str(), &hints, &found);
  if (fault != 0)
    return Error(Errc::unavailable,
                 server.text() + ": the host is not known (" + gai_strerror(fault) + ")");
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);

  Error last(Errc::unavailable, server.text() + ": the host has no address");
  for (auto* a = addresses.get(); a; a = a->ai_next) {
    Socket socket(
        ::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    if (socket.fd() < 0) {
      last = Error(Errc::unavailable, server.text() + ": " + reason(errno));
      continue;
    }
    int error = 0;
    if (::connect(socket.fd(), a->ai_addr, a->ai_addrlen) != 0) {
      error = errno;
      if (error == EINPROGRESS) {
        socklen_t size = sizeof error;
        error = ETIMEDOUT;
        if (socket.wait(POLLOUT, end)) getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
    if (error == 0) {
      int one = 1;
      setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      return socket.release();
    }
    last = Error(error == ETIMEDOUT ? Errc::timeout : Errc::unavailable,
                 server.text() + ": " + reason(error));
  }
  return last;
}

Result<Greeting> probe(const ServerUrl& server, std::chrono::milliseconds timeout) {
  Time end = BootClock::now() + timeout;
  auto fd = connect_tcp(server, timeout);
  if (!fd) return fd.error();
  Socket socket(fd.value());
  return read_greeting(socket, end, server.text());
}

namespace {

// One request to JetStream's API.
Failure ask_jetstream(const ServerUrl& server, const std::string& what, const std::string& body,
                      std::chrono::milliseconds timeout) {
  Time end = BootClock::now() + timeout;
  auto fd = connect_tcp(server, timeout);
  if (!fd) return fd.error();
  Socket socket(fd.value());
  const std::string place = server.text();
  auto greeting = read_greeting(socket, end, place);
  if (!greeting) return greeting.error();
  const std::string inbox = "_INBOX." + random_id();
  const std::string ask =
      "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
      "\"name\":\"cpp-cluster probe\"}\r\nSUB " +
      inbox + " 1\r\nPUB $JS.API." + what + " " + inbox + " " + std::to_string(body.size()) +
      "\r\n" + body + "\r\n";
  if (::send(socket.fd(), ask.data(), ask.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(ask.size()))
    return Error(Errc::unavailable, place + ": " + reason(errno));
  while (true) {
    auto line = socket.line(end, place);
    if (!line) return line.error();
    const std::string& text = line.value();
    if (text.rfind("-ERR", 0) == 0)
      return Error(Errc::unavailable, place + ": the server says " + text.substr(4));
    if (text.rfind("HMSG ", 0) == 0)
      return Error(Errc::unavailable,
                   place + ": JetStream is not enabled there; start nats-server with -js");
    if (text.rfind("MSG ", 0) != 0) continue;
    auto answer_text = socket.line(end, place);
    if (!answer_text) return answer_text.error();
    auto answer = nlohmann::json::parse(answer_text.value(), nullptr, false);
    if (!answer.is_object())
      return Error(Errc::incompatible, place + ": JetStream's answer can't be read");
    if (auto error = answer.find("error"); error != answer.end() && error->is_object())
      return Error(Errc::unavailable, place + ": JetStream says: " +
                                          field_or<std::string>(*error, "description", "an error"));
    return std::nullopt;
  }
}

}  // namespace

Failure probe_jetstream(const ServerUrl& server, std::chrono::milliseconds timeout) {
  return ask_jetstream(server, "INFO", "", timeout);
}

Failure probe_placement(const ServerUrl& server, int replicas, std::chrono::milliseconds timeout) {
  const std::string name = "cpp-cluster-probe-" + random_id();
  const nlohmann::json config = {
      {"name", name}, {"subjects", {name}}, {"storage", "memory"}, {"num_replicas", replicas}};
  if (auto failure = ask_jetstream(server, "STREAM.CREATE." + name, config.dump(), timeout))
    return failure;
  return ask_jetstream(server, "STREAM.DELETE." + name, "", timeout);
}

}  // namespace cluster::nats
