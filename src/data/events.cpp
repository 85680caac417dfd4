// The public face of events.
#include "cluster/events.h"

#include <utility>

#include "data/event_bus.h"
#include "data/event_subscription.h"

namespace cluster {

PublishedEvent Events::publish(std::string_view subject, std::string_view payload,
                               const PublishOptions& options) {
  return bus_->publish(app_, subject, payload, options);
}

EventSubscription Events::subscribe(std::string_view pattern,
                                    std::function<void(const Event&)> handler,
                                    SubscribeOptions options) {
  return EventSubscription(bus_->subscribe(app_, pattern, std::move(handler), std::move(options)));
}

bool Events::remove_durable(std::string_view name, Timeout timeout) {
  return bus_->remove_durable(app_, name, timeout);
}

EventSubscription& EventSubscription::operator=(EventSubscription&& other) noexcept {
  std::swap(core_, other.core_);
  return *this;
}

EventSubscription::~EventSubscription() {
  if (core_) core_->end();
}

EventCounts EventSubscription::counts() const { return core_ ? core_->counts() : EventCounts{}; }

}  // namespace cluster
