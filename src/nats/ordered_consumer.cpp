// The ordered consumer: an ephemeral push consumer that is made anew whenever its deliveries can't
// be trusted. Each try has an inbox and a number of its own, so nothing of an earlier one is
// mistaken for the newest one's.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "core/ids.h"
#include "nats/jetstream.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kOrderedHeartbeat = seconds(2);
constexpr auto kGone = seconds(30);  // the server removes a consumer that nobody listens to
constexpr auto kIdle = seconds(5);   // nothing has come for so long: does the stream have more?
constexpr auto kOwed = seconds(1);   // and what it has comes within this
constexpr auto kOrderedTryLimit = milliseconds(1'500);
constexpr auto kSound = seconds(1);  // a consumer that has lived for so long was no failure
constexpr milliseconds kOrderedFirstBackoff{50};
constexpr milliseconds kOrderedLastBackoff{1'000};

std::uint64_t count(const Json& json, const char* path) {
  const Json::json_pointer place(path);
  if (!json.contains(place) || !json.at(place).is_number_unsigned()) return 0;
  return json.at(place).get<std::uint64_t>();
}

std::uint64_t number(std::string_view text) {
  return std::strtoull(std::string(text).c_str(), nullptr, 10);
}

}  // namespace

struct OrderedConsumer::Core : std::enable_shared_from_this<Core> {
  JetStream& jetstream;
  const std::string stream;
  const std::vector<std::string> filters;
  const StartAt start;
  const Handlers handlers;

  bool ended = false;
  bool caught_up = false;
  bool begun = false;
  bool paused = false;
  std::uint64_t delivered = 0;                  // newest stream sequence that the user got
  std::optional<std::uint64_t> resume_after{};  // nothing up to here is wanted any more

  // Of the newest try:
  std::uint64_t attempt = 0;
  std::string name;
  bool created = false;
  Subscription subscription;
  std::uint64_t consumer_seq = 0;  // newest delivery that came
  std::uint64_t caught_up_at = 0;  // the delivery that ends what was stored; with `created`
  Time created_at{};
  Time heard{};
  milliseconds backoff = kOrderedFirstBackoff;
  LoopSource timer;
  LoopSource stall_timer;

  Core(JetStream& js, std::string s, std::vector<std::string> f, StartAt at, Handlers h)
      : jetstream(js),
        stream(std::move(s)),
        filters(std::move(f)),
        start(at),
        handlers(std::move(h)) {}

  template <typename Fn>
  auto guarded(Fn fn) {
    return [weak = weak_from_this(), mine = attempt, fn](auto... args) {
      auto core = weak.lock();
      if (core && !core->ended && core->attempt == mine) fn(*core, std::move(args)...);
    };
  }

  void begin();
  void again();
  void retry();
  void check_stream();
  std::uint64_t first_wanted() const;
  void create();
  void on_created(const std::string& text);
  void on_message(Message message);
  void on_control(const Message& message);
  void check_caught_up(std::uint64_t pending);
  void watch_heartbeats();
  void watch_stalls();
  void ask_for_more();
  void expect_more();
  void failed(const Error& error);
  void drop();
};

// Starts over: a new try, after which answers and messages of the one before count for nothing.
void OrderedConsumer::Core::begin() {
  drop();
  if (paused || jetstream.connection().state() != ConnectionState::connected)
    return;  // resume() or on_state begins again
  if (resume_after || start.kind == StartAt::Kind::new_only) {
    check_stream();
  } else {
    create();
  }
}

// The deliveries can't be trusted any more.
void OrderedConsumer::Core::again() {
  if (created && BootClock::now() - created_at >= kSound) return begin();
  drop();
  retry();
}

void OrderedConsumer::Core::retry() {
  if (jetstream.connection().state() != ConnectionState::connected) return;
  timer = jetstream.connection().loop().after(backoff, guarded([](Core& core) { core.begin(); }));
  backoff = std::min(backoff * 2, kOrderedLastBackoff);
}

void OrderedConsumer::Core::drop() {
  ++attempt;
  timer.reset();
  stall_timer.reset();
  subscription = {};
  if (created && jetstream.connection().state() == ConnectionState::connected) {
    // Best effort: without an answer the server removes it after kGone.
    jetstream.api("CONSUMER.DELETE." + stream + "." + name, "", kOrderedTryLimit,
                  [](Result<std::string>) {});
  }
  created = false;
}

// Where does the stream end: has it lost what it had already delivered?
void OrderedConsumer::Core::check_stream() {
  jetstream.api("STREAM.INFO." + stream, "", kOrderedTryLimit,
                guarded([](Core& core, Result<std::string> text) {
                  if (!text) return core.failed(text.error());
                  auto json = Json::parse(text.value(), nullptr, false);
                  auto last = count(json, "/state/last_seq");
                  if (!core.resume_after) {
                    core.resume_after = last;  // new_only
                  } else if (last < *core.resume_after) {
                    auto before = std::exchange(*core.resume_after, last);
                    core.delivered = std::min(core.delivered, last);
                    auto mine = core.attempt;
                    if (core.handlers.rewound) core.handlers.rewound(before, last);
                    if (core.ended || core.attempt != mine) return;
                  } else if (auto first = count(json, "/state/first_seq");
                             first > *core.resume_after + 1) {
                    auto before = std::exchange(*core.resume_after, first - 1);
                    auto mine = core.attempt;
                    if (core.handlers.trimmed) core.handlers.trimmed(before, first);
                    if (core.ended || core.attempt != mine) return;
                  }
                  core.create();
                }));
}

// Nothing before it is delivered any more.
std::uint64_t OrderedConsumer::Core::first_wanted() const {
  if (resume_after) return *resume_after + 1;
  return start.kind == StartAt::Kind::sequence ? std::max<std::uint64_t>(1, start.sequence) : 1;
}

void OrderedConsumer::Core::create() {
  name = random_id();
  consumer_seq = 0;
  const std::string inbox = jetstream.connection().new_inbox();
  subscription = jetstream.connection().subscribe(
      inbox, guarded([](Core& core, Message message) { core.on_message(std::move(message)); }));

  Json config = {{"name", name},
                 {"deliver_subject", inbox},
                 {"ack_policy", "none"},
                 {"replay_policy", "instant"},
                 {"max_deliver", 1},
                 {"flow_control", true},
                 {"idle_heartbeat", std::chrono::nanoseconds(kOrderedHeartbeat).count()},
                 {"inactive_threshold", std::chrono::nanoseconds(kGone).count()},
                 {"mem_storage", true},
                 {"num_replicas", 1}};
  if (resume_after || start.kind == StartAt::Kind::sequence) {
    config["deliver_policy"] = "by_start_sequence";
    config["opt_start_seq"] = first_wanted();
  } else if (start.kind == StartAt::Kind::time) {
    config["deliver_policy"] = "by_start_time";
    config["opt_start_time"] = rfc3339_from(start.time_ns);
  } else {
    config["deliver_policy"] =
        start.kind == StartAt::Kind::last_per_subject ? "last_per_subject" : "all";
  }
  if (start.headers_only) config["headers_only"] = true;
  std::string what = "CONSUMER.CREATE." + stream + "." + name;
  if (filters.size() == 1) {
    config["filter_subject"] = filters.front();
    what += "." + filters.front();
  } else if (!filters.empty()) {
    config["filter_subjects"] = filters;
  } else if (start.kind == StartAt::Kind::last_per_subject && !resume_after) {
    config["filter_subject"] = ">";
    what += ".>";
  }
  const Json body = {{"stream_name", stream}, {"config", config}};
  heard = BootClock::now();
  jetstream.api(what, body.dump(-1, ' ', false, Json::error_handler_t::replace), kOrderedTryLimit,
                guarded([](Core& core, Result<std::string> text) {
                  if (!text) return core.failed(text.error());
                  core.on_created(text.value());
                }));
}

void OrderedConsumer::Core::on_created(const std::string& text) {
  auto json = Json::parse(text, nullptr, false);
  created = true;
  heard = created_at = BootClock::now();
  const auto sent = count(json, "/delivered/consumer_seq");
  caught_up_at = sent + count(json, "/num_pending");
  if (start.kind == StartAt::Kind::time && !resume_after && sent == 0)
    resume_after = count(json, "/delivered/stream_seq");  // where that time was in the stream
  if (start.goes_on && !resume_after) resume_after = first_wanted() - 1;
  watch_heartbeats();
  watch_stalls();
  if (!std::exchange(begun, true) && handlers.begun) {
    auto mine = attempt;
    handlers.begun();
    if (ended || attempt != mine) return;
  }
  if (consumer_seq >= caught_up_at) check_caught_up(0);
}

void OrderedConsumer::Core::on_message(Message message) {
  heard = BootClock::now();
  if (created && heard - created_at >= kSound) backoff = kOrderedFirstBackoff;
  if (message.status != 0) return on_control(message);
  auto place = delivery_place_from(message.reply);
  if (!place) return;                                                // not from JetStream
  if (place->consumer_sequence != consumer_seq + 1) return again();  // a gap
  consumer_seq = place->consumer_sequence;
  // A replica that lags may begin earlier than it was asked to.
  if (!resume_after || place->stream_sequence > *resume_after) {
    resume_after = delivered = place->stream_sequence;
    StoredMessage stored;
    stored.subject = std::move(message.subject);
    stored.sequence = place->stream_sequence;
    stored.time_ns = place->time_ns;
    stored.data = std::move(message.data);
    stored.headers = std::move(message.headers);
    stored.pending = place->pending;
    auto mine = attempt;
    if (handlers.message) handlers.message(std::move(stored));
    if (ended || attempt != mine) return;
  }
  check_caught_up(place->pending);
}

void OrderedConsumer::Core::on_control(const Message& message) {
  if (message.status != 100)
    return again();  // 409: the consumer was deleted, or its server is going
  auto answer = [&](const std::string& to) {
    Message credit;
    credit.subject = to;
    jetstream.connection().publish(credit);
  };
  if (!message.reply.empty()) return answer(message.reply);  // flow control
  auto stalled = message.header("Nats-Consumer-Stalled");
  if (!stalled.empty()) answer(std::string(stalled));
  if (auto last = message.header("Nats-Last-Consumer"); !last.empty()) {
    if (number(last) != consumer_seq) return again();
    if (stalled.empty()) check_caught_up(0);
  }
}

// `pending` messages are known to wait behind those that have come.
void OrderedConsumer::Core::check_caught_up(std::uint64_t pending) {
  if (caught_up || !(pending == 0 || (created && consumer_seq >= caught_up_at))) return;
  caught_up = true;
  // Nothing was there: whatever is there later is new, also when the first of it comes after a gap.
  const bool from_the_start =
      start.kind == StartAt::Kind::all || start.kind == StartAt::Kind::last_per_subject;
  if (!resume_after && from_the_start) resume_after = 0;
  if (handlers.caught_up) handlers.caught_up();
}

void OrderedConsumer::Core::watch_heartbeats() {
  timer = jetstream.connection().loop().at(
      heard + 2 * kOrderedHeartbeat + milliseconds(500), guarded([](Core& core) {
        if (BootClock::now() < core.heard + 2 * kOrderedHeartbeat) return core.watch_heartbeats();
        core.again();
      }));
}

// A consumer lives on one of the stream's servers, and delivers what that one has. One that was
// killed and is behind may never deliver again, while its heartbeats go on (seen with nats-server
// 2.10.27): the stream's leader knows better.
void OrderedConsumer::Core::watch_stalls() {
  stall_timer =
      jetstream.connection().loop().after(kIdle, guarded([seen = consumer_seq](Core& core) {
                                            if (core.consumer_seq == seen) core.ask_for_more();
                                            core.watch_stalls();
                                          }));
}

void OrderedConsumer::Core::ask_for_more() {
  const auto all = filters.empty() ? std::vector<std::string>{">"} : filters;
  for (const auto& filter : all)
    jetstream.next_message(
        stream, filter, first_wanted(),
        guarded([seen = consumer_seq](Core& core, const Result<StoredMessage>& next) {
          // Without an answer it is asked again.
          if (next && core.consumer_seq == seen) core.expect_more();
        }));
}

void OrderedConsumer::Core::expect_more() {
  stall_timer =
      jetstream.connection().loop().after(kOwed, guarded([seen = consumer_seq](Core& core) {
                                            if (core.consumer_seq == seen) return core.again();
                                            core.watch_stalls();
                                          }));
}

void OrderedConsumer::Core::failed(const Error& error) {
  drop();
  retry();
  if (handlers.trouble) handlers.trouble(error);
}

OrderedConsumer::OrderedConsumer(JetStream& jetstream, std::string stream,
                                 std::vector<std::string> filters, StartAt start, Handlers handlers)
    : core_(std::make_shared<Core>(jetstream, std::move(stream), std::move(filters), start,
                                   std::move(handlers))) {
  jetstream.connection().on_state(core_,
                                  [core = core_.get()](ConnectionState state, const std::string&) {
                                    if (core->ended) return;
                                    if (state == ConnectionState::connected) {
                                      core->begin();
                                    } else {
                                      core->drop();
                                    }
                                  });
  // Not from within the constructor: its caller has nothing to hold on to yet.
  jetstream.connection().defer([weak = std::weak_ptr(core_)] {
    auto core = weak.lock();
    if (core && !core->ended && core->attempt == 0) core->begin();
  });
}

OrderedConsumer::~OrderedConsumer() {
  core_->ended = true;
  core_->drop();
}

void OrderedConsumer::pause() {
  core_->paused = true;
  core_->drop();
}

void OrderedConsumer::resume() {
  if (std::exchange(core_->paused, false)) core_->begin();
}

std::uint64_t OrderedConsumer::last_sequence() const noexcept { return core_->delivered; }

}  // namespace cluster::nats
