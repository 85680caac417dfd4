#include "data/event_subscription.h"

#include <algorithm>
#include <future>
#include <utility>

#include "core/log.h"
#include "core/thrown_by.h"
#include "core/wall_time.h"

namespace cluster {
namespace {

constexpr Duration kLongestGoodbye = std::chrono::seconds(1);
constexpr auto kThreadRetry = std::chrono::milliseconds(100);

// It will be the same when it is tried again.
bool for_good(const Error& error) {
  return error.errc() == Errc::invalid_argument || error.errc() == Errc::incompatible ||
         error.errc() == Errc::permission_denied;
}

}  // namespace

EventSubscription::Core::Core(std::shared_ptr<EventBus> bus, Wanted wanted,
                              std::unique_ptr<Strand> strand)
    : bus_(std::move(bus)), wanted_(std::move(wanted)), strand_(std::move(strand)) {}

void EventSubscription::Core::begin(Completion begun) {
  begun_ = std::move(begun);
  if (!ended() && bus_->jetstream()) attach(*bus_->jetstream());
}

void EventSubscription::Core::halt() {
  detach();
  if (auto begun = std::exchange(begun_, {}))
    begun(Error(Errc::shutting_down, "the platform has stopped"));
}

void EventSubscription::Core::end() {
  runs_.end();
  // What is published from now on is not to go where nobody listens any more: the server has to
  // know.
  const auto known = std::make_shared<std::promise<void>>();
  const auto future = known->get_future();
  const bool posted = bus_->gate().post([self = self(), known] {
    self->begun_ = {};
    self->halt();
    self->bus_->forget(self.get());
    auto* jetstream = self->bus_->jetstream();
    if (!jetstream) return known->set_value();
    jetstream->connection().flush(kLongestGoodbye, [known](const Failure&) { known->set_value(); });
  });
  if (posted) future.wait_for(kLongestGoodbye);
}

EventCounts EventSubscription::Core::counts() const {
  return {handled_.load(), failed_.load(), dead_.load(), interrupted_.load(), gaps_.load()};
}

std::string EventSubscription::Core::title() const {
  return "subscription to events \"" + wanted_.pattern + "\"" +
         (wanted_.options.durable.empty() ? "" : " (durable " + wanted_.options.durable + ")");
}

nats::StartAt EventSubscription::Core::start_at() const {
  using Kind = nats::StartAt::Kind;
  nats::StartAt start{Kind::new_only, 0};
  if (std::holds_alternative<AllEvents>(wanted_.options.from)) start.kind = Kind::all;
  if (const auto* from = std::get_if<EventsFromSequence>(&wanted_.options.from)) {
    start.kind = Kind::sequence;
    start.sequence = from->sequence;
  }
  if (const auto* from = std::get_if<EventsFromTime>(&wanted_.options.from)) {
    start.kind = Kind::time;
    start.time_ns = wall_ns_from(from->time);
  }
  return start;
}

std::optional<Event> EventSubscription::Core::event_from(nats::StoredMessage message) const {
  auto place = event_place(bus_->platform(), message.subject);
  if (!place) return std::nullopt;
  if (place->subject.starts_with('_') && !wants_reserved(wanted_.pattern)) return std::nullopt;
  Event event;
  event.subject = std::move(place->subject);
  event.app = std::move(place->app);
  event.payload = std::move(message.data);
  for (auto& header : message.headers)
    if (header.first == "Nats-Msg-Id")
      event.id = std::move(header.second);
    else
      event.headers.push_back(std::move(header));
  event.sequence = message.sequence;
  event.time = wall_time_from(std::chrono::nanoseconds(message.time_ns));
  return event;
}

EventSubscription::Core::Outcome EventSubscription::Core::call(const Event& event,
                                                               std::string* why) {
  Outcome outcome = Outcome::ended;
  runs_.run([&] {
    auto thrown = thrown_by([&] { wanted_.handler(event); });
    if (!thrown) {
      outcome = Outcome::returned;
      ++handled_;
      return;
    }
    outcome = Outcome::threw;
    ++failed_;
    *why = std::move(*thrown);
    log::error("event_handler_threw", {{"subject", event.subject},
                                       {"app", event.app},
                                       {"sequence", event.sequence},
                                       {"delivery", event.deliveries},
                                       {"why", *why}});
  });
  return outcome;
}

void EventSubscription::Core::has_begun() {
  if (auto begun = std::exchange(begun_, {})) begun(std::nullopt);
}

void EventSubscription::Core::trouble(const Error& error) {
  if (begun_ && for_good(error)) return std::exchange(begun_, {})(error);
  const auto kept_back = told_.tell(error.what(), BootClock::now());
  if (!kept_back) return;
  log::warn("events_trouble",
            {{"pattern", wanted_.pattern}, {"why", error.what()}, {"repeated", *kept_back}});
  tell(error);
}

void EventSubscription::Core::tell(const Error& error) {
  if (!wanted_.options.on_trouble) return;
  const bool queued = strand_->post([self = self(), error] {
    self->runs_.run([&] {
      if (const auto thrown = thrown_by([&] { self->wanted_.options.on_trouble(error); }))
        log::error("hook_threw", {{"hook", "on_trouble"}, {"why", *thrown}});
    });
  });
  if (!queued) log::error("events_trouble_untold", {{"why", error.what()}});
}

// ---- each once, in order

void OrderedEvents::attach(nats::JetStream& jetstream) {
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](nats::StoredMessage message) { take(std::move(message)); };
  handlers.begun = [this] { has_begun(); };
  handlers.trouble = [this](const Error& error) { trouble(error); };
  const auto gap = [this](const std::string& text) {
    ++gaps_;
    trouble(Error(Errc::not_found, title() + ": events may have been missed: " + text));
  };
  handlers.rewound = [gap](std::uint64_t delivered, std::uint64_t last) {
    gap("the stream has lost its end, or was made anew: event " + std::to_string(delivered) +
        " was there, now it ends with " + std::to_string(last));
  };
  handlers.trimmed = [gap](std::uint64_t delivered, std::uint64_t first) {
    gap("those between " + std::to_string(delivered) + " and " + std::to_string(first) +
        " have passed the limits of the stream before they were read");
  };
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream, bus_->stream(), std::vector{wanted_.filter}, start_at(), std::move(handlers));
}

void OrderedEvents::detach() {
  consumer_.reset();
  later_.reset();
}

void OrderedEvents::take(nats::StoredMessage message) {
  const std::size_t bytes = message.data.size();
  auto event = event_from(std::move(message));
  if (!event || ended()) return;
  bool pause = false;
  {
    const std::lock_guard lock(queue_mutex_);
    queue_.push_back(std::move(*event));
    queued_bytes_ += bytes;
    if (queue_.size() >= kMostQueued || queued_bytes_ >= kMostQueuedBytes)
      pause = !std::exchange(full_, true);
  }
  if (pause) {
    ++interrupted_;
    consumer_->pause();
    trouble(Error(Errc::overloaded, title() +
                                        ": its handler is slower than events come: reading is "
                                        "taken up again when it has caught up; none is missed"));
  }
  schedule();
}

// On the loop.
void OrderedEvents::schedule() {
  {
    const std::lock_guard lock(queue_mutex_);
    if (queue_.empty() || std::exchange(scheduled_, true)) return;
  }
  const auto me = std::static_pointer_cast<OrderedEvents>(self());
  if (strand_->post([me] { me->drain(); })) return;
  {
    const std::lock_guard lock(queue_mutex_);
    scheduled_ = false;
  }
  // The system gives no thread.
  bus_->gate().post([me] {
    if (!me->consumer_ || !me->bus_->jetstream()) return;
    me->later_ = me->bus_->jetstream()->connection().loop().after(
        kThreadRetry, [raw = me.get()] { raw->schedule(); });
  });
}

void OrderedEvents::drain() {
  std::unique_lock lock(queue_mutex_);
  while (!queue_.empty()) {
    const Event event = std::move(queue_.front());
    queue_.pop_front();
    queued_bytes_ -= event.payload.size();
    const bool low = queue_.size() <= kMostQueued / 2 && queued_bytes_ <= kMostQueuedBytes / 2;
    if (full_ && low) {
      full_ = false;
      resume();
    }
    lock.unlock();
    std::string why;
    const bool over = call(event, &why) == Outcome::ended;
    lock.lock();
    if (over) queue_.clear();
  }
  scheduled_ = false;
}

void OrderedEvents::resume() {
  bus_->gate().post([me = std::static_pointer_cast<OrderedEvents>(self())] {
    if (me->consumer_) me->consumer_->resume();
  });
}

}  // namespace cluster
