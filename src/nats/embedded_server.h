// nats-server processes with JetStream that live and die with this one: for `dev`, `run` with
// nats.embedded, and tests.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/options.h"
#include "core/loop.h"
#include "core/result.h"

#include <sys/types.h>

namespace cluster::nats {

/// One server. Started by the constructor; ended (SIGTERM, then SIGKILL after 10 s) by the
/// destructor; killed by the kernel when this process dies (a server that is to be ended before the
/// loop's thread ends must be destroyed first).
class EmbeddedServer {
 public:
  /// Writes its configuration below `options.folder` and starts it. Blocks for the exec only.
  /// Throws Error{not_found} when there is no nats-server, Error{incompatible} when it is older
  /// than 2.10 (with both versions and what to install), Error{system}.
  explicit EmbeddedServer(EmbeddedNats options);
  ~EmbeddedServer();
  EmbeddedServer(const EmbeddedServer&) = delete;
  EmbeddedServer& operator=(const EmbeddedServer&) = delete;

  /// Blocks until clients are served and JetStream is ready (in a cluster: has its leader), or
  /// throws: Error{timeout} or Error{backend_failed} with the log's last lines.
  void wait_ready(std::chrono::milliseconds timeout);
  /// Is it running? With `why_not` the log's last lines.
  bool running(std::string* why_not = nullptr) const;
  std::string url() const;  ///< nats://host:port
  pid_t pid() const noexcept;
  const EmbeddedNats& options() const noexcept;
  /// For tests of faults: SIGKILL, and waits for its end.
  void kill_hard();
  /// SIGKILL, and nothing is waited for: running() tells.
  void kill();
  /// With the same files and ports. Waits for the end of one that runs.
  void start_again();

 private:
  struct Core;
  std::unique_ptr<Core> core_;
};

/// How many of the servers in `routes` (as EmbeddedNats::routes) take connections. Blocks, for each
/// that does not at most half a second, besides what resolving its name takes.
std::size_t servers_up(const std::vector<std::string>& routes);

/// `count` servers on loopback with free ports, one cluster if more than one, below `folder`;
/// blocks until ready.
std::vector<std::unique_ptr<EmbeddedServer>> start_local_servers(int count,
                                                                 const std::string& folder,
                                                                 bool sync_always);

}  // namespace cluster::nats
