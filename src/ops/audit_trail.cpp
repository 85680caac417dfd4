#include "ops/audit_trail.h"

#include <algorithm>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "core/deadline.h"
#include "core/log.h"
#include "ops/audit_query.h"
#include "ops/audit_subscription.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstTrailRetry{20};
constexpr milliseconds kLastTrailRetry{500};
constexpr milliseconds kTryLimit{2'000};  // of one request

/// With the app that is meant: none for all.
AuditFilter resolved(const std::string& what, const std::string& app, AuditFilter filter) {
  if (auto fault = audit_filter_fault(filter); !fault.empty())
    throw Error(Errc::invalid_argument, what + ": " + fault);
  if (filter.app == "*" || (filter.app.empty() && app == "_"))
    filter.app.clear();
  else if (filter.app.empty())
    filter.app = app;
  return filter;
}

}  // namespace

AuditTrail::AuditTrail(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
                       std::string platform, AuditOptions options)
    : gate_(loop),
      strands_(strands),
      jetstream_(std::move(exchange)),
      platform_(std::move(platform)),
      options_(options) {}

AuditTrail::~AuditTrail() = default;

// ---- the loop's side

void AuditTrail::open(nats::JetStream& jetstream, int replicas) {
  on_loop_ = &jetstream;
  replicas_.store(replicas);
  opening_.open();
}

void AuditTrail::close() {
  gate_.close();
  on_loop_ = nullptr;
  log_ = nullptr;
  for (const auto& core : std::exchange(subscriptions_, {})) core->halt();
  opening_.close();
}

void AuditTrail::forget(AuditSubscription::Core* core) {
  std::erase_if(subscriptions_, [core](const auto& one) { return one.get() == core; });
}

// ---- of other threads

bool AuditTrail::record(const std::string& app, std::string_view action, AuditFields fields) {
  if (auto fault = audit_record_fault(action, fields); !fault.empty())
    throw Error(Errc::invalid_argument, "audit entry: " + fault);
  auto place = AuditPlace::take(room_);
  if (!place) {
    if (room_->dropped.load() == 1)
      log::warn("audit_dropped", {{"app", app == "_" ? "" : app},
                                  {"action", action},
                                  {"why", "too many users' entries wait to be stored"}});
    return false;
  }
  AuditEntry entry{.category = kUserCategory,
                   .action = std::string(action),
                   .app = app == "_" ? "" : app,
                   .level = "info",
                   .fields = std::move(fields),
                   .time = std::chrono::system_clock::now()};
  return gate_.post([weak = weak_from_this(), entry = std::move(entry), place = std::move(place)] {
    const auto self = weak.lock();
    if (self && self->log_) self->log_->add(entry, place);
  });
}

void AuditTrail::ensure_stream(Time deadline) {
  Duration pause = kFirstTrailRetry;
  while (true) {
    const auto there =
        jetstream_.ensure_stream(audit_stream(platform_, options_, replicas_.load()),
                                 std::min<Duration>(left_until(deadline), kTryLimit));
    if (there) return;
    const Error& error = there.error();
    // Who may only listen need not be allowed to look.
    if (error.errc() == Errc::permission_denied) return;
    const bool again = error.errc() == Errc::timeout || error.errc() == Errc::unknown_outcome ||
                       error.errc() == Errc::unavailable;
    if (!again) throw error;
    if (BootClock::now() + pause >= deadline) throw Error(Errc::unavailable, error.what());
    std::this_thread::sleep_for(pause);
    pause = std::min<Duration>(2 * pause, kLastTrailRetry);
  }
}

std::vector<AuditEntry> AuditTrail::query(const std::string& app, AuditFilter filter,
                                          Milliseconds timeout) {
  const std::string what = "query of the audit log";
  filter = resolved(what, app, std::move(filter));
  gate_.check_may_block(what);
  const Time deadline = deadline_after(timeout);
  opening_.wait(what, deadline);
  using Answer = Result<std::vector<AuditEntry>>;
  const auto promise = std::make_shared<std::promise<Answer>>();
  auto future = promise->get_future();
  // Of the loop.
  const auto query = std::make_shared<std::shared_ptr<AuditQuery>>();
  const bool posted = gate_.post([self = shared_from_this(), query, filter, promise] {
    if (!self->on_loop_)
      return promise->set_value(Error(Errc::shutting_down, "the platform has stopped"));
    *query = std::make_shared<AuditQuery>(*self->on_loop_, self->platform_, filter);
    (*query)->start([promise](Answer answer) { promise->set_value(std::move(answer)); });
  });
  if (!posted) throw Error(Errc::shutting_down, what + ": the platform has stopped");
  const bool answered = future.wait_for(left_until(deadline)) == std::future_status::ready;
  // What the query holds is the loop's, also when nobody waits for it any more.
  gate_.post([query] {
    if (*query) (*query)->cancel();
    query->reset();
  });
  if (!answered)
    throw Error(Errc::timeout, what + ": not read within " + std::to_string(timeout.count()) +
                                   " ms; ask for fewer entries, or give it more time");
  auto answer = future.get();
  if (!answer) throw Error(answer.error().errc(), what + ": " + answer.error().what());
  return std::move(answer.value());
}

std::shared_ptr<AuditSubscription::Core> AuditTrail::follow(
    const std::string& app, AuditFilter filter, std::function<void(const AuditEntry&)> handler,
    AuditFollowOptions options) {
  const std::string what = "subscription to the audit log";
  filter = resolved(what, app, std::move(filter));
  if (filter.until) throw Error(Errc::invalid_argument, what + ": until is for query()");
  if (!handler) throw Error(Errc::invalid_argument, what + ": it has no handler");
  gate_.check_may_block(what);
  const Time deadline = deadline_after(options.timeout);
  opening_.wait(what, deadline);
  ensure_stream(deadline);
  const auto core = std::make_shared<AuditSubscription::Core>(
      shared_from_this(), std::move(filter), std::move(handler), std::move(options.on_trouble),
      strands_.strand());
  const auto failure = gate_.confirm(deadline, [self = shared_from_this(), core](Completion begun) {
    if (!self->on_loop_) return begun(Error(Errc::shutting_down, "the platform has stopped"));
    self->subscriptions_.insert(core);
    core->begin(std::move(begun));
  });
  if (!failure) return core;
  core->end();
  throw Error(failure->errc(), what + ": " + failure->what());
}

}  // namespace cluster
