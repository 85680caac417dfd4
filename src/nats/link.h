// The thread behind a Connection: finds a server, connects, and when that connection ends finds the
// next one. It has a libnats connection for each, and none of libnats' own reconnecting, which
// keeps publishers waiting on a lock while it connects. What happens goes to the loop as events, in
// order, through a Feed.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include <nats/nats.h>

#include "core/loop.h"
#include "core/loop_gate.h"
#include "nats/connection.h"
#include "nats/server_url.h"

namespace cluster::nats {

/// One libnats connection. The loop may use `nc` until it has handed the wire back to
/// Link::retire(); other threads under `use`, unless it is `over`.
struct Wire {
  natsConnection* nc = nullptr;
  std::mutex use{};
  bool over = false;
  std::uint64_t generation = 0;  ///< grows with each connection of a Link
  std::uint64_t closure = 0;     ///< of its callbacks
  ServerInfo server{};
};

struct MessageCame {
  std::uint64_t route = 0;
  Message message{};
};
struct LinkUp {
  std::shared_ptr<Wire> wire{};
};
struct LinkDown {
  std::uint64_t generation = 0;
  std::string why{};
};
struct AttemptsFailed {
  std::string why{};
};
struct ServerRefused {
  std::string text{};  ///< the server's words: Permissions Violation for Publish to "x"
};
struct RouteFull {
  std::uint64_t route = 0;
};
struct Flushed {
  std::uint64_t id = 0;
  bool ok = false;
};
using LinkEvent =
    std::variant<MessageCame, LinkUp, LinkDown, AttemptsFailed, ServerRefused, RouteFull, Flushed>;

/// The way of events from libnats' threads to the loop: many cost one wake-up. Bounded for each
/// route.
class Feed {
 public:
  using DirectHandler = Connection::MessageHandler;

  Feed(Loop& loop, std::function<void()> drain);

  void push(LinkEvent event);
  /// Drops the message when `route` has its limit queued.
  void push_message(std::uint64_t route, Message message);
  /// `direct`, if there is one, is called instead of queueing, on libnats' thread.
  void open_route(std::uint64_t route, int limit, std::shared_ptr<const DirectHandler> direct);
  void close_route(std::uint64_t route);
  std::deque<LinkEvent> take();
  /// Nothing is posted to the loop any more.
  void close();

 private:
  struct Route {
    struct Queued {
      std::uint64_t batch = 0;
      int messages = 0;
      std::size_t bytes = 0;
      bool full = false;
    };
    int limit = 0;
    Queued queued{};
    std::shared_ptr<const DirectHandler> direct{};
  };
  bool queue(LinkEvent event);

  LoopGate gate_;
  const std::function<void()> drain_;
  std::mutex mutex_;
  std::deque<LinkEvent> events_;
  std::unordered_map<std::uint64_t, Route> routes_;
  std::uint64_t batch_ = 0;  // grows whenever all is taken
  bool posted_ = false;
  bool closed_ = false;
};

class Link {
 public:
  Link(std::shared_ptr<Feed> feed, ConnectOptions options, std::vector<ServerUrl> servers);
  /// Closes, and waits for an attempt to connect that is under way.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  /// Subscribes on `wire`; messages come as MessageCame with the route that this returns by
  /// `route`. From the loop.
  natsSubscription* subscribe(const Wire& wire, const std::string& subject,
                              const std::string& queue, int limit,
                              std::shared_ptr<const Feed::DirectHandler> direct,
                              std::uint64_t& route);
  /// Ends a subscription; its memory goes when no thread of libnats can still look at it.
  void unsubscribe(const Wire& wire, natsSubscription* subscription, std::uint64_t route);
  /// The same, once what the server has sent it until now was handed over.
  void drain(const Wire& wire, natsSubscription* subscription, std::uint64_t route);
  /// The loop will not use that wire again.
  void retire(std::shared_ptr<Wire> wire);
  /// Round trip; answered by Flushed.
  void flush(std::uint64_t id, Duration timeout);

  struct State;

 private:
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace cluster::nats
