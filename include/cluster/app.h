// An app: a component of the platform with a mode, hooks, and perhaps a program under management.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "cluster/audit.h"
#include "cluster/call.h"
#include "cluster/database.h"
#include "cluster/election.h"
#include "cluster/events.h"
#include "cluster/kv.h"
#include "cluster/lock.h"
#include "cluster/member.h"
#include "cluster/options.h"
#include "cluster/snapshots.h"

namespace cluster {

enum class Role {
  standby,  ///< not active
  active,   ///< leads (singleton) or serves (spread): on_active has begun, on_passive has not ended
};

/// From Platform::add_app(); lives as long as its platform. Hooks are set before Platform::run();
/// each runs on the app's strand, one at a time and in order: on_start, then pairs of on_active and
/// on_passive, at last on_stop. A hook's stop_token is stopped when its timeout passes, when the
/// node loses what entitled it (on_active), or when the platform stops by force: return soon then.
/// An on_active that throws fails the promotion: what was done is undone (on_passive runs), the
/// lead is given up with a cooldown. What other hooks throw is logged. A hook that never returns
/// keeps its app from leading on this node again, and the platform's destructor waits for it.
class App {
 public:
  using Hook = std::function<void(std::stop_token)>;

  ~App();
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  /// Once, before the app may become active on this node.
  void on_start(Hook hook);
  /// This node leads (singleton) or serves (spread) now; the backend is ready.
  void on_active(Hook hook);
  /// It no longer does. On a graceful change the lease is held until this returns; after a lost
  /// session another may lead already.
  void on_passive(Hook hook);
  /// Once, at the end, after the last on_passive.
  void on_stop(Hook hook);
  /// Another leader, or none, was seen.
  void on_leader_change(std::function<void(const LeaderChange&)> hook);
  /// A node with this app came or went (left or expired).
  void on_member_join(std::function<void(const Member&)> hook);
  void on_member_leave(std::function<void(const Member&)> hook);

  /// Answers calls to `method`, `[A-Za-z0-9_-]{1,64}`, with what `handler` returns; what it throws
  /// is the answer otherwise (see CallError). It runs on a thread of its own, many at a time
  /// (HandlerOptions::concurrency), and may block, unless the method is quick. Calls come from
  /// on_start's end until on_stop begins, those to the leader from on_active's end until on_passive
  /// begins. Before Platform::run(). Throws Error{invalid_argument}.
  void handle(const std::string& method, std::function<std::string(const CallRequest&)> handler,
              MethodOptions options = {});
  /// The same, but the handler answers by its responder, when it likes.
  void handle_async(const std::string& method, CallHandler handler, MethodOptions options = {});
  /// Around all handlers of the app, the first one outermost. Before Platform::run().
  void use(CallMiddleware middleware);
  /// As Platform::call() and call_all(), with this app as the caller.
  CallReply call(const std::string& app, const std::string& method, std::string payload,
                 CallOptions options = {});
  std::vector<CallAnswer> call_all(const std::string& app, const std::string& method,
                                   std::string payload, const CallOptions& options = {});

  const std::string& name() const noexcept;
  Role role() const;
  /// The app's fencing token, see Election::epoch(). 0 for spread apps.
  std::uint64_t epoch() const;
  /// Throws Error{invalid_argument} for an app that is no singleton.
  Election& election();
  /// Throws Error{invalid_argument} for an app without a database.
  Database& database();
  /// Of its database. Throws Error{invalid_argument} for an app without one.
  Snapshots& snapshots();
  /// Its events, and those of others; to be copied. Any thread.
  Events events();
  /// The audit log, with entries of its own; to be copied. Any thread.
  Audit audit();
  /// The app's own keys and values; to be copied. Any thread.
  Kv kv();
  /// The app's own, of that name on all nodes: any UTF-8 text of up to 512 bytes once escaped
  /// (docs/kv.md). Any thread. Throw Error{invalid_argument} for a name or a limit that can't be.
  Lock lock(const std::string& name);
  /// At most `limit` holders at a time: 1 to 1,000.
  Semaphore semaphore(const std::string& name, int limit);
  Barrier barrier(const std::string& name);

 private:
  friend class Platform;
  friend class Database;
  friend class Election;
  friend class Snapshots;
  struct Core;
  explicit App(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace cluster
