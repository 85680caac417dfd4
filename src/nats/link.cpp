#include "nats/link.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <random>
#include <set>

#include "cluster/clock.h"
#include "core/check.h"
#include "nats/connect_limit.h"
#include "nats/credentials.h"
#include "nats/probe.h"
#include "nats/spent_messages.h"

namespace cluster::nats {
namespace {

using std::chrono::milliseconds;

constexpr int kSignatureTries = 3;
constexpr milliseconds kFirstAttemptLimit{500};
constexpr milliseconds kLastAttemptLimit{3'000};
constexpr milliseconds kConnectGrace{200};
constexpr milliseconds kRefusedWait{1'000};  // servers log each refusal
constexpr milliseconds kCloseLimit{250};
constexpr milliseconds kBuryLimit{2'000};
constexpr milliseconds kDrainLimit{1'000};
constexpr std::size_t kDrainsAtOnce = 64;
constexpr std::int64_t kWriteLimitMs =
    1'000;  // a server that takes nothing for so long counts as lost
constexpr std::size_t kRouteBytes = 64 * 1024 * 1024;

// libnats' callbacks get a number, never a pointer, and look here whether it still means anything.
struct Target {
  std::shared_ptr<Link::State> link;
  std::uint64_t generation = 0;
};

class Registry {
 public:
  std::uint64_t add(Target target) {
    std::lock_guard lock(mutex_);
    targets_.emplace(++last_, std::move(target));
    return last_;
  }
  void remove(std::uint64_t id) {
    Target gone;  // destroyed behind the lock
    std::lock_guard lock(mutex_);
    auto it = targets_.find(id);
    if (it == targets_.end()) return;
    gone = std::move(it->second);
    targets_.erase(it);
  }
  Target find(void* closure) {
    std::lock_guard lock(mutex_);
    auto it = targets_.find(reinterpret_cast<std::uintptr_t>(closure));
    return it == targets_.end() ? Target{} : it->second;
  }

 private:
  std::mutex mutex_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, Target> targets_;
};

Registry& registry() {
  static auto* all = new Registry;  // never destroyed: libnats' threads outlive main()
  return *all;
}

void* closure_of(std::uint64_t id) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(id));
}

// Which connections' closed callback is still to come, by their closures. Callbacks hold a
// reference: a connection that is destroyed before its last one has run is freed by libnats' own
// thread, and a process that ends in that moment frees OpenSSL under it (seen as a crash after
// main()).
class Unclosed {
 public:
  void add(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    ids_.insert(id);
  }
  void remove(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    ids_.erase(id);
    closed_.notify_all();
  }
  void wait(std::uint64_t id, Duration limit) {
    std::unique_lock lock(mutex_);
    closed_.wait_for(lock, limit, [&] { return !ids_.contains(id); });
    ids_.erase(id);
  }

 private:
  std::mutex mutex_;
  std::condition_variable closed_;
  std::set<std::uint64_t> ids_;
};

Unclosed& unclosed() {
  static auto* all = new Unclosed;  // as the registry
  return *all;
}

void open_library() {
  static const natsStatus opened = nats_Open(0);
  if (opened != NATS_OK)
    throw Error(Errc::system, std::string("libnats can't start: ") + natsStatus_GetText(opened));
}

Message message_from(natsMsg* m) {
  Message message;
  auto text = [](const char* s) { return s ? std::string(s) : std::string(); };
  message.subject = text(natsMsg_GetSubject(m));
  message.reply = text(natsMsg_GetReply(m));
  message.data.assign(natsMsg_GetData(m), static_cast<std::size_t>(natsMsg_GetDataLength(m)));
  const char** keys = nullptr;
  int count = 0;
  if (natsMsgHeader_Keys(m, &keys, &count) != NATS_OK) return message;
  for (int i = 0; i < count; ++i) {
    const char** values = nullptr;
    int value_count = 0;
    if (natsMsgHeader_Values(m, keys[i], &values, &value_count) != NATS_OK) continue;
    for (int j = 0; j < value_count; ++j) message.headers.emplace_back(keys[i], text(values[j]));
    free(static_cast<void*>(values));
  }
  free(static_cast<void*>(keys));
  // The server's own messages (no responders, heartbeats, flow control) carry a status and no data.
  if (message.data.empty())
    message.status = std::atoi(std::string(message.header("Status")).c_str());
  return message;
}

}  // namespace

Feed::Feed(Loop& loop, std::function<void()> drain) : gate_(loop), drain_(std::move(drain)) {}

// With the mutex held; whether the loop is to be told, which is done without it: a thread that is
// woken should not find the door locked.
bool Feed::queue(LinkEvent event) {
  if (closed_) return false;
  events_.push_back(std::move(event));
  return !std::exchange(posted_, true);
}

void Feed::push(LinkEvent event) {
  bool tell = false;
  {
    const std::lock_guard lock(mutex_);
    tell = queue(std::move(event));
  }
  if (tell) gate_.post(drain_);
}

void Feed::push_message(std::uint64_t route, Message message) {
  std::unique_lock lock(mutex_);
  auto it = routes_.find(route);
  if (it == routes_.end()) return;
  auto& r = it->second;
  if (const auto direct = r.direct) {
    lock.unlock();
    return (*direct)(std::move(message));
  }
  auto& queued = r.queued;
  if (queued.batch != batch_) queued = {.batch = batch_};
  bool tell = false;
  if (queued.messages >= r.limit || queued.bytes >= kRouteBytes) {
    if (std::exchange(queued.full, true)) return;
    tell = queue(RouteFull{route});
  } else {
    ++queued.messages;
    queued.bytes += message.data.size();
    tell = queue(MessageCame{route, std::move(message)});
  }
  lock.unlock();
  if (tell) gate_.post(drain_);
}

void Feed::open_route(std::uint64_t route, int limit, std::shared_ptr<const DirectHandler> direct) {
  std::lock_guard lock(mutex_);
  routes_[route].limit = limit;
  routes_[route].direct = std::move(direct);
}

void Feed::close_route(std::uint64_t route) {
  std::lock_guard lock(mutex_);
  routes_.erase(route);
}

std::deque<LinkEvent> Feed::take() {
  std::lock_guard lock(mutex_);
  posted_ = false;
  ++batch_;
  return std::exchange(events_, {});
}

void Feed::close() {
  gate_.close();
  std::lock_guard lock(mutex_);
  closed_ = true;
  events_.clear();
  routes_.clear();
}

struct Link::State : std::enable_shared_from_this<Link::State> {
  struct Ended {
    natsSubscription* subscription = nullptr;
    std::uint64_t generation = 0;
    Time at{};
    std::uint64_t route = 0;  // of one that is draining: messages still come by it
  };
  struct FlushWanted {
    std::uint64_t id = 0;
    Duration timeout{};
  };

  std::shared_ptr<Feed> feed;
  const ConnectOptions options;
  const std::vector<ServerUrl> given;
  std::string nkey;

  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  std::uint64_t lost = 0;  // newest generation that has ended
  std::vector<ServerUrl> discovered;
  std::vector<std::shared_ptr<Wire>> retired;
  std::vector<Ended> ended, draining;
  std::vector<FlushWanted> flushes;
  ConnectLimit* under_way = nullptr;

  // Only on the thread:
  std::vector<std::shared_ptr<Wire>> wires;  // all that are not destroyed yet
  std::shared_ptr<Wire> current;
  std::uint64_t current_id = 0;
  ServerUrl current_url;
  std::uint64_t last_generation = 0;
  milliseconds attempt_limit = kFirstAttemptLimit;
  std::minstd_rand random{std::random_device{}()};

  State(std::shared_ptr<Feed> f, ConnectOptions o, std::vector<ServerUrl> servers)
      : feed(std::move(f)), options(std::move(o)), given(std::move(servers)) {}

  void run();
  bool connected();
  void connect();
  std::vector<ServerUrl> candidates();
  Failure attempt(const ServerUrl& server);
  Result<std::unique_ptr<natsOptions, void (*)(natsOptions*)>> connect_options(
      const ServerUrl& server, std::uint64_t id);
  void learn_servers(natsConnection* nc);
  void do_flushes();
  void bury();
  void destroy(std::shared_ptr<Wire> wire);
  void do_drains();
};

namespace {

// Without the place in libnats' sources that its errors begin with, "(conn.c:123): ".
std::string without_place(const std::string& text) {
  const auto file = text.find(".c:"), end = text.find("): ");
  if (!text.starts_with("(") || end == std::string::npos || file > end) return text;
  return text.substr(end + 3);
}

void on_message(natsConnection*, natsSubscription*, natsMsg* m, void* closure) {
  if (auto target = registry().find(closure); target.link)
    target.link->feed->push_message(reinterpret_cast<std::uintptr_t>(closure), message_from(m));
  let_go(m);
}

void on_closed(natsConnection* nc, void* closure) {
  unclosed().remove(reinterpret_cast<std::uintptr_t>(closure));
  auto target = registry().find(closure);
  if (!target.link) return;
  const char* text = nullptr;
  natsStatus status = natsConnection_GetLastError(nc, &text);
  std::string why = text && *text       ? text
                    : status == NATS_OK ? "closed by the server"
                                        : natsStatus_GetText(status);
  // Told before the thread wakes: what it reports of its attempts comes behind.
  target.link->feed->push(LinkDown{target.generation, std::move(why)});
  std::lock_guard lock(target.link->mutex);
  target.link->lost = std::max(target.link->lost, target.generation);
  target.link->wake.notify_all();
}

void on_async_error(natsConnection*, natsSubscription* subscription, natsStatus status,
                    void* closure) {
  auto target = registry().find(closure);
  if (!target.link) return;
  std::string text;
  if (status == NATS_SLOW_CONSUMER) {
    // The delivery thread only copies and queues: it falls behind when the whole machine does.
    const char* subject = subscription ? natsSubscription_GetSubject(subscription) : nullptr;
    text = std::string("Slow Consumer on \"") + (subject ? subject : "?") + "\"";
  } else {
    const char* last = nats_GetLastError(nullptr);
    text = last && *last ? last : natsStatus_GetText(status);
  }
  target.link->feed->push(ServerRefused{std::move(text)});
}

void on_servers(natsConnection* nc, void* closure) {
  if (auto target = registry().find(closure); target.link) target.link->learn_servers(nc);
}

}  // namespace

void Link::State::learn_servers(natsConnection* nc) {
  char** names = nullptr;
  int count = 0;
  if (natsConnection_GetDiscoveredServers(nc, &names, &count) != NATS_OK) return;
  std::vector<ServerUrl> found;
  for (int i = 0; i < count; ++i) {
    if (auto url = parse_server_url(names[i])) found.push_back(url.value());
    free(names[i]);
  }
  free(static_cast<void*>(names));
  // They want what the given ones want.
  const ServerUrl& model = given.front();
  for (auto& url : found) {
    url.tls = model.tls;
    url.user = model.user;
    url.password = model.password;
    if (!model.host_is_address()) url.tls_name = model.host;
  }
  std::lock_guard lock(mutex);
  discovered = std::move(found);
}

// All servers, the one that was lost last at the end.
std::vector<ServerUrl> Link::State::candidates() {
  std::vector<ServerUrl> all = given;
  {
    std::lock_guard lock(mutex);
    for (const auto& url : discovered) {
      auto same = [&](const ServerUrl& other) { return other.same_place(url); };
      if (std::none_of(all.begin(), all.end(), same)) all.push_back(url);
    }
  }
  auto at = std::find_if(all.begin(), all.end(),
                         [&](const auto& url) { return url.same_place(current_url); });
  if (at != all.end()) std::rotate(all.begin(), at + 1, all.end());
  return all;
}

Result<std::unique_ptr<natsOptions, void (*)(natsOptions*)>> Link::State::connect_options(
    const ServerUrl& server, std::uint64_t id) {
  natsOptions* raw = nullptr;
  natsStatus s = natsOptions_Create(&raw);
  std::unique_ptr<natsOptions, void (*)(natsOptions*)> o(raw, natsOptions_Destroy);
  std::string what = "options";
  auto set = [&](const char* name, auto&& call) {
    if (s != NATS_OK) return;
    s = call();
    if (s != NATS_OK) what = name;
  };
  const Nats& n = options.nats;
  const std::string url = server.full_text();
  const char* urls[] = {url.c_str()};
  set("servers", [&] { return natsOptions_SetServers(raw, urls, 1); });
  set("no_randomize", [&] { return natsOptions_SetNoRandomize(raw, true); });
  set("timeout", [&] { return natsOptions_SetTimeout(raw, attempt_limit.count()); });
  set("name", [&] { return natsOptions_SetName(raw, options.name.c_str()); });
  set("ping_interval",
      [&] { return natsOptions_SetPingInterval(raw, options.ping_interval.count()); });
  set("max_pings_out", [&] { return natsOptions_SetMaxPingsOut(raw, 2); });
  set("allow_reconnect", [&] { return natsOptions_SetAllowReconnect(raw, false); });
  set("send_asap", [&] { return natsOptions_SetSendAsap(raw, true); });
  set("write_deadline", [&] { return natsOptions_SetWriteDeadline(raw, kWriteLimitMs); });
  set("delivery", [&] { return natsOptions_UseGlobalMessageDelivery(raw, true); });
  set("error_handler",
      [&] { return natsOptions_SetErrorHandler(raw, on_async_error, closure_of(id)); });
  set("closed", [&] { return natsOptions_SetClosedCB(raw, on_closed, closure_of(id)); });
  set("discovered",
      [&] { return natsOptions_SetDiscoveredServersCB(raw, on_servers, closure_of(id)); });
  if (!n.creds_file.empty())
    set("creds_file", [&] {
      return natsOptions_SetUserCredentialsFromFiles(raw, n.creds_file.c_str(), nullptr);
    });
  if (!nkey.empty())
    set("nkey_seed_file",
        [&] { return natsOptions_SetNKeyFromSeed(raw, nkey.c_str(), n.nkey_seed_file.c_str()); });
  if (!n.user.empty())
    set("user", [&] { return natsOptions_SetUserInfo(raw, n.user.c_str(), n.password.c_str()); });
  if (!n.token.empty()) set("token", [&] { return natsOptions_SetToken(raw, n.token.c_str()); });
  if (n.tls.enabled || server.tls) set("tls", [&] { return natsOptions_SetSecure(raw, true); });
  // What was given for TLS counts also when we do not ask for it: the server may.
  if (n.tls.enabled || server.tls || !n.tls.ca_file.empty() || !n.tls.cert_file.empty() ||
      !n.tls.server_name.empty() || n.tls.skip_verification) {
    if (!n.tls.ca_file.empty())
      set("tls.ca_file",
          [&] { return natsOptions_LoadCATrustedCertificates(raw, n.tls.ca_file.c_str()); });
    if (!n.tls.cert_file.empty())
      set("tls.cert_file", [&] {
        return natsOptions_LoadCertificatesChain(raw, n.tls.cert_file.c_str(),
                                                 n.tls.key_file.c_str());
      });
    const std::string& expected = n.tls.server_name.empty() ? server.tls_name : n.tls.server_name;
    if (!expected.empty())
      set("tls.server_name",
          [&] { return natsOptions_SetExpectedHostname(raw, expected.c_str()); });
    if (n.tls.skip_verification)
      set("tls.skip_verification", [&] { return natsOptions_SkipServerVerification(raw, true); });
  }
  if (s != NATS_OK) {
    const char* last = nats_GetLastError(nullptr);
    return Error(Errc::invalid_argument, "nats." + what + " can't be used: " +
                                             (last && *last ? last : natsStatus_GetText(s)));
  }
  return o;
}

// Connects to one server, or says why not, beginning with the server's URL.
Failure Link::State::attempt(const ServerUrl& server) {
  auto greeting = probe(server, attempt_limit);
  if (!greeting) return greeting.error();
  std::uint64_t generation = ++last_generation;
  std::uint64_t id = registry().add({shared_from_this(), generation});
  auto fail = [&](Errc code, const std::string& why) -> Failure {
    registry().remove(id);
    unclosed().remove(id);
    return Error(code, server.text() + ": " + why);
  };
  auto o = connect_options(server, id);
  if (!o) return fail(Errc::invalid_argument, o.error().what());
  natsConnection* nc = nullptr;
  std::optional<ConnectLimit> limit(std::in_place, server.port, attempt_limit + kConnectGrace);
  {
    std::lock_guard lock(mutex);
    if (stop) limit->end_now();
    under_way = &*limit;
  }
  unclosed().add(id);
  natsStatus s = natsConnection_Connect(&nc, o.value().get());
  // Now and then libnats sends no signature: once in some 300 connects with 3.4.1 and nats-server
  // 2.10.27, which says "Signature missing" in its log. So the first refusals prove nothing.
  const bool signs = !nkey.empty() || !options.nats.creds_file.empty();
  for (int tries = 1;
       signs && s == NATS_CONNECTION_AUTH_FAILED && tries < kSignatureTries && !limit->over();
       ++tries)
    s = natsConnection_Connect(&nc, o.value().get());
  {
    std::lock_guard lock(mutex);
    under_way = nullptr;
  }
  const bool late = limit->over();
  limit.reset();
  if (s != NATS_OK) {
    const char* last = nats_GetLastError(nullptr);
    std::string text = last && *last ? last : natsStatus_GetText(s);
    text = without_place(text);
    if (s == NATS_CONNECTION_AUTH_FAILED) {
      // libnats drops the server's words for some refusals.
      return fail(Errc::permission_denied, "the server refuses the credentials (" + text + ")");
    }
    if (late || s == NATS_TIMEOUT) return fail(Errc::timeout, "no answer within the time limit");
    // libnats 3.4 and 3.10 notice it in different places.
    if (text.find("Expected 'PONG'") != std::string::npos || s == NATS_CONNECTION_CLOSED)
      text = "the server closed the connection during the handshake (" + text +
             "); it may want other credentials or a client certificate";
    if (s == NATS_SECURE_CONNECTION_REQUIRED)
      text = "the server wants TLS; use tls:// or set nats.tls.enabled";
    if (s == NATS_SECURE_CONNECTION_WANTED)
      text = "the server has no TLS, which nats.tls or the URL asks for";
    return fail(Errc::unavailable, text);
  }
  // Behind one name there may be several servers: take the words of the one that this connection
  // has reached.
  char server_id[256] = "";
  natsConnection_GetConnectedServerId(nc, server_id, sizeof server_id);
  for (int i = 0; i < 3 && greeting && greeting.value().server_id != server_id; ++i)
    greeting = probe(server, attempt_limit);

  auto wire = std::make_shared<Wire>();
  wire->nc = nc;
  wire->closure = id;
  wire->generation = generation;
  wire->server.url = server.text();
  wire->server.server_id = server_id;
  wire->server.max_payload = natsConnection_GetMaxPayload(nc);
  if (greeting && greeting.value().server_id == server_id) {
    wire->server.server_name = greeting.value().server_name;
    wire->server.version = greeting.value().version;
    wire->server.cluster = greeting.value().cluster;
    wire->server.jetstream = greeting.value().jetstream;
  }
  wires.push_back(wire);
  learn_servers(nc);
  current = wire;
  current_id = id;
  current_url = server;
  attempt_limit = kFirstAttemptLimit;
  feed->push(LinkUp{wire});
  return std::nullopt;
}

// With the mutex held.
bool Link::State::connected() { return current && lost < current->generation; }

// Tries all servers in turn until one takes us, or the link is to stop.
void Link::State::connect() {
  if (current_id != 0) registry().remove(std::exchange(current_id, 0));
  current.reset();
  while (true) {
    std::string why;
    bool refused = false;
    bool timed_out = false;
    for (const auto& server : candidates()) {
      {
        std::lock_guard lock(mutex);
        if (stop) return;
      }
      auto failure = attempt(server);
      if (!failure) return;
      why += (why.empty() ? "" : "; ") + std::string(failure->what());
      refused = refused || failure->errc() == Errc::permission_denied;
      timed_out = timed_out || failure->errc() == Errc::timeout;
    }
    feed->push(AttemptsFailed{why});
    if (timed_out) attempt_limit = std::min(attempt_limit * 2, kLastAttemptLimit);
    auto wait = std::max(refused ? kRefusedWait : milliseconds(0), options.reconnect_wait);
    if (options.reconnect_wait.count() > 0)
      wait += milliseconds(
          std::uniform_int_distribution<long>(0, options.reconnect_wait.count())(random));
    bury();
    std::unique_lock lock(mutex);
    if (wake.wait_for(lock, wait, [&] { return stop; })) return;
  }
}

void Link::State::do_flushes() {
  std::vector<FlushWanted> wanted;
  {
    std::lock_guard lock(mutex);
    wanted.swap(flushes);
  }
  if (wanted.empty()) return;
  Duration limit{};
  for (const auto& f : wanted) limit = std::max(limit, f.timeout);
  auto ms = std::max<std::int64_t>(1, std::chrono::ceil<milliseconds>(limit).count());
  bool ok = current && natsConnection_FlushTimeout(current->nc, ms) == NATS_OK;
  for (const auto& f : wanted) feed->push(Flushed{f.id, ok});
}

void Link::State::destroy(std::shared_ptr<Wire> wire) {
  if (std::erase(wires, wire) == 0) return;
  natsConnection_Close(wire->nc);  // also ends what other threads are writing
  {
    const std::lock_guard lock(wire->use);
    wire->over = true;
  }
  unclosed().wait(wire->closure, kCloseLimit);
  natsConnection_Destroy(wire->nc);
  std::vector<Ended> gone;
  {
    std::lock_guard lock(mutex);
    auto of_wire = [&](const Ended& e) { return e.generation == wire->generation; };
    std::copy_if(ended.begin(), ended.end(), std::back_inserter(gone), of_wire);
    std::erase_if(ended, of_wire);
  }
  for (const auto& e : gone) natsSubscription_Destroy(e.subscription);
}

// Frees what the loop has done with. An ended subscription of a live connection goes only after a
// round trip: until then libnats' reading thread may be about to look at it for a message that was
// under way.
void Link::State::bury() {
  std::vector<std::shared_ptr<Wire>> done;
  std::vector<Ended> old;
  {
    std::lock_guard lock(mutex);
    done.swap(retired);
  }
  for (const auto& wire : done) destroy(wire);
  {
    std::lock_guard lock(mutex);
    Time before = BootClock::now() - std::chrono::seconds(1);
    auto due = [&](const Ended& e) {
      return current && e.generation == current->generation && e.at <= before;
    };
    std::copy_if(ended.begin(), ended.end(), std::back_inserter(old), due);
    std::erase_if(ended, due);
  }
  if (old.empty()) return;
  if (natsConnection_FlushTimeout(current->nc, kBuryLimit.count()) == NATS_OK) {
    for (const auto& e : old) natsSubscription_Destroy(e.subscription);
  } else {
    std::lock_guard lock(mutex);
    ended.insert(ended.end(), old.begin(), old.end());
  }
}

// One by one: for each that is drained libnats has a thread, as long as a round trip takes.
void Link::State::do_drains() {
  std::vector<Ended> some;
  {
    std::lock_guard lock(mutex);
    const auto count = std::min(draining.size(), kDrainsAtOnce);
    some.assign(draining.begin(), draining.begin() + static_cast<std::ptrdiff_t>(count));
    draining.erase(draining.begin(), draining.begin() + static_cast<std::ptrdiff_t>(count));
  }
  for (auto& e : some) {
    const auto of_wire = [&e](const auto& wire) { return wire->generation == e.generation; };
    const bool alive = current && e.generation == current->generation;
    // It fails when the connection has ended: then nothing comes any more.
    if (alive && natsSubscription_Drain(e.subscription) == NATS_OK)
      natsSubscription_WaitForDrainCompletion(e.subscription, kDrainLimit.count());
    registry().remove(e.route);
    feed->close_route(e.route);
    if (std::none_of(wires.begin(), wires.end(), of_wire)) {
      natsSubscription_Destroy(e.subscription);
      continue;
    }
    e.at = BootClock::now();
    std::lock_guard lock(mutex);
    ended.push_back(e);
  }
}

void Link::State::run() {
  while (true) {
    bool reconnect = false;
    {
      std::unique_lock lock(mutex);
      auto something = [&] {
        return stop || !connected() || !flushes.empty() || !retired.empty() || !draining.empty();
      };
      if (ended.empty()) {
        wake.wait(lock, something);
      } else {
        wake.wait_for(lock, std::chrono::seconds(1), something);
      }
      if (stop) break;
      reconnect = !connected();
    }
    if (reconnect) connect();
    do_flushes();
    do_drains();
    bury();
  }
  // Nothing comes back from here: the feed is closed. What was sent last still goes out.
  if (current_id != 0) registry().remove(current_id);
  if (current) natsConnection_FlushTimeout(current->nc, kCloseLimit.count());
  while (!wires.empty()) destroy(wires.back());
  std::lock_guard lock(mutex);
  for (const auto& e : draining) {
    registry().remove(e.route);
    feed->close_route(e.route);
  }
  ended.insert(ended.end(), draining.begin(), draining.end());
  draining.clear();
  for (const auto& e : ended) natsSubscription_Destroy(e.subscription);
  ended.clear();
  nats_ReleaseThreadMemory();
}

Link::Link(std::shared_ptr<Feed> feed, ConnectOptions options, std::vector<ServerUrl> servers)
    : state_(std::make_shared<State>(std::move(feed), std::move(options), std::move(servers))) {
  open_library();
  if (!state_->options.nats.nkey_seed_file.empty())
    state_->nkey = public_nkey_of_seed_file(state_->options.nats.nkey_seed_file).value();
  thread_ = std::thread([state = state_] { state->run(); });
}

Link::~Link() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
    if (state_->under_way) state_->under_way->end_now();
    state_->wake.notify_all();
  }
  thread_.join();
}

natsSubscription* Link::subscribe(const Wire& wire, const std::string& subject,
                                  const std::string& queue, int limit,
                                  std::shared_ptr<const Feed::DirectHandler> direct,
                                  std::uint64_t& route) {
  route = registry().add({state_, wire.generation});
  state_->feed->open_route(route, limit, std::move(direct));
  natsSubscription* subscription = nullptr;
  natsStatus s = queue.empty()
                     ? natsConnection_Subscribe(&subscription, wire.nc, subject.c_str(), on_message,
                                                closure_of(route))
                     : natsConnection_QueueSubscribe(&subscription, wire.nc, subject.c_str(),
                                                     queue.c_str(), on_message, closure_of(route));
  if (s == NATS_OK) return subscription;
  registry().remove(route);
  state_->feed->close_route(route);
  return nullptr;  // the connection has just ended: it is subscribed again on the next one
}

void Link::unsubscribe(const Wire& wire, natsSubscription* subscription, std::uint64_t route) {
  registry().remove(route);
  state_->feed->close_route(route);
  natsSubscription_Unsubscribe(
      subscription);  // fails when the connection has ended: then it is done
  std::lock_guard lock(state_->mutex);
  state_->ended.push_back({subscription, wire.generation, BootClock::now()});
  if (state_->ended.size() == 1) state_->wake.notify_all();
}

void Link::drain(const Wire& wire, natsSubscription* subscription, std::uint64_t route) {
  std::lock_guard lock(state_->mutex);
  state_->draining.push_back({subscription, wire.generation, BootClock::now(), route});
  if (state_->draining.size() == 1) state_->wake.notify_all();
}

void Link::retire(std::shared_ptr<Wire> wire) {
  std::lock_guard lock(state_->mutex);
  state_->retired.push_back(std::move(wire));
  state_->wake.notify_all();
}

void Link::flush(std::uint64_t id, Duration timeout) {
  std::lock_guard lock(state_->mutex);
  state_->flushes.push_back({id, timeout});
  state_->wake.notify_all();
}

}  // namespace cluster::nats
