// Durable subscriptions: what is delivered is handled, acknowledged, tried again, or given up.
#include <algorithm>
#include <cctype>
#include <utility>

#include "core/log.h"
#include "data/event_subscription.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

constexpr std::size_t kLongestReason = 512;

// As the value of a header.
std::string header_text(std::string text) {
  if (text.size() > kLongestReason) text.resize(kLongestReason);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return text;
}

}  // namespace

DurableEvents::DurableEvents(std::shared_ptr<EventBus> bus, Wanted wanted,
                             std::unique_ptr<Strand> strand,
                             std::vector<std::unique_ptr<Strand>> strands)
    : Core(std::move(bus), std::move(wanted), std::move(strand)), strands_(std::move(strands)) {}

std::string DurableEvents::consumer_name(const std::string& app, std::string_view durable) {
  return app + "_" + std::string(durable);
}

void DurableEvents::attach(nats::JetStream& jetstream) {
  const SubscribeOptions& options = wanted_.options;
  nats::DurableConfig config;
  config.stream = bus_->stream();
  config.name = consumer_name(wanted_.app, options.durable);
  config.description = "cpp-cluster: durable subscription " + options.durable;
  config.filter = wanted_.filter;
  config.ack_wait = options.ack_wait;
  config.max_ack_pending = options.max_in_flight;
  config.start = start_at();
  nats::DurableConsumer::Handlers handlers;
  handlers.message = [this](nats::Delivery delivery) { take(std::move(delivery)); };
  handlers.begun = [this] { has_begun(); };
  handlers.removed = [this] {
    trouble(Error(Errc::not_found, title() + ": it was removed, and gets nothing any more"));
  };
  handlers.trouble = [this](const Error& error) { trouble(error); };
  auto& loop = jetstream.connection().loop();
  consumer_ = std::make_unique<nats::DurableConsumer>(jetstream, config, std::move(handlers));
  consumer_->set_ready(options.concurrency);
  life_ = loop.every(options.ack_wait / 3, [this] { sign_of_life(); });
}

void DurableEvents::detach() {
  life_.reset();
  consumer_.reset();
}

// As long as handlers run, nobody else is to have their events.
void DurableEvents::sign_of_life() {
  for (const auto& [slot, reply] : busy_) consumer_->keep(reply);
}

void DurableEvents::take(nats::Delivery delivery) {
  auto event = event_from(delivery.message);
  if (!event) {
    consumer_->acknowledge(delivery);
    return consumer_->set_ready(wanted_.options.concurrency - static_cast<int>(busy_.size()));
  }
  event->deliveries = delivery.deliveries;
  std::size_t slot = 0;
  while (busy_.contains(slot)) ++slot;
  busy_[slot] = delivery.reply;
  // Its last try did not end: it may be what ends this process.
  if (delivery.deliveries > static_cast<std::uint64_t>(wanted_.options.max_deliver))
    return give_up(slot, std::move(delivery), "its handler never returned");
  const auto me = std::static_pointer_cast<DurableEvents>(self());
  const auto shared = std::make_shared<nats::Delivery>(std::move(delivery));
  const bool posted = strands_[slot]->post([me, slot, shared, event = std::move(*event)] {
    std::string why;
    const Outcome outcome = me->call(event, &why);
    me->bus_->gate().post([me, slot, shared, outcome, why] {
      if (me->consumer_) me->settle(slot, std::move(*shared), outcome, why);
    });
  });
  if (posted) return;
  consumer_->refuse(*shared, wanted_.options.backoff_min);
  trouble(Error(Errc::system, title() + ": the system gives no thread for its handler"));
  free(slot);
}

void DurableEvents::settle(std::size_t slot, nats::Delivery delivery, Outcome outcome,
                           const std::string& why) {
  if (outcome == Outcome::threw &&
      delivery.deliveries >= static_cast<std::uint64_t>(wanted_.options.max_deliver))
    return give_up(slot, std::move(delivery), why);
  switch (outcome) {
    case Outcome::returned: consumer_->acknowledge(delivery); break;
    case Outcome::threw: consumer_->refuse(delivery, backoff(delivery.deliveries)); break;
    case Outcome::ended: consumer_->refuse(delivery, Duration(0)); break;
  }
  free(slot);
}

Duration DurableEvents::backoff(std::uint64_t deliveries) const {
  Duration wait = wanted_.options.backoff_min;
  for (std::uint64_t i = 1; i < deliveries && wait < wanted_.options.backoff_max; ++i) wait *= 2;
  return std::min<Duration>(wait, wanted_.options.backoff_max);
}

void DurableEvents::free(std::size_t slot) {
  busy_.erase(slot);
  consumer_->set_ready(wanted_.options.concurrency - static_cast<int>(busy_.size()));
}

nats::Message DurableEvents::dead_letter(const nats::Delivery& delivery,
                                         const std::string& why) const {
  const auto& message = delivery.message;
  const auto place = event_place(bus_->platform(), message.subject);
  nats::Message dead;
  dead.subject = event_subject(bus_->platform(), wanted_.app,
                               dead_subject(wanted_.options.durable, place->subject));
  dead.data = message.data;
  for (const auto& header : message.headers)
    if (!header.first.starts_with("Nats-") && !header.first.starts_with("Cluster-"))
      dead.headers.push_back(header);
  const std::string consumer = consumer_name(wanted_.app, wanted_.options.durable);
  const std::string sequence = std::to_string(message.sequence);
  dead.headers.insert(dead.headers.end(),
                      {{"Nats-Msg-Id", "_dead/" + consumer + "/" + sequence},
                       {"Cluster-Dead-App", place->app},
                       {"Cluster-Dead-Reason", header_text(why)},
                       {"Cluster-Dead-Deliveries", std::to_string(delivery.deliveries)},
                       {"Cluster-Dead-Sequence", sequence},
                       {"Cluster-Dead-Id", std::string(message.header("Nats-Msg-Id"))},
                       {"Cluster-Dead-Time", nats::rfc3339_from(message.time_ns)}});
  return dead;
}

void DurableEvents::give_up(std::size_t slot, nats::Delivery delivery, const std::string& why) {
  if (wanted_.options.dead_letter) {
    auto dead = dead_letter(delivery, why);
    return publish_dead(slot, std::make_shared<nats::Delivery>(std::move(delivery)),
                        std::move(dead), why);
  }
  ++dead_;
  log::error("event_given_up", {{"durable", wanted_.options.durable},
                                {"subject", delivery.message.subject},
                                {"sequence", delivery.message.sequence},
                                {"why", why}});
  consumer_->give_up(delivery);
  free(slot);
}

// Only once JetStream has the dead letter is the event done with. Its id is the same each time.
void DurableEvents::publish_dead(std::size_t slot, const std::shared_ptr<nats::Delivery>& delivery,
                                 nats::Message dead, const std::string& why) {
  const auto me = std::static_pointer_cast<DurableEvents>(self());
  bus_->jetstream()->publish(
      dead, {}, [me, slot, delivery, dead, why](const Result<nats::PubAck>& stored) mutable {
        if (!me->consumer_) return;
        if (!stored && stored.error().errc() == Errc::invalid_argument && !dead.data.empty()) {
          // Its new headers make it too large: the event itself stays where it is.
          dead.data.clear();
          dead.headers.emplace_back("Cluster-Dead-Omitted", "payload");
          return me->publish_dead(slot, delivery, std::move(dead), why);
        }
        if (!stored) {
          me->trouble(
              Error(stored.error().errc(),
                    me->title() + ": a dead letter can't be stored: " + stored.error().what()));
          me->consumer_->refuse(*delivery, me->wanted_.options.backoff_max);
          return me->free(slot);
        }
        ++me->dead_;
        log::error("event_dead", {{"durable", me->wanted_.options.durable},
                                  {"subject", delivery->message.subject},
                                  {"sequence", delivery->message.sequence},
                                  {"deliveries", delivery->deliveries},
                                  {"why", why}});
        me->consumer_->give_up(*delivery);
        me->free(slot);
      });
}

}  // namespace cluster
