#include "data/event_bus.h"

#include <algorithm>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/deadline.h"
#include "core/ids.h"
#include "core/log.h"
#include "data/event_subscription.h"
#include "nats/jetstream_messages.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kFirstRetry{20};
constexpr milliseconds kLastRetry{500};
constexpr milliseconds kTryLimit{2'000};  // of one sending

// Whether it was stored is open.
bool is_open(const Error& error) {
  return error.errc() == Errc::timeout || error.errc() == Errc::unknown_outcome;
}

void check_headers(const EventHeaders& headers) {
  for (const auto& [name, value] : headers)
    if (name.starts_with("Nats-") || name.starts_with("Cluster-"))
      throw Error(Errc::invalid_argument,
                  "header \"" + name + "\": names that begin so are kept for NATS and cpp-cluster");
}

void check_subscription(const std::string& what, std::string_view pattern,
                        const SubscribeOptions& o) {
  const auto check = [&](bool fine, const std::string& fault) {
    if (!fine) throw Error(Errc::invalid_argument, what + ": " + fault);
  };
  if (auto fault = event_pattern_fault(pattern); !fault.empty()) check(false, fault);
  if (auto fault = event_source_fault(o.app); !fault.empty())
    check(false, "app \"" + o.app + "\": " + fault);
  if (o.durable.empty()) return;
  if (auto fault = durable_name_fault(o.durable); !fault.empty()) check(false, fault);
  check(o.ack_wait >= std::chrono::seconds(1) && o.ack_wait <= std::chrono::hours(1),
        "ack_wait is not from 1 s to 1 h");
  check(o.max_deliver >= 1 && o.max_deliver <= 1'000, "max_deliver is not from 1 to 1000");
  check(o.max_in_flight >= 1 && o.max_in_flight <= 100'000,
        "max_in_flight is not from 1 to 100000");
  check(o.concurrency >= 1 && o.concurrency <= 64, "concurrency is not from 1 to 64");
  check(o.backoff_min >= milliseconds(1) && o.backoff_max >= o.backoff_min &&
            o.backoff_max <= std::chrono::hours(24),
        "backoff_min and backoff_max are not from 1 ms to 24 h, the lower one first");
  check(!o.dead_letter || !fits_dead_of(pattern, o.durable),
        "it would get its own dead letters: name another durable, or set dead_letter to false");
}

}  // namespace

EventBus::EventBus(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
                   Options options)
    : gate_(loop),
      strands_(strands),
      jetstream_(std::move(exchange)),
      options_(std::move(options)),
      writer_(random_id()) {}

EventBus::~EventBus() = default;

// ---- the loop's side

void EventBus::open(nats::JetStream& jetstream, int replicas) {
  on_loop_ = &jetstream;
  replicas_.store(replicas);
  opening_.open();
}

void EventBus::close() {
  gate_.close();
  on_loop_ = nullptr;
  for (const auto& core : std::exchange(subscriptions_, {})) core->halt();
  opening_.close();
}

void EventBus::forget(EventSubscription::Core* core) {
  std::erase_if(subscriptions_, [core](const auto& one) { return one.get() == core; });
}

// ---- of other threads

Failure EventBus::make_stream(Duration limit) {
  nats::StreamConfig config;
  config.name = stream();
  config.description = "cpp-cluster: events of platform " + options_.platform;
  config.subjects = {options_.platform + ".*.events.>"};
  config.replicas = std::max(1, replicas_.load());
  config.max_age = options_.events.max_age;
  config.max_bytes = options_.events.max_bytes == 0 ? -1 : options_.events.max_bytes;
  config.max_msg_size =
      options_.events.max_message_size == 0 ? -1 : options_.events.max_message_size;
  config.duplicate_window = options_.events.duplicate_window;
  config.allow_direct = true;
  auto made = jetstream_.ensure_stream(config, limit);
  return made ? Failure() : Failure(made.error());
}

// What others have set of it stays.
Failure EventBus::change_limits(const std::string& info, Duration limit) {
  const auto json = Json::parse(info, nullptr, false);
  if (!json.is_object() || !json.contains("config"))
    return Error(Errc::incompatible, "stream \"" + stream() + "\": its description can't be read");
  Json config = json["config"];
  const auto& events = options_.events;
  config["max_age"] = nanoseconds(events.max_age).count();
  config["max_bytes"] = events.max_bytes == 0 ? -1 : events.max_bytes;
  config["max_msg_size"] = events.max_message_size == 0 ? -1 : events.max_message_size;
  config["duplicate_window"] = nanoseconds(events.duplicate_window).count();
  if (config == json["config"]) return std::nullopt;
  auto changed = jetstream_.api("STREAM.UPDATE." + stream(), config.dump(), limit);
  if (!changed) return changed.error();
  log::info("events_limits_changed", {{"stream", stream()}});
  return std::nullopt;
}

void EventBus::ensure_stream(Time deadline) {
  Duration pause = kFirstRetry;
  while (!stream_made_.load()) {
    const Duration limit = std::min<Duration>(left_until(deadline), kTryLimit);
    auto info = jetstream_.api("STREAM.INFO." + stream(), "", limit);
    Failure failure;
    if (!info && info.error().errc() == Errc::not_found)
      failure = make_stream(limit);
    else if (!info)
      failure = info.error();
    else if (options_.keeps_limits)
      failure = change_limits(info.value(), limit);
    if (!failure) {
      stream_made_.store(true);
      return;
    }
    if (!is_open(*failure) && failure->errc() != Errc::unavailable) throw *failure;
    // Nothing of the user's was sent.
    if (BootClock::now() + pause >= deadline) throw Error(Errc::unavailable, failure->what());
    std::this_thread::sleep_for(pause);
    pause = std::min<Duration>(2 * pause, kLastRetry);
  }
}

PublishedEvent EventBus::publish(const std::string& app, std::string_view subject,
                                 std::string_view payload, const PublishOptions& options) {
  const std::string what = "event \"" + std::string(subject) + "\"";
  if (auto fault = event_subject_fault(subject); !fault.empty())
    throw Error(Errc::invalid_argument, what + ": " + fault);
  const std::string id =
      options.id.empty() ? writer_ + "-" + std::to_string(++last_id_) : options.id;
  if (auto fault = event_id_fault(id); !fault.empty())
    throw Error(Errc::invalid_argument, what + ": " + fault);
  check_headers(options.headers);
  gate_.check_may_block(what);
  const Time deadline = deadline_after(options.timeout);
  opening_.wait(what, deadline);
  try {
    ensure_stream(deadline);
  } catch (const Error& error) {
    // A user who may only publish need not be allowed to look.
    if (error.errc() != Errc::permission_denied) throw;
    stream_made_.store(true);
  }
  nats::Message message;
  message.subject = event_subject(options_.platform, app, subject);
  message.data = payload;
  message.headers = options.headers;
  message.headers.emplace_back("Nats-Msg-Id", id);

  std::optional<Time> sent;  // first, so that it may have been stored
  Duration pause = kFirstRetry;
  while (true) {
    const Time now = BootClock::now();
    const Duration limit = std::min<Duration>(left_until(deadline), kTryLimit);
    auto stored = jetstream_.publish(message, {}, limit);
    if (stored) return {stored.value().sequence, stored.value().duplicate, id};
    const Error& error = stored.error();
    if (is_open(error) && !sent) sent = now;
    const bool again = is_open(error) || error.errc() == Errc::unavailable;
    // Behind the window it would be stored a second time.
    const bool late =
        BootClock::now() + pause >= deadline ||
        (sent && BootClock::now() + kTryLimit >= *sent + options_.events.duplicate_window);
    if (!again || late) {
      if (!sent) throw error;
      throw Error(Errc::unknown_outcome,
                  what + " with id \"" + id +
                      "\": it was sent, and whether it is stored is unknown (" + error.what() +
                      "); publish it again with this id to be sure");
    }
    if (error.errc() == Errc::unavailable) {
      if (jetstream_.exchange().wait_connected(std::min<Duration>(left_until(deadline), pause))) {
        // Somebody may have deleted the stream.
        stream_made_.store(false);
        try {
          ensure_stream(deadline);
        } catch (const Error& cause) {
          if (cause.errc() != Errc::unavailable && cause.errc() != Errc::permission_denied) throw;
        }
      }
    }
    std::this_thread::sleep_for(std::min<Duration>(pause, left_until(deadline)));
    pause = std::min<Duration>(2 * pause, kLastRetry);
  }
}

std::shared_ptr<EventSubscription::Core> EventBus::subscribe(
    const std::string& app, std::string_view pattern, std::function<void(const Event&)> handler,
    SubscribeOptions options) {
  const std::string what = "subscription to events \"" + std::string(pattern) + "\"";
  if (options.app.empty()) options.app = app == "_" ? "*" : app;
  check_subscription(what, pattern, options);
  if (!handler) throw Error(Errc::invalid_argument, what + ": it has no handler");
  gate_.check_may_block(what);
  const Time deadline = deadline_after(options.timeout);
  opening_.wait(what, deadline);
  try {
    ensure_stream(deadline);
  } catch (const Error& error) {
    if (error.errc() != Errc::permission_denied) throw;
  }
  EventSubscription::Core::Wanted wanted{app, std::string(pattern),
                                         event_subject(options_.platform, options.app, pattern),
                                         std::move(handler), std::move(options)};
  std::shared_ptr<EventSubscription::Core> core;
  if (wanted.options.durable.empty()) {
    core =
        std::make_shared<OrderedEvents>(shared_from_this(), std::move(wanted), strands_.strand());
  } else {
    std::vector<std::unique_ptr<Strand>> strands;
    for (int i = 0; i < wanted.options.concurrency; ++i) strands.push_back(strands_.strand());
    core = std::make_shared<DurableEvents>(shared_from_this(), std::move(wanted), strands_.strand(),
                                           std::move(strands));
  }
  const auto failure = gate_.confirm(deadline, [self = shared_from_this(), core](Completion begun) {
    if (!self->on_loop_) return begun(Error(Errc::shutting_down, "the platform has stopped"));
    self->subscriptions_.insert(core);
    core->begin(std::move(begun));
  });
  if (!failure) return core;
  core->end();
  throw Error(failure->errc(), what + ": " + failure->what());
}

bool EventBus::remove_durable(const std::string& app, std::string_view name, Milliseconds timeout) {
  const std::string what = "durable subscription \"" + std::string(name) + "\"";
  if (auto fault = durable_name_fault(name); !fault.empty())
    throw Error(Errc::invalid_argument, what + ": " + fault);
  gate_.check_may_block(what);
  const Time deadline = deadline_after(timeout);
  opening_.wait(what, deadline);
  const auto removed =
      jetstream_.api("CONSUMER.DELETE." + stream() + "." + DurableEvents::consumer_name(app, name),
                     "", left_until(deadline));
  if (removed) return true;
  if (removed.error().errc() == Errc::not_found) return false;
  throw removed.error();
}

}  // namespace cluster
