// The platform's audit log: what happened, where and when, in the JetStream stream
// `<platform>_audit`, under the subject `<platform>._.audit.<category>.<action>` (docs/formats.md).
// On the loop. Whoever adds an entry never waits: entries go one by one while JetStream answers, a
// bounded number waits, and what finds no room is counted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "core/audit.h"
#include "core/loop.h"
#include "nats/jetstream.h"

namespace cluster {

/// The message that tells of `entry`, now; to be published with JetStream. `node`: empty when it is
/// no node that tells.
nats::Message audit_message(const std::string& platform, const std::string& node, AuditEntry entry);

class AuditLog {
 public:
  static constexpr std::size_t kMostWaiting = 1'000;  ///< entries
  static constexpr auto kRetention = std::chrono::hours(24 * 30);
  static constexpr std::int64_t kMostBytes = std::int64_t{256} * 1024 * 1024;  ///< of the stream

  struct Options {
    std::string platform{}, node{};
    int replicas = 1;  ///< of the stream
  };
  struct Status {
    std::uint64_t stored = 0;   ///< entries that JetStream has acknowledged
    std::uint64_t dropped = 0;  ///< that found no room, or that it refused for good
    std::size_t waiting = 0;
    std::string trouble{};  ///< what failed last, until it is mended
  };

  AuditLog(Loop& loop, nats::JetStream& jetstream, Options options);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  void add(AuditEntry entry);
  /// Sends all that wait, and what comes later at once, for the node is about to end: nobody looks
  /// whether they are stored.
  void flush();
  Status status() const;

 private:
  void next();
  void make_stream();
  void try_later(const Error& error);

  Loop& loop_;
  nats::JetStream& jetstream_;
  const Options options_;
  const std::string writer_;
  std::deque<nats::Message> waiting_;
  std::uint64_t count_ = 0;  // of entries so far
  bool stream_made_ = false;
  bool flushed_ = false;
  bool busy_ = false;  // something is asked of JetStream, or is waited for before it is
  std::uint64_t stored_ = 0, dropped_ = 0;
  std::string trouble_;
  Duration retry_{};
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster
