#include "ops/probe.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#include "cluster/error.h"

namespace cluster {
namespace {

constexpr std::size_t kReplyLimit = 4096;

int parse_number(std::string_view text) {
  int value = -1;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc{} && end == text.data() + text.size() ? value : -1;
}

std::string host_and_port(const std::string& host, int port) {
  bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::vector<ProbeTarget::Address> resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* list = nullptr;
  int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (failed != 0)
    throw Error(Errc::invalid_argument, "ready: can't resolve \"" + host +
                                            "\": " + ::gai_strerror(failed) +
                                            "; use an address, or a name that this machine knows");
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(list, ::freeaddrinfo);
  std::vector<ProbeTarget::Address> addresses;
  for (addrinfo* one = list; one; one = one->ai_next) {
    ProbeTarget::Address address;
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    address.size = one->ai_addrlen;
    addresses.push_back(address);
  }
  return addresses;
}

// A connection to a port of this machine to which nobody listens can meet itself, when the kernel
// picks that very port as its source. It must not count, and must not keep the port busy.
bool met_itself(int fd) {
  sockaddr_storage own{}, peer{};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0) return false;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) return false;
  return own_size == peer_size && std::memcmp(&own, &peer, own_size) == 0;
}

void reset_on_close(int fd) {
  linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

HttpUrl parse_http_url(const std::string& url) {
  auto refuse = [&](const std::string& why) {
    return Error(Errc::invalid_argument,
                 "\"" + url + "\" " + why + "; write it like http://127.0.0.1:8080/health");
  };
  constexpr std::string_view kScheme = "http://";
  if (url.rfind("https://", 0) == 0) throw refuse("is https, which readiness checks don't speak");
  if (url.rfind(kScheme, 0) != 0) throw refuse("is no http:// URL");
  for (char c : url)
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f)
      throw refuse("holds a blank or a control character");
  std::string rest = url.substr(kScheme.size());
  rest = rest.substr(0, rest.find('#'));
  auto path_at = rest.find_first_of("/?");
  HttpUrl parts;
  std::string authority = rest.substr(0, path_at);
  parts.path = path_at == std::string::npos ? "/" : rest.substr(path_at);
  if (parts.path.front() == '?') parts.path.insert(0, "/");
  if (authority.find('@') != std::string::npos)
    throw refuse("holds a user name, which is not supported");
  std::string port;
  if (!authority.empty() && authority.front() == '[') {
    auto close = authority.find(']');
    if (close == std::string::npos) throw refuse("has a [ without a ]");
    parts.host = authority.substr(1, close - 1);
    port = authority.substr(close + 1);
  } else {
    auto colon = authority.find(':');
    parts.host = authority.substr(0, colon);
    if (colon != std::string::npos) port = authority.substr(colon);
  }
  if (parts.host.empty()) throw refuse("has no host");
  if (!port.empty()) {
    parts.port = port.front() == ':' ? parse_number(std::string_view(port).substr(1)) : -1;
    if (parts.port < 1 || parts.port > 65535) throw refuse("has no port from 1 to 65535");
  }
  return parts;
}

std::optional<ProbeTarget> resolve_probe(const Ready& ready) {
  ProbeTarget target;
  if (const auto* tcp = std::get_if<ReadyTcp>(&ready)) {
    target.name = host_and_port(tcp->host, tcp->port);
    target.addresses = resolve(tcp->host, tcp->port);
    return target;
  }
  if (const auto* http = std::get_if<ReadyHttp>(&ready)) {
    HttpUrl url = parse_http_url(http->url);
    target.name = http->url;
    target.addresses = resolve(url.host, url.port);
    target.request = "GET " + url.path + " HTTP/1.1\r\nHost: " + host_and_port(url.host, url.port) +
                     "\r\nUser-Agent: cpp-cluster\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    return target;
  }
  return std::nullopt;
}

void Probe::ask(const ProbeTarget& target, Duration limit, std::function<void(ProbeResult)> done) {
  cancel();
  target_ = target;
  done_ = std::move(done);
  limit_ = loop_.after(limit, [this] { finish(false, target_.name + ": no answer in time"); });
  connect_next();
}

void Probe::cancel() {
  ready_.reset();
  limit_.reset();
  result_.reset();
  socket_.reset();
  next_ = 0;
  last_refusal_.clear();
  reply_.clear();
  done_ = nullptr;
}

void Probe::connect_next() {
  ready_.reset();
  socket_.reset();
  if (next_ == target_.addresses.size()) {
    finish(false, last_refusal_);
    return;
  }
  const auto& address = target_.addresses[next_++];
  socket_.reset(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket_) {
    refused(std::strerror(errno));
    return;
  }
  int failed =
      ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size);
  if (failed != 0 && errno != EINPROGRESS) {
    refused(std::strerror(errno));
    return;
  }
  ready_ = loop_.on_fd(socket_.get(), EPOLLOUT, [this](unsigned) { on_connect(); });
}

void Probe::on_connect() {
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error == 0 && met_itself(socket_.get())) {
    reset_on_close(socket_.get());
    error = ECONNREFUSED;
  }
  if (error != 0) {
    refused(std::strerror(error));
    return;
  }
  connected();
}

void Probe::connected() {
  ready_.reset();
  if (target_.request.empty()) {
    finish(true, target_.name + " accepts connections");
    return;
  }
  // A fresh connection's send buffer takes a request of this size at once.
  ssize_t sent =
      ::send(socket_.get(), target_.request.data(), target_.request.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(target_.request.size())) {
    refused(sent < 0 ? std::strerror(errno) : "the request was cut short");
    return;
  }
  ready_ = loop_.on_fd(socket_.get(), EPOLLIN, [this](unsigned) { on_reply(); });
}

void Probe::on_reply() {
  char chunk[kReplyLimit];
  ssize_t n = ::recv(socket_.get(), chunk, sizeof chunk, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) {
    refused(std::strerror(errno));
    return;
  }
  reply_.append(chunk, static_cast<std::size_t>(n));
  auto line_end = reply_.find("\r\n");
  if (line_end == std::string::npos) {
    if (n == 0 || reply_.size() >= kReplyLimit)
      finish(false, target_.name + ": the answer is no HTTP");
    return;
  }
  // "HTTP/1.1 200 OK"
  std::string line = reply_.substr(0, line_end);
  int status = line.rfind("HTTP/1.", 0) == 0 && line.size() >= 12
                   ? parse_number(std::string_view(line).substr(9, 3))
                   : -1;
  if (status < 100) {
    finish(false, target_.name + ": the answer is no HTTP");
    return;
  }
  finish(status >= 200 && status <= 399,
         target_.name + " answered with HTTP status " + std::to_string(status));
}

void Probe::refused(const std::string& why) {
  last_refusal_ = target_.name + ": " + why;
  connect_next();
}

void Probe::finish(bool ok, std::string text) {
  auto done = std::move(done_);
  cancel();
  // Always later, so that the caller of ask() is not called back in the midst of it.
  result_ = loop_.at(
      BootClock::now(),
      [done = std::move(done), result = ProbeResult{ok, std::move(text)}] { done(result); });
}

}  // namespace cluster
