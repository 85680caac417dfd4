// The node's HTTP endpoint for people, probes and load balancers: GET /health, /ready,
// /status and /metrics.
// Not a public API server: one small request a connection, within ten seconds.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace cluster {

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
};

class HttpEndpoint {
 public:
  /// Called with one of the known paths, on a thread of the endpoint, several at a time. What it
  /// throws becomes a 500.
  using Answer = std::function<HttpReply(const std::string& path)>;

  /// Listens on "127.0.0.1:8080", "[::1]:8080", "localhost:0" (port 0: a free one), and serves at
  /// once. Throws Error{invalid_argument} for an address that is none, Error{system} when it can't
  /// listen there.
  HttpEndpoint(const std::string& address, Answer answer);
  ~HttpEndpoint();
  HttpEndpoint(const HttpEndpoint&) = delete;
  HttpEndpoint& operator=(const HttpEndpoint&) = delete;

  /// Where it listens, with the actual port.
  const std::string& address() const noexcept;
  /// Ends it, with all connections; waits for calls of `answer` that are under way. Idempotent.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cluster
