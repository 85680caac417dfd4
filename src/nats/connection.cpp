#include "nats/connection.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "core/check.h"
#include "core/ids.h"
#include "core/names.h"
#include "nats/credentials.h"
#include "nats/exchange.h"
#include "nats/link.h"
#include "nats/refusal.h"
#include "nats/send.h"

namespace cluster::nats {
namespace {

constexpr std::size_t kPendingLimit = 65'536;

Error not_connected(const std::string& what) {
  return Error(Errc::unavailable, what + ": not connected to NATS now");
}

Error denied(const std::string& server, const std::string& text) {
  return {Errc::permission_denied,
          "NATS server " + server + ": " + text + "; allow it for this user"};
}

// The server's words, with all of a subject that was cut.
std::string whole(const Refusal& refusal, const std::string& text, const std::string& subject) {
  return text.substr(0, text.size() - refusal.subject.size()) + subject + '"';
}

// Where a connection's answers come. Below the user's own name, so that a user can be kept from
// those of others; a name that is no token of a subject has no such place.
std::string inbox_of(const Nats& nats, const std::vector<ServerUrl>& servers) {
  std::string user = nats.user;
  if (user.empty() && !servers.empty() && !servers.front().password.empty())
    user = servers.front().user;
  return "_INBOX." + (is_plain_token(user) ? user + "." : "") + random_id();
}

}  // namespace

struct Connection::Core : std::enable_shared_from_this<Core> {
  struct Sub {
    std::string subject;
    std::string queue;
    MessageHandler handler;
    int limit = 0;
    std::shared_ptr<const MessageHandler> direct;  // instead of `handler`
    natsSubscription* handle = nullptr;
    std::uint64_t route = 0;
  };
  // A request or a flush that waits for its answer.
  struct Pending {
    std::string subject;
    Time deadline{};
    Callback<Message> done;
  };

  Core(Loop& l, ConnectOptions o, std::shared_ptr<Exchange> e)
      : loop(l), options(std::move(o)), exchange(std::move(e)) {}

  Loop& loop;
  ConnectOptions options;
  const std::shared_ptr<Exchange> exchange;
  std::string inbox;
  std::shared_ptr<Feed> feed;
  std::unique_ptr<Link> link;

  ConnectionState state = ConnectionState::connecting;
  std::string why;
  ServerInfo server;
  std::shared_ptr<Wire> wire;
  std::uint64_t newest_down = 0;
  std::deque<LinkEvent> batch;
  bool closed = false;

  std::uint64_t last_id = 0;
  std::map<std::uint64_t, std::shared_ptr<Sub>> subs;
  std::unordered_map<std::uint64_t, std::shared_ptr<Sub>> routes;
  Subscription replies, exchange_replies;
  Failure inbox_refused;  // this server does not let us hear answers

  std::unordered_map<std::uint64_t, Pending> pending;
  std::set<std::pair<Time, std::uint64_t>> deadlines;
  LoopSource timer;
  Time timer_at = Time::max();

  struct StateListener {
    std::weak_ptr<const void> life;
    std::function<void(ConnectionState, const std::string&)> call;
  };
  std::vector<StateListener> on_state;
  struct ErrorListener {
    std::weak_ptr<const void> life;
    std::function<void(const Error&)> call;
  };
  std::vector<ErrorListener> on_error;

  void start(std::vector<ServerUrl> servers);
  void close();
  void drain();
  void handle(LinkEvent event);
  void up(std::shared_ptr<Wire> w);
  void down(const LinkDown& event);
  void refused(const std::string& text);
  void set_state(ConnectionState s, std::string reason);
  void report(const Error& error);
  void attach(Sub& sub, const std::shared_ptr<Sub>& shared);
  Subscription subscribe(std::shared_ptr<Sub> sub);
  void end_subscription(std::uint64_t id);
  void wait_for(std::uint64_t id, Pending p);
  void settle(std::uint64_t id, Result<Message> answer);
  void answered(Message message);
  void expire();
  void arm();
  void defer(Loop::Task task);
  void later(Callback<Message> done, Error error);
};

struct Subscription::State {
  std::weak_ptr<Connection::Core> core;
  std::uint64_t id = 0;
  ~State() {
    if (auto c = core.lock()) c->end_subscription(id);
  }
};

Subscription::Subscription() noexcept = default;
Subscription::Subscription(Subscription&&) noexcept = default;
Subscription& Subscription::operator=(Subscription&&) noexcept = default;
Subscription::~Subscription() = default;

void Connection::Core::start(std::vector<ServerUrl> servers) {
  inbox = inbox_of(options.nats, servers);
  feed = std::make_shared<Feed>(loop, [weak = weak_from_this()] {
    if (auto core = weak.lock()) core->drain();
  });
  link = std::make_unique<Link>(feed, options, std::move(servers));
}

void Connection::Core::close() {
  closed = true;
  exchange->down(server.url + ": the connection is closed");
  feed->close();
  timer.reset();
  deadlines.clear();
  routes.clear();
  state = ConnectionState::closed;
  for (auto& [id, sub] : subs)
    if (sub->handle) link->unsubscribe(*wire, std::exchange(sub->handle, nullptr), sub->route);
  wire.reset();
  link.reset();
  // What the callbacks own may end subscriptions of ours in turn: by then there must be none.
  auto gone_subs = std::exchange(subs, {});
  auto gone_pending = std::exchange(pending, {});
  auto gone_events = std::exchange(batch, {});
}

void Connection::Core::drain() {
  auto self = shared_from_this();
  auto events = feed->take();
  std::move(events.begin(), events.end(), std::back_inserter(batch));
  while (!closed && !batch.empty()) {
    auto event = std::move(batch.front());
    batch.pop_front();
    try {
      handle(std::move(event));
    } catch (...) {
      if (!batch.empty()) {
        loop.post([weak = weak_from_this()] {
          if (auto core = weak.lock()) core->drain();
        });
      }
      throw;
    }
  }
}

void Connection::Core::handle(LinkEvent event) {
  if (auto* came = std::get_if<MessageCame>(&event)) {
    auto it = routes.find(came->route);
    if (it == routes.end()) return;
    auto sub = it->second;  // the handler may end its subscription
    sub->handler(std::move(came->message));
  } else if (auto* u = std::get_if<LinkUp>(&event)) {
    up(std::move(u->wire));
  } else if (auto* d = std::get_if<LinkDown>(&event)) {
    down(*d);
  } else if (auto* failed = std::get_if<AttemptsFailed>(&event)) {
    if (failed->why != why) set_state(state, failed->why);
  } else if (auto* r = std::get_if<ServerRefused>(&event)) {
    refused(r->text);
  } else if (auto* full = std::get_if<RouteFull>(&event)) {
    if (auto it = routes.find(full->route); it != routes.end())
      report(Error(Errc::unavailable, "messages on \"" + it->second->subject +
                                          "\" come faster than they are handled: more than " +
                                          std::to_string(it->second->limit) +
                                          " wait, newer ones are dropped"));
  } else if (auto* flushed = std::get_if<Flushed>(&event)) {
    settle(flushed->id, flushed->ok ? Result<Message>(Message{}) : not_connected("flush"));
  }
}

void Connection::Core::up(std::shared_ptr<Wire> w) {
  if (w->generation <= newest_down) return link->retire(std::move(w));
  wire = std::move(w);
  server = wire->server;
  inbox_refused.reset();
  for (auto& [id, sub] : subs) attach(*sub, sub);
  exchange->up(wire, inbox + ".x.");
  set_state(ConnectionState::connected, {});
}

void Connection::Core::down(const LinkDown& event) {
  newest_down = std::max(newest_down, event.generation);
  if (!wire || wire->generation != event.generation) return;
  routes.clear();
  for (auto& [id, sub] : subs)
    if (sub->handle) link->unsubscribe(*wire, std::exchange(sub->handle, nullptr), sub->route);
  const std::string reason = server.url + ": connection lost (" + event.why + ")";
  exchange->down(reason);
  link->retire(std::exchange(wire, nullptr));
  state = ConnectionState::reconnecting;  // for what the callbacks below ask
  auto waiting = std::exchange(pending, {});
  deadlines.clear();
  std::vector<std::pair<std::uint64_t, Pending>> in_order(std::make_move_iterator(waiting.begin()),
                                                          std::make_move_iterator(waiting.end()));
  std::sort(in_order.begin(), in_order.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  set_state(ConnectionState::reconnecting, reason);
  for (auto& [id, p] : in_order) {
    if (closed) return;
    p.done(
        Error(Errc::unavailable, "request to \"" + p.subject + "\": " + reason +
                                     " before the answer came; whether it took effect is unknown"));
  }
}

void Connection::Core::refused(const std::string& text) {
  const auto refusal = refusal_from(text);
  if (!refusal) return report(Error(Errc::unavailable, "NATS server " + server.url + ": " + text));
  const Error error = denied(server.url, text);
  if (!refusal->subject.empty()) {
    const bool ours = refusal->names(inbox + ".*");  // we may not hear any answer
    if (ours) inbox_refused = error;
    std::vector<std::uint64_t> hit;
    for (const auto& [id, p] : pending)
      if (ours || refusal->names(p.subject)) hit.push_back(id);
    std::sort(hit.begin(), hit.end());
    for (auto id : hit) {
      const auto it = pending.find(id);
      if (it == pending.end()) continue;  // settled by what another one's end has set off
      settle(id,
             refusal->cut ? denied(server.url, whole(*refusal, text, it->second.subject)) : error);
    }
    exchange->refused(*refusal, [&](const std::string& subject) {
      return refusal->cut ? denied(server.url, whole(*refusal, text, subject)) : error;
    });
  }
  if (!closed) report(error);
}

void Connection::Core::set_state(ConnectionState s, std::string reason) {
  state = s;
  why = std::move(reason);
  for (std::size_t i = 0; i < on_state.size() && !closed; ++i) {
    auto alive = on_state[i].life.lock();
    auto call = on_state[i].call;
    if (alive) call(s, why);
  }
}

void Connection::Core::report(const Error& error) {
  for (std::size_t i = 0; i < on_error.size() && !closed; ++i) {
    auto alive = on_error[i].life.lock();
    auto call = on_error[i].call;
    if (alive) call(error);
  }
}

void Connection::Core::attach(Sub& sub, const std::shared_ptr<Sub>& shared) {
  sub.handle = link->subscribe(*wire, sub.subject, sub.queue, sub.limit, sub.direct, sub.route);
  if (sub.handle) routes[sub.route] = shared;
}

void Connection::Core::end_subscription(std::uint64_t id) {
  auto it = subs.find(id);
  if (it == subs.end()) return;
  auto sub = it->second;
  subs.erase(it);
  if (!sub->handle) return;
  routes.erase(sub->route);
  // A request that is under way is handed over: whoever sent it would wait in vain.
  if (sub->direct)
    link->drain(*wire, std::exchange(sub->handle, nullptr), sub->route);
  else
    link->unsubscribe(*wire, std::exchange(sub->handle, nullptr), sub->route);
}

void Connection::Core::wait_for(std::uint64_t id, Pending p) {
  deadlines.emplace(p.deadline, id);
  pending.emplace(id, std::move(p));
  arm();
}

void Connection::Core::settle(std::uint64_t id, Result<Message> answer) {
  auto it = pending.find(id);
  if (it == pending.end()) return;
  auto p = std::move(it->second);
  pending.erase(it);
  deadlines.erase({p.deadline, id});
  p.done(std::move(answer));
}

void Connection::Core::answered(Message message) {
  const std::uint64_t id = id_from_subject(message.subject);
  auto it = pending.find(id);
  if (it == pending.end()) return;  // its time limit has passed
  if (message.status == 503)
    return settle(id,
                  Error(Errc::no_responders, "nobody listens on \"" + it->second.subject + "\""));
  settle(id, std::move(message));
}

void Connection::Core::expire() {
  timer.reset();
  timer_at = Time::max();
  Time now = BootClock::now();
  while (!closed && !deadlines.empty() && deadlines.begin()->first <= now) {
    auto id = deadlines.begin()->second;
    settle(id, Error(Errc::timeout, "request to \"" + pending.at(id).subject +
                                        "\": no answer within the time limit"));
  }
  if (!closed) arm();
}

void Connection::Core::arm() {
  if (deadlines.empty() || deadlines.begin()->first >= timer_at) return;
  timer_at = deadlines.begin()->first;
  timer = loop.at(timer_at, [weak = weak_from_this()] {
    if (auto core = weak.lock()) core->expire();
  });
}

void Connection::Core::defer(Loop::Task task) {
  loop.post([weak = weak_from_this(), task = std::move(task)] {
    auto core = weak.lock();
    if (core && !core->closed) task();
  });
}

void Connection::Core::later(Callback<Message> done, Error error) {
  defer([done = std::move(done), error = std::move(error)] { done(error); });
}

Connection::Connection(Loop& loop, ConnectOptions options)
    : Connection(loop, std::move(options), std::make_shared<Exchange>()) {}

Connection::Connection(Loop& loop, ConnectOptions options, std::shared_ptr<Exchange> exchange) {
  auto servers = parse_server_urls(options.nats.servers);
  auto credentials = check_credentials(options.nats);
  if (!servers || credentials) {
    std::string faults = servers ? "" : servers.error().what();
    if (credentials) faults += (faults.empty() ? "" : "; ") + std::string(credentials->what());
    throw Error(Errc::invalid_argument, faults);
  }
  core_ = std::make_shared<Core>(loop, std::move(options), exchange);
  core_->start(std::move(servers.value()));
  core_->replies = subscribe(core_->inbox + ".*",
                             [core = core_.get()](Message m) { core->answered(std::move(m)); });
  core_->exchange_replies = subscribe_direct(
      core_->inbox + ".x.*", [exchange](Message m) { exchange->answered(std::move(m)); });
}

Connection::~Connection() { core_->close(); }

const std::shared_ptr<Exchange>& Connection::exchange() const noexcept { return core_->exchange; }
Loop& Connection::loop() const noexcept { return core_->loop; }
ConnectionState Connection::state() const noexcept { return core_->state; }
ServerInfo Connection::server() const { return core_->server; }

void Connection::on_state(std::function<void(ConnectionState, const std::string&)> fn) {
  on_state(std::weak_ptr<const void>(core_), std::move(fn));
}

void Connection::on_state(std::weak_ptr<const void> life,
                          std::function<void(ConnectionState, const std::string&)> fn) {
  // Ones that are gone leave now and not while they are called.
  core_->defer([core = core_.get()] {
    std::erase_if(core->on_state, [](const auto& listener) { return listener.life.expired(); });
  });
  core_->on_state.push_back({std::move(life), std::move(fn)});
}

void Connection::on_error(std::function<void(const Error&)> fn) {
  on_error(std::weak_ptr<const void>(core_), std::move(fn));
}

void Connection::on_error(std::weak_ptr<const void> life, std::function<void(const Error&)> fn) {
  // As for on_state.
  core_->defer([core = core_.get()] {
    std::erase_if(core->on_error, [](const auto& listener) { return listener.life.expired(); });
  });
  core_->on_error.push_back({std::move(life), std::move(fn)});
}

std::string Connection::new_inbox() {
  return core_->inbox + ".d." + std::to_string(++core_->last_id);
}

bool Connection::publish(const Message& message) {
  CLUSTER_CHECK(core_->loop.in_loop());
  if (auto fault = message_fault(message, core_->server.max_payload); !fault.empty())
    throw Error(Errc::invalid_argument, "publish: " + fault);
  return core_->wire && send(core_->wire->nc, message) == NATS_OK;
}

void Connection::request(Message message, Duration timeout, Callback<Message> done) {
  auto& core = *core_;
  CLUSTER_CHECK(core.loop.in_loop());
  if (auto fault = message_fault(message, core.server.max_payload); !fault.empty())
    return core.later(std::move(done), Error(Errc::invalid_argument, "request: " + fault));
  const std::string what = "request to \"" + message.subject + "\"";
  if (!core.wire) return core.later(std::move(done), not_connected(what));
  if (core.inbox_refused) return core.later(std::move(done), *core.inbox_refused);
  if (core.pending.size() >= kPendingLimit)
    return core.later(std::move(done), Error(Errc::unavailable,
                                             what + ": too many requests wait for their answers"));
  auto id = ++core.last_id;
  message.reply = core.inbox + "." + token_of(id);
  natsStatus s = send(core.wire->nc, message);
  if (s != NATS_OK)
    return core.later(
        std::move(done),
        Error(Errc::unavailable,
              what + ": the connection to NATS has just ended; whether it was sent is unknown"));
  core.wait_for(id, {std::move(message.subject), BootClock::now() + timeout, std::move(done)});
}

Subscription Connection::Core::subscribe(std::shared_ptr<Sub> sub) {
  CLUSTER_CHECK(loop.in_loop());
  if (!subject_fits(sub->subject))
    throw Error(Errc::invalid_argument, "subscribe: \"" + sub->subject + "\" is no subject");
  if (!sub->queue.empty() && !subject_fits(sub->queue))
    throw Error(Errc::invalid_argument, "subscribe: \"" + sub->queue + "\" is no queue group");
  auto id = ++last_id;
  subs.emplace(id, sub);
  if (wire) attach(*sub, sub);
  Subscription subscription;
  subscription.state_ = std::make_shared<Subscription::State>();
  subscription.state_->core = weak_from_this();
  subscription.state_->id = id;
  return subscription;
}

Subscription Connection::subscribe(const std::string& subject, MessageHandler handler,
                                   const std::string& queue, int pending_limit) {
  auto sub = std::make_shared<Core::Sub>();
  sub->subject = subject;
  sub->queue = queue;
  sub->handler = std::move(handler);
  sub->limit = std::max(1, pending_limit);
  return core_->subscribe(std::move(sub));
}

Subscription Connection::subscribe_direct(const std::string& subject, MessageHandler handler,
                                          const std::string& queue) {
  auto sub = std::make_shared<Core::Sub>();
  sub->subject = subject;
  sub->queue = queue;
  sub->direct = std::make_shared<const MessageHandler>(std::move(handler));
  return core_->subscribe(std::move(sub));
}

void Connection::flush(Duration timeout, Completion done) {
  auto& core = *core_;
  CLUSTER_CHECK(core.loop.in_loop());
  Callback<Message> answer = [done = std::move(done)](Result<Message> r) {
    done(r ? Failure() : Failure(r.error()));
  };
  if (!core.wire) return core.later(std::move(answer), not_connected("flush"));
  if (core.pending.size() >= kPendingLimit)
    return core.later(std::move(answer),
                      Error(Errc::unavailable, "flush: too many requests wait for their answers"));
  auto id = ++core.last_id;
  core.wait_for(id, {"a flush", BootClock::now() + timeout, std::move(answer)});
  core.link->flush(id, timeout);
}

void Connection::defer(Loop::Task task) { core_->defer(std::move(task)); }

}  // namespace cluster::nats
