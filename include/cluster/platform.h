// A platform: the life of this node among the others.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/app.h"
#include "cluster/audit.h"
#include "cluster/events.h"
#include "cluster/lock.h"
#include "cluster/member.h"
#include "cluster/options.h"

namespace cluster {

/// One node of a platform. Add apps, set hooks, run().
///
///     cluster::Platform platform({.name = "myapp", .nats_url = "nats://localhost:4222"});
///     auto& app = platform.add_app({.name = "worker"});
///     app.on_active([](std::stop_token) { /* lead */ });
///     platform.run();
class Platform {
 public:
  /// Checks the options, nothing else. Throws Error{invalid_argument} with all faults.
  explicit Platform(PlatformOptions options);
  /// Stops, if it runs still, and waits until run() and all hooks have returned. Not from a hook.
  ~Platform();
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  /// Before run(). Throws Error{invalid_argument} with all faults, also for a name that is taken.
  App& add_app(AppOptions options);

  /// Runs this node on the calling thread until SIGINT, SIGTERM or stop(), then stops in order:
  /// active apps are demoted and their leases released, the session is left. Throws
  /// Error{unavailable} when NATS can't be reached within nats.start_timeout,
  /// Error{node_already_present} when another process uses the node's name, and others that say
  /// what to do. Once per Platform.
  void run();
  /// Asks run() to stop in order; from any thread, or a hook; returns at once. Idempotent.
  void stop();

  /// Calls `fn`, on a strand of the platform, for each node that joins, leaves or dies. Before
  /// run().
  void on_member_join(std::function<void(const Member&)> fn);
  void on_member_leave(std::function<void(const Member&)> fn);

  /// The platform's own events, and those of all apps; to be copied. Any thread.
  Events events();
  /// The audit log of all apps, with entries of the platform's own; to be copied. Any thread.
  Audit audit();
  /// As App's, of the whole platform.
  Lock lock(const std::string& name);
  Semaphore semaphore(const std::string& name, int limit);
  Barrier barrier(const std::string& name);

  /// The nodes that are live, as far as this node has seen. Any thread.
  std::vector<Member> members() const;
  const std::string& name() const noexcept;
  const std::string& node() const noexcept;
  /// What GET /status answers: a JSON document (docs/configuration.md). Any thread but the loop's;
  /// throws Error{timeout} when the loop does not answer within a second.
  std::string status_json() const;
  /// Where HTTP is served, as host:port; empty before it is, or when it is off. Any thread.
  std::string http_address() const;

 private:
  struct Core;
  std::unique_ptr<Core> core_;
};

}  // namespace cluster
