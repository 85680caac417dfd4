// Events: what apps tell each other and remember for a while, at least once (docs/events.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cluster/error.h"

namespace cluster {

class EventBus;

using EventHeaders = std::vector<std::pair<std::string, std::string>>;

/// An event as it was published.
struct Event {
  std::string subject{};         ///< as it was given to publish()
  std::string app{};             ///< that published it; `_`: the platform
  std::string payload{};         ///< any bytes
  EventHeaders headers{};        ///< the publisher's own, and those of a dead letter
  std::string id{};              ///< the same for each time it is delivered
  std::uint64_t sequence = 0;    ///< its place in the platform's stream of events
  std::uint64_t deliveries = 1;  ///< how often a durable subscription has had it, this one included
  std::chrono::system_clock::time_point time{};  ///< when JetStream stored it
};

struct PublishOptions {
  /// Two events with the same id within EventsOptions::duplicate_window are stored once. 1 to 200
  /// visible ASCII characters; empty: one of its own.
  std::string id{};
  std::chrono::milliseconds timeout{5'000};  ///< with all tries
  /// Names may not begin with `Nats-` or `Cluster-`.
  EventHeaders headers{};
};

/// What became of an event.
struct PublishedEvent {
  std::uint64_t sequence = 0;  ///< its place in the platform's stream of events
  bool duplicate = false;      ///< one with this id was there already, and is what was kept
  std::string id{};
};

/// Where a subscription begins.
struct NewEvents {};  ///< with what is published from now on
struct AllEvents {};  ///< with the oldest that is kept
struct EventsFromSequence {
  std::uint64_t sequence = 1;  ///< the first one wanted, if it is kept
};
struct EventsFromTime {
  std::chrono::system_clock::time_point time{};  ///< the first one stored then or later
};
using EventsFrom = std::variant<NewEvents, AllEvents, EventsFromSequence, EventsFromTime>;

struct SubscribeOptions {
  /// Only of this app; `_`: the platform's own, `*`: of all. Empty: the app's own for
  /// App::events(), all for Platform::events().
  std::string app{};
  EventsFrom from{
      NewEvents{}};  ///< of a durable one: counts when it is subscribed for the first time
  std::chrono::milliseconds timeout{5'000};  ///< of subscribe()
  /// Called on the subscription's strand when something is wrong and goes on by itself, or events
  /// may have been missed; the log has it, too.
  std::function<void(const Error&)> on_trouble{};

  /// A name, 1 to 64 of `A-Z a-z 0-9 -`, makes it durable: JetStream remembers what was handled,
  /// and all subscriptions of that app and name, on any node, share the work. What follows is of
  /// those.
  std::string durable{};
  /// How long after the last sign of life of the node that handles it an event goes to another one;
  /// nodes give three in that time while their handler runs. 1 s to 1 h
  std::chrono::milliseconds ack_wait{30'000};
  int max_deliver = 5;        ///< how often an event is tried, 1 to 1,000
  int max_in_flight = 1'000;  ///< events that were delivered and not handled, of all nodes
  int concurrency = 1;        ///< handlers that run at a time on this node, 1 to 64
  std::chrono::milliseconds backoff_min{1'000};   ///< before the second try; doubles with each
  std::chrono::milliseconds backoff_max{60'000};  ///< up to this
  bool dead_letter = true;  ///< what is given up is published as a dead letter
};

/// What a subscription has done since it began.
struct EventCounts {
  std::uint64_t handled = 0;      ///< handlers that returned
  std::uint64_t failed = 0;       ///< handlers that threw
  std::uint64_t dead = 0;         ///< events given up, as dead letters or without
  std::uint64_t interrupted = 0;  ///< how often the handler was too slow, and reading had to be
                                  ///< taken up again later; no event is missed by that
  std::uint64_t gaps = 0;         ///< how often events may have been missed
};

/// A subscription while it lives. May outlive its platform, and is then over.
class EventSubscription {
 public:
  class Core;

  EventSubscription() = default;
  explicit EventSubscription(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  EventSubscription(EventSubscription&&) noexcept = default;
  EventSubscription& operator=(EventSubscription&& other) noexcept;
  /// Ends delivery, and waits for handlers that run, but for one that this is called from. A
  /// durable subscription is not removed: what is published meanwhile waits for the next one of its
  /// name.
  ~EventSubscription();

  EventCounts counts() const;  ///< any thread

 private:
  std::shared_ptr<Core> core_;
};

/// From App::events() and Platform::events(); to be copied. All methods block, for a timeout at
/// most, and may be called from any thread, hook and handler, but not from that of Platform::run()
/// (Error{invalid_argument}). Besides what each says they throw Error{unavailable} (NATS is away,
/// or not there yet: before Platform::run()), Error{permission_denied} (the NATS user may not),
/// Error{invalid_argument} and Error{shutting_down}.
///
///     app.events().publish("order.created", "4711");
///     auto orders = app.events().subscribe(
///         "order.>", [](const cluster::Event& event) { book(event.payload); },
///         {.durable = "booking"});
class Events {
 public:
  using Timeout = std::chrono::milliseconds;

  Events(std::shared_ptr<EventBus> bus, std::string app)
      : bus_(std::move(bus)), app_(std::move(app)) {}

  /// Stores an event; returns once JetStream has acknowledged it. Tries again within the timeout,
  /// with the same id, so that it is stored once. `subject`: tokens of visible ASCII characters but
  /// `. * > " \`, separated by dots, 200 bytes at most; its first must not begin with `_`.
  /// `payload`: any bytes up to the server's max_payload, headers included. Throws
  /// Error{unavailable} when it is certainly not stored, Error{unknown_outcome} when it was sent
  /// and may be: publish it again with the same id to be sure.
  PublishedEvent publish(std::string_view subject, std::string_view payload,
                         const PublishOptions& options = {});
  /// Has `handler` called for each event whose subject fits `pattern` (a token `*` stands for any
  /// one, a last token `>` for one or more), one at a time and in order (a durable one: see
  /// concurrency; order is lost where tries fail). Returns once JetStream has the subscription:
  /// what is published later comes. A durable one gets each event at least once, until its handler
  /// has returned; one that throws gets it again after a while, max_deliver times at most, then it
  /// is given up and becomes a dead letter (docs/events.md). Another gets each event once while it
  /// lives, also across reconnects; a handler that throws is logged. A pattern that begins with a
  /// wildcard does not fit dead letters. Options of a durable one that is there are changed to
  /// these.
  [[nodiscard]] EventSubscription subscribe(std::string_view pattern,
                                            std::function<void(const Event&)> handler,
                                            SubscribeOptions options = {});
  /// Has JetStream forget a durable subscription of this app, and what was not handled; its
  /// subscriptions end with Error{not_found} to on_trouble. False: there was none.
  bool remove_durable(std::string_view name, Timeout timeout = Timeout(5'000));

 private:
  std::shared_ptr<EventBus> bus_;
  std::string app_;
};

}  // namespace cluster
