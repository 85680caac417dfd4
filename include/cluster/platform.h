// A platform: the life of this node among the others.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/app.h"
#include "cluster/audit.h"
#include "cluster/call.h"
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
  /// what to do. Once per Platform. Raises the process' soft limit of open files to its hard one,
  /// once and for good; programs under management are started with the one that was there.
  void run();
  /// Asks run() to stop in order; from any thread, or a hook; returns at once. Idempotent.
  void stop();

  /// Calls `fn`, on a strand of the platform, for each node that joins, leaves or dies. Before
  /// run().
  void on_member_join(std::function<void(const Member&)> fn);
  void on_member_leave(std::function<void(const Member&)> fn);

  /// Calls `method` of `app`, wherever the route leads, and returns its answer. Tries again what
  /// certainly was not carried out, or what may be carried out twice (CallOptions::idempotent).
  /// Blocks, for options.timeout at most; from any thread, hook and handler, but not from that of
  /// run() (Error{invalid_argument}). Throws CallError: no_leader and no_responders (nobody is
  /// there), not_leader, overloaded, unavailable (NATS is away, or the target has failed too
  /// often), timeout, not_found (no such method), permission_denied, shutting_down,
  /// invalid_argument (also over max_payload): it was not carried out, but by a handler that
  /// answers so itself. unknown_outcome: it was sent, and may have been carried out. Others are the
  /// handler's own.
  CallReply call(const std::string& app, const std::string& method, std::string payload,
                 CallOptions options = {});
  /// Calls `method` on each live node that has `app`; an answer or an error of each, in order of
  /// their names, after options.timeout at most. Tried once; route, node, key, retries and
  /// middleware play no part. Throws as call() where nobody could be asked.
  std::vector<CallAnswer> call_all(const std::string& app, const std::string& method,
                                   std::string payload, const CallOptions& options = {});
  /// Around the calls that this node makes, the first one outermost. Before run().
  void use(CallerMiddleware middleware);

  /// The platform's own events, and those of all apps; to be copied. Any thread.
  Events events();
  /// The audit log of all apps, with entries of the platform's own; to be copied. Any thread.
  Audit audit();
  /// As App's, of the whole platform.
  Lock lock(const std::string& name);
  /// The lock of that name of an app, which this node need not have.
  Lock lock_of(const std::string& app, const std::string& name);
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
