#include "ops/audit_subscription.h"

#include <future>
#include <utility>

#include "core/log.h"
#include "core/thrown_by.h"

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

AuditSubscription::Core::Core(std::shared_ptr<AuditTrail> trail, AuditFilter filter,
                              std::function<void(const AuditEntry&)> handler,
                              std::function<void(const Error&)> on_trouble,
                              std::unique_ptr<Strand> strand)
    : trail_(std::move(trail)),
      filter_(std::move(filter)),
      handler_(std::move(handler)),
      on_trouble_(std::move(on_trouble)),
      strand_(std::move(strand)) {}

void AuditSubscription::Core::begin(Completion begun) {
  begun_ = std::move(begun);
  nats::StartAt start{nats::StartAt::Kind::new_only, 0};
  if (filter_.since) {
    start.kind = nats::StartAt::Kind::time;
    start.time_ns = stored_since_ns(*filter_.since);
  }
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](const nats::StoredMessage& message) { take(message); };
  handlers.begun = [this] {
    if (auto told = std::exchange(begun_, {})) told(std::nullopt);
  };
  handlers.trouble = [this](const Error& error) { trouble(error); };
  handlers.rewound = [this](std::uint64_t delivered, std::uint64_t last) {
    gap("the stream has lost its end, or was made anew: entry " + std::to_string(delivered) +
        " was there, now it ends with " + std::to_string(last));
  };
  handlers.trimmed = [this](std::uint64_t delivered, std::uint64_t first) {
    gap("those between " + std::to_string(delivered) + " and " + std::to_string(first) +
        " were too old, or too many, before they were read");
  };
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      *trail_->jetstream(), trail_->stream(),
      std::vector{audit_subject(trail_->platform(), filter_)}, start, std::move(handlers));
}

void AuditSubscription::Core::halt() {
  consumer_.reset();
  later_.reset();
  if (auto begun = std::exchange(begun_, {}))
    begun(Error(Errc::shutting_down, "the platform has stopped"));
}

void AuditSubscription::Core::end() {
  runs_.end();
  const auto known = std::make_shared<std::promise<void>>();
  const auto future = known->get_future();
  const bool posted = trail_->gate().post([self = shared_from_this(), known] {
    self->begun_ = {};
    self->halt();
    self->trail_->forget(self.get());
    known->set_value();
  });
  if (posted) future.wait_for(kLongestGoodbye);
}

AuditCounts AuditSubscription::Core::counts() const {
  return {handled_.load(), failed_.load(), interrupted_.load(), gaps_.load()};
}

// ---- the loop's side

void AuditSubscription::Core::take(const nats::StoredMessage& message) {
  auto entry = audit_entry_from(message);
  if (!entry || !fits(*entry, filter_) || runs_.ended()) return;
  bool pause = false;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(*entry));
    if (queue_.size() >= kMostQueued) pause = !std::exchange(full_, true);
  }
  if (pause) {
    ++interrupted_;
    consumer_->pause();
    trouble(Error(Errc::overloaded,
                  "subscription to the audit log: its handler is slower than entries come: reading "
                  "is taken up again when it has caught up; none is missed"));
  }
  schedule();
}

void AuditSubscription::Core::schedule() {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.empty() || std::exchange(scheduled_, true)) return;
  }
  if (strand_->post([self = shared_from_this()] { self->drain(); })) return;
  // The system gives no thread.
  {
    const std::lock_guard lock(mutex_);
    scheduled_ = false;
  }
  if (auto* jetstream = trail_->jetstream())
    later_ = jetstream->connection().loop().after(kThreadRetry, [this] { schedule(); });
}

void AuditSubscription::Core::gap(const std::string& text) {
  ++gaps_;
  trouble(Error(Errc::not_found,
                "subscription to the audit log: entries may have been missed: " + text));
}

void AuditSubscription::Core::trouble(const Error& error) {
  if (begun_ && for_good(error)) return std::exchange(begun_, {})(error);
  const auto kept_back = told_.tell(error.what(), BootClock::now());
  if (!kept_back) return;
  log::warn("audit_follow_trouble", {{"why", error.what()}, {"repeated", *kept_back}});
  if (!on_trouble_) return;
  const bool queued = strand_->post([self = shared_from_this(), error] {
    self->runs_.run([&] { call("on_trouble", [&] { self->on_trouble_(error); }); });
  });
  if (!queued) log::error("audit_follow_trouble_untold", {{"why", error.what()}});
}

// ---- the strand's

void AuditSubscription::Core::drain() {
  std::unique_lock lock(mutex_);
  while (!queue_.empty()) {
    const AuditEntry entry = std::move(queue_.front());
    queue_.pop_front();
    if (full_ && queue_.size() <= kMostQueued / 2) {
      full_ = false;
      trail_->gate().post([self = shared_from_this()] {
        if (self->consumer_) self->consumer_->resume();
      });
    }
    lock.unlock();
    const bool on =
        runs_.run([&] { ++(call("handler", [&] { handler_(entry); }) ? handled_ : failed_); });
    lock.lock();
    if (!on) queue_.clear();
  }
  scheduled_ = false;
}

bool AuditSubscription::Core::call(const char* what, const std::function<void()>& work) {
  const auto thrown = thrown_by(work);
  if (thrown) log::error("audit_follow_threw", {{"hook", what}, {"why", *thrown}});
  return !thrown;
}

}  // namespace cluster
