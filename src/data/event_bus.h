// The events of a platform for threads that block: publishing goes over an Exchange, subscriptions
// over consumers on the loop. May outlive its platform, and then answers that it has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "cluster/events.h"
#include "cluster/options.h"
#include "core/loop_gate.h"
#include "core/opening.h"
#include "core/strand.h"
#include "data/event_subject.h"
#include "nats/blocking_jetstream.h"

namespace cluster {

class EventBus : public std::enable_shared_from_this<EventBus> {
 public:
  using Milliseconds = std::chrono::milliseconds;
  struct Options {
    std::string platform{};
    EventsOptions events{};
    bool keeps_limits = true;  ///< a stream that is there is changed to the limits in `events`
  };

  EventBus(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
           Options options);
  ~EventBus();

  // Of the loop.

  /// NATS can be used; replicas of the stream where this node makes it.
  void open(nats::JetStream& jetstream, int replicas);
  /// It can't any more: subscriptions are over.
  void close();

  // Of any other thread: what Events promises. `app`: `_` for the platform.

  PublishedEvent publish(const std::string& app, std::string_view subject, std::string_view payload,
                         const PublishOptions& options);
  std::shared_ptr<EventSubscription::Core> subscribe(const std::string& app,
                                                     std::string_view pattern,
                                                     std::function<void(const Event&)> handler,
                                                     SubscribeOptions options);
  bool remove_durable(const std::string& app, std::string_view name, Milliseconds timeout);

  // For subscriptions.

  const std::string& platform() const noexcept { return options_.platform; }
  std::string stream() const { return options_.platform + "_events"; }
  LoopGate& gate() noexcept { return gate_; }
  /// On the loop; null once it is closed.
  nats::JetStream* jetstream() const noexcept { return on_loop_; }
  /// On the loop: it is over.
  void forget(EventSubscription::Core* core);

 private:
  /// The stream is there, with our limits; once. Throws unavailable and what JetStream says.
  void ensure_stream(Time deadline);
  Failure make_stream(Duration limit);
  Failure change_limits(const std::string& info, Duration limit);

  LoopGate gate_;
  StrandPool& strands_;  // of the loop: it goes with the platform
  const nats::BlockingJetStream jetstream_;
  const Options options_;
  const std::string writer_;  // of ids
  std::atomic<std::uint64_t> last_id_{0};
  std::atomic<int> replicas_{0};
  std::atomic<bool> stream_made_{false};

  Opening opening_;

  // Of the loop:
  nats::JetStream* on_loop_ = nullptr;
  std::set<std::shared_ptr<EventSubscription::Core>> subscriptions_;
};

}  // namespace cluster
