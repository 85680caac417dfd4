// Subscriptions to events: a consumer on the loop, and strands on which the handler runs.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cluster/events.h"
#include "core/handler_runs.h"
#include "core/repeat_limit.h"
#include "core/strand.h"
#include "data/event_bus.h"
#include "nats/durable_consumer.h"

namespace cluster {

/// What both kinds have: their place at the bus, the handler's runs, and what they tell.
class EventSubscription::Core : public std::enable_shared_from_this<EventSubscription::Core> {
 public:
  struct Wanted {
    std::string app{};      ///< whose subscription it is; `_`: the platform's
    std::string pattern{};  ///< of subjects as users write them
    std::string filter{};   ///< of the stream's subjects
    std::function<void(const Event&)> handler{};
    SubscribeOptions options{};
  };
  Core(std::shared_ptr<EventBus> bus, Wanted wanted, std::unique_ptr<Strand> strand);
  virtual ~Core() = default;

  /// On the loop. `begun` is told once, when JetStream has it, or can't have it.
  void begin(Completion begun);
  /// On the loop: nothing comes any more. Idempotent.
  void halt();
  /// Of the owner: no handler runs any more when it returns, but the one that calls this.
  void end();
  EventCounts counts() const;

 protected:
  virtual void attach(nats::JetStream& jetstream) = 0;
  virtual void detach() = 0;

  nats::StartAt start_at() const;
  std::string title() const;
  /// The stored message as its subscribers see it; nothing for what they do not.
  std::optional<Event> event_from(nats::StoredMessage message) const;
  /// Calls the handler, unless the subscription has ended; what it throws, as text.
  enum class Outcome { returned, threw, ended };
  Outcome call(const Event& event, std::string* why);
  bool ended() const { return runs_.ended(); }
  /// Of the loop.
  void has_begun();
  void trouble(const Error& error);
  void tell(const Error& error);  ///< to on_trouble, on the strand
  std::shared_ptr<Core> self() { return shared_from_this(); }

  const std::shared_ptr<EventBus> bus_;
  const Wanted wanted_;
  const std::unique_ptr<Strand> strand_;
  std::atomic<std::uint64_t> handled_{0}, failed_{0}, dead_{0}, interrupted_{0}, gaps_{0};

 private:
  Completion begun_;  // of the loop, until it was told
  RepeatLimit told_{std::chrono::seconds(5)};
  HandlerRuns runs_;
};

/// Each event once and in order, as long as it lives. A bounded number waits for the handler; when
/// there are more, reading ends, and is taken up again behind the last of them.
class OrderedEvents final : public EventSubscription::Core {
 public:
  static constexpr std::size_t kMostQueued = 1'000;
  static constexpr std::size_t kMostQueuedBytes = std::size_t{16} << 20;

  using Core::Core;

 private:
  void attach(nats::JetStream& jetstream) override;
  void detach() override;
  void take(nats::StoredMessage message);
  void schedule();
  void drain();
  void resume();

  std::unique_ptr<nats::OrderedConsumer> consumer_;  // of the loop, as the timer
  LoopSource later_;
  std::mutex queue_mutex_;  // over what follows
  std::deque<Event> queue_;
  std::size_t queued_bytes_ = 0;
  bool scheduled_ = false, full_ = false;
};

/// Shares a durable consumer with others, and acknowledges what it has handled.
class DurableEvents final : public EventSubscription::Core {
 public:
  /// `strands`: as many as handlers may run at a time.
  DurableEvents(std::shared_ptr<EventBus> bus, Wanted wanted, std::unique_ptr<Strand> strand,
                std::vector<std::unique_ptr<Strand>> strands);

  /// The consumer's name in the stream.
  static std::string consumer_name(const std::string& app, std::string_view durable);

 private:
  void attach(nats::JetStream& jetstream) override;
  void detach() override;
  void take(nats::Delivery delivery);
  void settle(std::size_t slot, nats::Delivery delivery, Outcome outcome, const std::string& why);
  void give_up(std::size_t slot, nats::Delivery delivery, const std::string& why);
  void publish_dead(std::size_t slot, const std::shared_ptr<nats::Delivery>& delivery,
                    nats::Message dead, const std::string& why);
  nats::Message dead_letter(const nats::Delivery& delivery, const std::string& why) const;
  void free(std::size_t slot);
  void sign_of_life();
  Duration backoff(std::uint64_t deliveries) const;

  const std::vector<std::unique_ptr<Strand>> strands_;
  // Of the loop:
  std::unique_ptr<nats::DurableConsumer> consumer_;
  std::map<std::size_t, std::string> busy_;  // strand → where to acknowledge
  LoopSource life_;
};

}  // namespace cluster
