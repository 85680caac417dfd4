// Follows the audit log: a consumer on the loop, and a strand on which the handler runs. A bounded
// number of entries waits for the handler; when there are more, reading ends, and is taken up again
// behind the last of them.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/handler_runs.h"
#include "core/repeat_limit.h"
#include "core/strand.h"
#include "ops/audit_trail.h"

namespace cluster {

class AuditSubscription::Core : public std::enable_shared_from_this<AuditSubscription::Core> {
 public:
  static constexpr std::size_t kMostQueued = 1'000;

  /// `filter`: one that may be had, whose app is resolved.
  Core(std::shared_ptr<AuditTrail> trail, AuditFilter filter,
       std::function<void(const AuditEntry&)> handler, std::function<void(const Error&)> on_trouble,
       std::unique_ptr<Strand> strand);

  /// On the loop. `begun` is told once, when JetStream has it, or can't have it.
  void begin(Completion begun);
  /// On the loop: nothing comes any more. Idempotent.
  void halt();
  /// Of the owner: the handler does not run any more when it returns, unless it calls this.
  void end();
  AuditCounts counts() const;

 private:
  void take(const nats::StoredMessage& message);
  void schedule();
  void drain();
  void trouble(const Error& error);
  void gap(const std::string& text);
  /// The user's code; what it throws is told, and false then.
  static bool call(const char* what, const std::function<void()>& work);

  const std::shared_ptr<AuditTrail> trail_;
  const AuditFilter filter_;
  const std::function<void(const AuditEntry&)> handler_;
  const std::function<void(const Error&)> on_trouble_;
  const std::unique_ptr<Strand> strand_;
  std::atomic<std::uint64_t> handled_{0}, failed_{0}, interrupted_{0}, gaps_{0};

  // Of the loop:
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  LoopSource later_;
  Completion begun_;  // until it was told
  RepeatLimit told_{std::chrono::seconds(5)};

  HandlerRuns runs_;
  std::mutex mutex_;  // over what follows
  bool scheduled_ = false, full_ = false;
  std::deque<AuditEntry> queue_;
};

}  // namespace cluster
