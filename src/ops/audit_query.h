// Reads the newest entries of the audit log that fit a filter: backwards, in windows of the stream
// that grow, until there are enough. On the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cluster/audit.h"
#include "core/result.h"
#include "nats/jetstream.h"

namespace cluster {

class AuditQuery : public std::enable_shared_from_this<AuditQuery> {
 public:
  /// `filter`: one that may be had, whose app is resolved.
  AuditQuery(nats::JetStream& jetstream, std::string platform, AuditFilter filter);

  /// Calls `done` once, with the newest last; tries again what may be mended, until cancel().
  void start(Callback<std::vector<AuditEntry>> done);
  void cancel();

 private:
  void look();
  void read_window();
  void take(const nats::StoredMessage& message);
  void window_is_read();
  void finish(Result<std::vector<AuditEntry>> answer);

  nats::JetStream& jetstream_;
  const std::string platform_;
  const AuditFilter filter_;
  Callback<std::vector<AuditEntry>> done_;
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  LoopSource timer_;
  std::uint64_t first_ = 0;          // sequence of the stream's first message
  std::uint64_t from_ = 0, to_ = 0;  // the window; without `to_`
  std::uint64_t size_ = 0;           // of the next window
  bool reached_since_ = false;       // what is before this window happened before filter_.since
  std::deque<AuditEntry> window_, found_;
};

}  // namespace cluster
