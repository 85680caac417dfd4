// Asks whether a program is there: by a TCP connection or an HTTP GET. Lives on the loop and never
// blocks it; only resolving names blocks, and is a step of its own.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/socket.h>

#include "cluster/backend.h"
#include "core/loop.h"
#include "core/unique_fd.h"

namespace cluster {

/// Where a probe goes and what it sends.
struct ProbeTarget {
  struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
  };
  std::string name;                ///< for messages: "127.0.0.1:80" or the URL
  std::vector<Address> addresses;  ///< tried in turn
  std::string request;             ///< empty: a connection is enough
};

/// Parts of an http:// URL.
struct HttpUrl {
  std::string host;  ///< without the brackets of an IPv6 address
  int port = 80;
  std::string path;  ///< with the query; at least "/"
};

/// Throws Error{invalid_argument} that says what is wrong with it.
HttpUrl parse_http_url(const std::string& url);

/// Resolves the name; may block on a name server. None for a delay. Throws Error{invalid_argument}.
std::optional<ProbeTarget> resolve_probe(const Ready& ready);

struct ProbeResult {
  bool ok = false;
  std::string text;  ///< "HTTP status 200 from http://…", "127.0.0.1:80: Connection refused"
};

/// One probe at a time. Only on the loop's thread.
class Probe {
 public:
  explicit Probe(Loop& loop) : loop_(loop) {}

  /// Asks once, for at most `limit`; `done` is called once, later, unless cancelled. Cancels one
  /// under way.
  void ask(const ProbeTarget& target, Duration limit, std::function<void(ProbeResult)> done);
  void cancel();

 private:
  void connect_next();
  void on_connect();
  void connected();
  void on_reply();
  void refused(const std::string& why);
  void finish(bool ok, std::string text);

  Loop& loop_;
  ProbeTarget target_;
  std::size_t next_ = 0;
  std::string last_refusal_;
  std::string reply_;
  std::function<void(ProbeResult)> done_;
  UniqueFd socket_;
  LoopSource ready_;  // watches socket_
  LoopSource limit_;
  LoopSource result_;
};

}  // namespace cluster
