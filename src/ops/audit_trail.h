// The audit log for threads that are not the loop's: what users record goes to the node's AuditLog,
// queries and subscriptions are consumers on the loop. May outlive its platform, and then answers
// that it has ended.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cluster/audit.h"
#include "core/loop_gate.h"
#include "core/opening.h"
#include "core/strand.h"
#include "nats/blocking_jetstream.h"
#include "ops/audit_log.h"

namespace cluster {

class AuditTrail : public std::enable_shared_from_this<AuditTrail> {
 public:
  using Milliseconds = std::chrono::milliseconds;

  AuditTrail(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
             std::string platform, AuditOptions options);
  ~AuditTrail();

  // Of the loop.

  /// Where users' entries go; until then they wait.
  void write_to(AuditLog& log) { log_ = &log; }
  const std::shared_ptr<AuditRoom>& room() const noexcept { return room_; }
  /// The log can be read; replicas of the stream where this node makes it.
  void open(nats::JetStream& jetstream, int replicas);
  /// It can't any more: subscriptions are over.
  void close();

  // Of any other thread: what Audit promises. `app`: `_` for the platform.

  bool record(const std::string& app, std::string_view action, AuditFields fields);
  std::vector<AuditEntry> query(const std::string& app, AuditFilter filter, Milliseconds timeout);
  std::shared_ptr<AuditSubscription::Core> follow(const std::string& app, AuditFilter filter,
                                                  std::function<void(const AuditEntry&)> handler,
                                                  AuditFollowOptions options);
  std::uint64_t dropped() const noexcept { return room_->dropped.load(); }

  // For subscriptions.

  const std::string& platform() const noexcept { return platform_; }
  std::string stream() const { return audit_stream_name(platform_); }
  LoopGate& gate() noexcept { return gate_; }
  /// On the loop; null once it is closed.
  nats::JetStream* jetstream() const noexcept { return on_loop_; }
  /// On the loop: it is over.
  void forget(AuditSubscription::Core* core);

 private:
  /// There is a stream to listen to. Throws unavailable and what JetStream says.
  void ensure_stream(Time deadline);

  LoopGate gate_;
  StrandPool& strands_;  // of the loop: it goes with the platform
  const nats::BlockingJetStream jetstream_;
  const std::string platform_;
  const AuditOptions options_;
  const std::shared_ptr<AuditRoom> room_ = std::make_shared<AuditRoom>();

  std::atomic<int> replicas_{1};
  Opening opening_;

  // Of the loop:
  nats::JetStream* on_loop_ = nullptr;
  AuditLog* log_ = nullptr;
  std::set<std::shared_ptr<AuditSubscription::Core>> subscriptions_;
};

}  // namespace cluster
