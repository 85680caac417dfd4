// Calls: requests to an app's methods, wherever it runs, and their handlers (docs/calls.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/clock.h"
#include "cluster/error.h"

namespace cluster {

class CallServer;

using CallHeaders = std::vector<std::pair<std::string, std::string>>;

/// Who of an app is to answer.
enum class Route {
  /// Route::node when a node is named, else Route::key.
  automatic,
  leader,  ///< the leader of a singleton; it alone, and only while it leads
  any,     ///< one of the nodes that have the app, standbys too
  node,    ///< CallOptions::node
  key,  ///< who is responsible for CallOptions::key: a singleton's leader, any node of a spread app
};

/// An error of a call. Handlers throw it to answer with a name of their own; callers get it for all
/// that goes wrong behind the call, with the node that said so.
class CallError : public Error {
 public:
  /// Of a handler: `name`, `[a-z0-9_]{1,64}`, is for the caller's program to branch on, `message`
  /// for people. A name of Errc (not_found, permission_denied, …) gives that errc(); others
  /// Errc::call_failed.
  CallError(std::string name, const std::string& message);
  CallError(Errc code, std::string name, const std::string& message, std::string node)
      : Error(code, message), name_(std::move(name)), node_(std::move(node)) {}

  const std::string& name() const noexcept { return name_; }
  /// That answered so; empty: no node did.
  const std::string& node() const noexcept { return node_; }

 private:
  std::string name_, node_;
};

/// A call as its handler sees it; there until it is answered.
struct CallRequest {
  std::string app{}, method{};
  std::string payload{};
  CallHeaders headers{};      ///< the caller's own
  std::string caller_app{};   ///< `_`: the platform, or a command. NATS' permissions can prove it
                              ///< (docs/isolation.md)
  std::string caller_node{};  ///< as it says itself; empty: a client that is no node
  std::string key{};
  std::string id{};       ///< the same for each try of one call
  int attempt = 1;        ///< counts tries
  Route route{};          ///< never automatic
  std::uint64_t epoch{};  ///< of this node's lead when the call came; 0: it does not lead
  Time deadline{};        ///< after it nobody waits for the answer
  /// Stopped at the deadline, when the caller cancels, when the platform stops, and for
  /// Route::leader when this node leads no longer.
  std::stop_token stop{};

  /// Until the deadline; 0 when it has passed.
  std::chrono::milliseconds left() const;
};

/// What became of a call, for those who look on.
struct CallOutcome {
  std::string error{};    ///< its name; empty: none
  std::string message{};  ///< of the error
  std::chrono::nanoseconds took{};
};

/// Answers one call, from any thread, once; to be copied. When the last copy goes and nothing was
/// answered, the caller is told so.
class CallResponder {
 public:
  struct State;
  explicit CallResponder(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// False, and nothing is sent: it was answered before. An answer that can't be sent (over the
  /// server's max_payload) becomes an error that says so.
  bool reply(std::string payload, CallHeaders headers = {}) const;
  /// As if the handler had thrown CallError(name, message).
  bool fail(std::string name, const std::string& message) const;
  bool fail(const std::exception& error) const;
  /// Calls `look` once it is answered, on the thread that answers. What it throws is logged.
  void on_answered(std::function<void(const CallOutcome&)> look) const;

 private:
  std::shared_ptr<State> state_;
};

/// Answers, now or later, on this thread or another.
using CallHandler = std::function<void(const CallRequest&, CallResponder)>;
/// Of one method.
struct MethodOptions {
  /// Its handler, and the middleware around it, return within microseconds and never block. Then
  /// they run on the thread that delivers everything from NATS to this process, which saves waking
  /// another one; all that comes waits for them. What of ours blocks throws
  /// Error{invalid_argument} there.
  bool quick = false;
};
/// Around a handler: answers itself, or calls `next`, and may look on by on_answered().
using CallMiddleware =
    std::function<void(const CallRequest&, CallResponder, const CallHandler& next)>;

/// Answers permission_denied to calls of other apps than these. `_`: the platform and commands.
CallMiddleware allow_callers(std::vector<std::string> apps);
/// Answers overloaded to what exceeds `per_second` calls with bursts of up to `burst`; both at
/// least
/// 1. Throws Error{invalid_argument}.
CallMiddleware limit_calls(double per_second, double burst);
/// A line in the log for each call: event `call`, level debug, or warn for errors.
CallMiddleware log_calls();

struct CallReply {
  std::string payload{};
  CallHeaders headers{};
  std::string node{};       ///< that answered
  std::uint64_t epoch = 0;  ///< of its lead; 0: it does not lead
};

struct CallOptions {
  Route route{Route::automatic};
  std::string node{};                        ///< for Route::node
  std::string key{};                         ///< for Route::key; any text up to 1,024 bytes
  std::chrono::milliseconds timeout{5'000};  ///< with all tries; 1 ms to 1 h
  /// How long one try of an idempotent call may take before the next; 0: timeout / (retries + 1)
  std::chrono::milliseconds try_timeout{0};
  /// May be carried out more than once: then what may have been is tried again, too.
  bool idempotent = false;
  /// Further tries of what certainly was not carried out (and see idempotent), within the timeout;
  /// 0 to 1,000. Between them a pause of 20 ms that doubles up to a second, with jitter.
  int retries = 3;
  /// Names may not begin with `Nats-` or `Cluster-`.
  CallHeaders headers{};
  /// Ends the call with unknown_outcome, and asks the handler to stop.
  std::stop_token stop{};
};

/// What one node answered to call_all().
struct CallAnswer {
  std::string node{};
  CallReply reply{};
  std::optional<CallError> error{};  ///< instead of the reply
};

/// A call on its way out.
struct OutgoingCall {
  std::string caller{};  ///< the app
  std::string app{}, method{};
  std::string payload{};
  CallOptions options{};
};
using CallSender = std::function<CallReply(const OutgoingCall&)>;
/// Around each call that a platform makes (not call_all()): changes it, throws, or calls `next`.
using CallerMiddleware = std::function<CallReply(OutgoingCall&, const CallSender& next)>;

/// Throws Error{overloaded} for what exceeds it.
CallerMiddleware limit_outgoing_calls(double per_second, double burst);
/// A line in the log for each call: event `outgoing_call`, level debug, or warn for errors.
CallerMiddleware log_outgoing_calls();

/// Limits of the calls to an app on one node.
struct HandlerOptions {
  /// Calls that are under way at a time, 1 to 10,000; more are answered overloaded, at once. Each
  /// that runs has a thread, until its handler returns.
  int concurrency = 64;
};

/// Limits of the calls that a node makes.
struct CallerOptions {
  /// After so many failures in a row (no answer in time, or overloaded) calls to that target fail
  /// at once, for `breaker_open`, doubling up to 16 times that; then one call is let through to
  /// see. 0: never.
  int breaker_failures = 5;
  std::chrono::milliseconds breaker_open{1'000};
};

}  // namespace cluster
