// A connection to NATS for code on one Loop: RAII over libnats, all calls and callbacks on the
// loop's thread, nothing blocks. Not for JetStream, which jetstream.h builds on requests of this
// connection.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/options.h"
#include "core/loop.h"
#include "core/result.h"
#include "nats/message.h"

namespace cluster::nats {

struct ConnectOptions {
  Nats nats{};         ///< servers and credentials
  std::string name{};  ///< shown by the server
  /// Between rounds of attempts, plus up to as much jitter; for ever
  std::chrono::milliseconds reconnect_wait{50};
  /// Two unanswered pings: the connection counts as lost
  std::chrono::milliseconds ping_interval{1'000};
};

enum class ConnectionState { connecting, connected, reconnecting, closed };

struct ServerInfo {
  std::string url{};
  std::string server_id{};
  std::string server_name{};
  std::string version{};
  std::string cluster{};         ///< name of the NATS cluster, empty for one alone
  std::int64_t max_payload = 0;  ///< bytes
  bool jetstream = false;
};

/// Ends its subscription when destroyed; no callback runs after that, but for subscribe_direct().
class Subscription {
 public:
  Subscription() noexcept;
  Subscription(Subscription&&) noexcept;
  Subscription& operator=(Subscription&&) noexcept;
  ~Subscription();
  explicit operator bool() const noexcept { return state_ != nullptr; }

 private:
  friend class Connection;
  struct State;
  std::shared_ptr<State> state_;
};

class Exchange;

class Connection {
 public:
  using MessageHandler = std::function<void(Message)>;

  /// Starts to connect on a thread of its own and goes on trying until connected or destroyed.
  /// Throws Error{invalid_argument} for URLs and credential files that can't be used.
  Connection(Loop& loop, ConnectOptions options);
  /// The same, and other threads may send through `exchange`, which no other connection has.
  Connection(Loop& loop, ConnectOptions options, std::shared_ptr<Exchange> exchange);
  /// Unsubscribes and closes; callbacks of requests under way are dropped. Waits for an attempt to
  /// connect that is under way (3 s at most, for a server that does not answer).
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Loop& loop() const noexcept;
  const std::shared_ptr<Exchange>& exchange() const noexcept;
  ConnectionState state() const noexcept;
  /// Called on each change of state, with why (empty when connected), and when attempts to connect
  /// fail for another reason than before. Several may be added; they stay for the connection's
  /// life.
  void on_state(std::function<void(ConnectionState, const std::string& why)> fn);
  /// The same, until what `life` points to is gone.
  void on_state(std::weak_ptr<const void> life,
                std::function<void(ConnectionState, const std::string& why)> fn);
  /// Asynchronous errors: slow consumers (with the subject), permission violations
  /// (Errc::permission_denied, naming the subject).
  void on_error(std::function<void(const Error&)> fn);
  /// The same, until what `life` points to is gone.
  void on_error(std::weak_ptr<const void> life, std::function<void(const Error&)> fn);
  /// Of the server connected to now, or last.
  ServerInfo server() const;
  /// A subject under which only this connection listens, for consumers' deliveries: unique at each
  /// call.
  std::string new_inbox();

  /// Sends at once, or drops the message while not connected (core NATS promises no more); tells
  /// which. Throws Error{invalid_argument} for a message over the server's max_payload.
  bool publish(const Message& message);
  /// Calls `done` once, later, with the answer or an Error: unavailable (not connected now, or lost
  /// before the answer: the outcome is unknown), no_responders, timeout, permission_denied,
  /// invalid_argument (over max_payload).
  void request(Message message, Duration timeout, Callback<Message> done);
  /// Subscribes; after a reconnect too. `queue` empty: every subscriber gets each message. Messages
  /// of one connection arrive in the order in which the server sent them, across its subscriptions.
  /// More than `pending_limit` messages that the loop has not taken: the newest are dropped and
  /// on_error tells.
  [[nodiscard]] Subscription subscribe(const std::string& subject, MessageHandler handler,
                                       const std::string& queue = {}, int pending_limit = 65'536);
  /// The same, but `handler` is called on libnats' thread, which delivers everything for this
  /// process: it only hands over and never waits. When its subscription ends it is still called for
  /// what is under way, mostly some milliseconds: it owns what it uses.
  [[nodiscard]] Subscription subscribe_direct(const std::string& subject, MessageHandler handler,
                                              const std::string& queue = {});
  /// Round trip to the server and back; also proof that all that was sent before has been processed
  /// by it.
  void flush(Duration timeout, Completion done);
  /// Runs `task` later on the loop, unless this connection is destroyed before. From any thread.
  void defer(Loop::Task task);

 private:
  friend class Subscription;
  struct Core;
  std::shared_ptr<Core> core_;
};

/// Runs `start(callback)` and the loop until the callback has come; for tests and commands, where
/// the calling thread owns the loop. Error{timeout} after `limit`.
template <typename T, typename Start>
Result<T> await(Loop& loop, Duration limit, Start start) {
  auto answer = std::make_shared<std::optional<Result<T>>>();
  start(Callback<T>([answer](Result<T> r) { answer->emplace(std::move(r)); }));
  if (!loop.run_until([&] { return answer->has_value(); }, limit))
    return Error(Errc::timeout, "no answer within the time limit");
  return std::move(**answer);
}

}  // namespace cluster::nats
