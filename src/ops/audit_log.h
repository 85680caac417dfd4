// The platform's audit log: what happened, where and when, in the JetStream stream
// `<platform>_audit`, under the subject `<platform>._.audit.<category>.<action>` (docs/formats.md).
// On the loop. Whoever adds an entry never waits: entries go one by one while JetStream answers, a
// bounded number waits, and what finds no room is counted. Reading is ops/audit_trail.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "core/audit.h"
#include "core/loop.h"
#include "nats/jetstream.h"
#include "ops/audit_entry.h"

namespace cluster {

/// Of users' entries, from any thread: these have room of their own, so that they never crowd out
/// the node's.
struct AuditRoom {
  static constexpr std::size_t kMost = 1'000;  ///< entries
  std::atomic<std::size_t> taken{0};
  std::atomic<std::uint64_t> dropped{0};  ///< that found no room, or went the way of their place
};

/// What one entry takes of it, until JetStream has the entry, or never will.
class AuditPlace {
 public:
  /// Nothing, and counted, when there is no room.
  static std::shared_ptr<AuditPlace> take(std::shared_ptr<AuditRoom> room);
  explicit AuditPlace(std::shared_ptr<AuditRoom> room) : room_(std::move(room)) {}
  ~AuditPlace();
  AuditPlace(const AuditPlace&) = delete;
  AuditPlace& operator=(const AuditPlace&) = delete;
  void sent() noexcept { sent_ = true; }

 private:
  const std::shared_ptr<AuditRoom> room_;
  bool sent_ = false;
};

class AuditLog {
 public:
  static constexpr std::size_t kMostWaiting = 1'000;  ///< entries of the node's own

  struct Options {
    std::string platform{}, node{};
    AuditOptions keep{};
    std::shared_ptr<AuditRoom> room = std::make_shared<AuditRoom>();
  };
  struct Status {
    std::uint64_t stored = 0;   ///< entries that JetStream has acknowledged
    std::uint64_t dropped = 0;  ///< that found no room, or that it refused for good; users' too
    std::size_t waiting = 0;
    std::string trouble{};  ///< what failed last, until it is mended
  };

  AuditLog(Loop& loop, nats::JetStream& jetstream, Options options);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  /// JetStream can be used; until then entries wait. `replicas`: of the stream, where it is made.
  void open(int replicas);
  /// `id`: of several entries with the same one, of any nodes, JetStream keeps the first (for its
  /// duplicate window). Empty: one of its own.
  void add(AuditEntry entry, std::string id = {});
  /// A user's.
  void add(AuditEntry entry, std::shared_ptr<AuditPlace> place);
  /// Sends all that wait, and what comes later at once, for the node is about to end: nobody looks
  /// whether they are stored.
  void flush();
  Status status() const;

 private:
  struct Waiting {
    nats::Message message{};
    std::shared_ptr<AuditPlace> place{};  // none: the node's own
  };
  void queue(AuditEntry entry, std::string id, std::shared_ptr<AuditPlace> place);
  void next();
  void on_answer(const Result<nats::PubAck>& stored);
  void tell_of_drops();
  std::uint64_t dropped() const { return dropped_ + options_.room->dropped.load(); }
  void make_stream();
  void stream_is_there(const std::string& info);
  void stream_answer(const Failure& failure);
  void try_later(const Error& error);

  Loop& loop_;
  nats::JetStream& jetstream_;
  const Options options_;
  const std::string writer_;
  std::deque<Waiting> waiting_;
  std::size_t own_waiting_ = 0;
  std::uint64_t count_ = 0;  // of entries so far
  int replicas_ = 0;         // 0: not open
  bool stream_made_ = false;
  bool flushed_ = false;
  bool busy_ = false;  // something is asked of JetStream, or is waited for before it is
  std::uint64_t stored_ = 0, dropped_ = 0;
  std::uint64_t told_dropped_ = 0;  // of the drops, those that an entry tells of
  std::string trouble_;
  Duration retry_{};
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster
