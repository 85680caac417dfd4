// Pulls from a consumer with explicit acknowledgements: one request at a time, for as many messages
// as there is room for. Each try has an inbox of its own, so that nothing of an earlier one is
// mistaken for the newest one's.
#include "nats/durable_consumer.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr auto kPullHeartbeat = seconds(2);
constexpr auto kExpires = seconds(20);  // a request that has not been filled ends
constexpr auto kPullTryLimit = milliseconds(2'000);
constexpr milliseconds kPullFirstBackoff{50};
constexpr milliseconds kPullLastBackoff{1'000};

bool no_such_stream(const Error& error) {
  return std::string(error.what()).find("(10059)") != std::string::npos;
}

Json config_of(const DurableConfig& c) {
  Json config = {{"durable_name", c.name},
                 {"name", c.name},
                 {"description", c.description},
                 {"ack_policy", "explicit"},
                 {"ack_wait", nanoseconds(c.ack_wait).count()},
                 {"max_ack_pending", c.max_ack_pending},
                 {"max_deliver", -1},
                 {"replay_policy", "instant"},
                 {"filter_subject", c.filter}};
  switch (c.start.kind) {
    case StartAt::Kind::new_only: config["deliver_policy"] = "new"; break;
    case StartAt::Kind::sequence:
      config["deliver_policy"] = "by_start_sequence";
      config["opt_start_seq"] = std::max<std::uint64_t>(1, c.start.sequence);
      break;
    case StartAt::Kind::time:
      config["deliver_policy"] = "by_start_time";
      config["opt_start_time"] = rfc3339_from(c.start.time_ns);
      break;
    default: config["deliver_policy"] = "all";
  }
  return config;
}

}  // namespace

struct DurableConsumer::Core : std::enable_shared_from_this<Core> {
  Core(JetStream& js, DurableConfig c, Handlers h)
      : jetstream(js), config(std::move(c)), handlers(std::move(h)) {}

  JetStream& jetstream;
  const DurableConfig config;
  const Handlers handlers;

  bool ended = false;
  bool made = false;  // the server has had it, as it is meant to be
  int ready = 0;
  milliseconds backoff = kPullFirstBackoff;

  // Of the newest try:
  std::uint64_t attempt = 0;
  bool attached = false;
  int asked = 0;  // messages that the open request still brings
  std::string inbox;
  Subscription subscription;
  Time heard{};
  LoopSource timer, watch;

  template <typename Fn>
  auto guarded(Fn fn) {
    return [weak = weak_from_this(), mine = attempt, fn](auto... args) {
      auto core = weak.lock();
      if (core && !core->ended && core->attempt == mine) fn(*core, std::move(args)...);
    };
  }

  void begin();
  void drop();
  void again();
  void failed(const Error& error);
  void refused(const Error& error);
  std::string next_subject() const {
    return "$JS.API.CONSUMER.MSG.NEXT." + config.stream + "." + config.name;
  }
  void look_at(const std::string& text);
  void absent(const Error& error);
  void store(const Json& wanted, const char* action);
  void attach();
  void ask();
  void on_message(Message message);
  void on_status(const Message& message);
  void watch_heartbeats();
  void answer(const std::string& reply, std::string verdict);
};

void DurableConsumer::Core::drop() {
  ++attempt;
  attached = false;
  asked = 0;
  timer.reset();
  watch.reset();
  subscription = {};
}

void DurableConsumer::Core::begin() {
  drop();
  if (jetstream.connection().state() != ConnectionState::connected)
    return;  // on_state begins again
  jetstream.api("CONSUMER.INFO." + config.stream + "." + config.name, "", kPullTryLimit,
                guarded([](Core& core, Result<std::string> text) {
                  if (text) return core.look_at(text.value());
                  if (text.error().errc() == Errc::not_found) return core.absent(text.error());
                  core.failed(text.error());
                }));
}

void DurableConsumer::Core::again() {
  drop();
  if (jetstream.connection().state() != ConnectionState::connected) return;
  timer = jetstream.connection().loop().after(backoff, guarded([](Core& core) { core.begin(); }));
  backoff = std::min(backoff * 2, kPullLastBackoff);
}

void DurableConsumer::Core::failed(const Error& error) {
  again();
  if (handlers.trouble) handlers.trouble(error);
}

// Pulling and acknowledging have no answer in which a refusal could come.
void DurableConsumer::Core::refused(const Error& error) {
  if (ended || error.errc() != Errc::permission_denied) return;
  const std::string text = error.what();
  const std::string acks = "\"$JS.ACK." + config.stream + "." + config.name + ".";
  if (text.find('"' + next_subject() + '"') != std::string::npos) return failed(error);
  if (text.find(acks) != std::string::npos && handlers.trouble) handlers.trouble(error);
}

void DurableConsumer::Core::absent(const Error& error) {
  if (no_such_stream(error)) return failed(error);
  if (!made) return store(config_of(config), "create");
  ended = true;
  drop();
  if (handlers.removed) handlers.removed();
}

// It is there: is it one of ours, and as it is meant to be?
void DurableConsumer::Core::look_at(const std::string& text) {
  if (made) return attach();
  auto json = Json::parse(text, nullptr, false);
  const auto found = json.is_object() ? json.find("config") : json.end();
  const std::string what = "consumer \"" + config.name + "\" of stream \"" + config.stream + "\"";
  if (found == json.end() || !found->is_object())
    return failed(Error(Errc::incompatible, what + ": JetStream's answer can't be read"));
  Json wanted = *found;
  if (wanted.value("ack_policy", "") != "explicit" || wanted.contains("deliver_subject"))
    return failed(Error(Errc::incompatible,
                        what +
                            " is there, but was made for another purpose: it is not pulled from "
                            "with explicit acknowledgements; choose another name, or remove it"));
  const Json ours = config_of(config);
  for (const char* key :
       {"description", "ack_wait", "max_ack_pending", "max_deliver", "filter_subject"})
    wanted[key] = ours[key];
  wanted.erase("filter_subjects");
  if (wanted == *found) {
    made = true;
    return attach();
  }
  store(wanted, "update");
}

void DurableConsumer::Core::store(const Json& wanted, const char* action) {
  const Json body = {{"stream_name", config.stream}, {"config", wanted}, {"action", action}};
  jetstream.api("CONSUMER.CREATE." + config.stream + "." + config.name + "." + config.filter,
                text_of(body), kPullTryLimit, guarded([](Core& core, Result<std::string> text) {
                  if (!text) return core.failed(text.error());
                  core.made = true;
                  core.attach();
                }));
}

void DurableConsumer::Core::attach() {
  inbox = jetstream.connection().new_inbox();
  subscription = jetstream.connection().subscribe(
      inbox, guarded([](Core& core, Message message) { core.on_message(std::move(message)); }));
  attached = true;
  auto mine = attempt;
  if (handlers.begun) handlers.begun();
  if (!ended && attempt == mine) ask();
}

void DurableConsumer::Core::ask() {
  if (!attached || asked > 0 || ready <= 0) return;
  asked = ready;
  heard = BootClock::now();
  Message request;
  request.subject = next_subject();
  request.reply = inbox;
  request.data = text_of({{"batch", asked},
                          {"expires", nanoseconds(kExpires).count()},
                          {"idle_heartbeat", nanoseconds(kPullHeartbeat).count()}});
  jetstream.connection().publish(request);  // when it is lost, there are no heartbeats
  if (!watch) watch_heartbeats();
}

void DurableConsumer::Core::watch_heartbeats() {
  watch = jetstream.connection().loop().after(
      kPullHeartbeat, guarded([](Core& core) {
        if (core.asked > 0 && BootClock::now() > core.heard + 2 * kPullHeartbeat)
          return core.again();
        core.watch_heartbeats();
      }));
}

void DurableConsumer::Core::on_message(Message message) {
  heard = BootClock::now();
  if (message.status != 0) return on_status(message);
  auto place = delivery_place_from(message.reply);
  if (!place) return;  // not from JetStream
  backoff = kPullFirstBackoff;
  asked = std::max(0, asked - 1);
  ready = std::max(0, ready - 1);
  Delivery delivery;
  delivery.message.subject = std::move(message.subject);
  delivery.message.sequence = place->stream_sequence;
  delivery.message.time_ns = place->time_ns;
  delivery.message.data = std::move(message.data);
  delivery.message.headers = std::move(message.headers);
  delivery.message.pending = place->pending;
  delivery.reply = std::move(message.reply);
  delivery.deliveries = place->deliveries;
  auto mine = attempt;
  if (handlers.message) handlers.message(std::move(delivery));
  if (!ended && attempt == mine) ask();
}

void DurableConsumer::Core::on_status(const Message& message) {
  switch (message.status) {
    case 100: return;  // a heartbeat
    case 404:
    case 408:
      asked = 0;
      backoff = kPullFirstBackoff;
      return ask();
    default: again();  // 409, 503: the consumer is gone, or its server is going
  }
}

void DurableConsumer::Core::answer(const std::string& reply, std::string verdict) {
  Message message;
  message.subject = reply;
  message.data = std::move(verdict);
  jetstream.connection().publish(message);
}

DurableConsumer::DurableConsumer(JetStream& jetstream, DurableConfig config, Handlers handlers)
    : core_(std::make_shared<Core>(jetstream, std::move(config), std::move(handlers))) {
  jetstream.connection().on_state(
      core_, [core = core_.get()](ConnectionState state, const std::string&) {
        if (core->ended) return;
        state == ConnectionState::connected ? core->begin() : core->drop();
      });
  jetstream.connection().on_error(
      core_, [core = core_.get()](const Error& error) { core->refused(error); });
  // Not from within the constructor: its caller has nothing to hold on to yet.
  jetstream.connection().defer([weak = std::weak_ptr(core_)] {
    auto core = weak.lock();
    if (core && !core->ended && core->attempt == 0) core->begin();
  });
}

DurableConsumer::~DurableConsumer() {
  core_->ended = true;
  core_->drop();
}

void DurableConsumer::set_ready(int messages) {
  core_->ready = messages;
  if (!core_->ended) core_->ask();
}

void DurableConsumer::acknowledge(const Delivery& delivery) {
  core_->answer(delivery.reply, "+ACK");
}

void DurableConsumer::refuse(const Delivery& delivery, Duration wait) {
  core_->answer(delivery.reply, "-NAK " + text_of({{"delay", nanoseconds(wait).count()}}));
}

void DurableConsumer::keep(const std::string& reply) { core_->answer(reply, "+WPI"); }

void DurableConsumer::give_up(const Delivery& delivery) { core_->answer(delivery.reply, "+TERM"); }

}  // namespace cluster::nats
