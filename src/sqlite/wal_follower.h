// Follows a WAL stream on JetStream into a replica: reads it in order, lets StreamReader judge, and
// has files applied on a strand. On the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/loop.h"
#include "core/strand.h"
#include "nats/jetstream.h"
#include "sqlite/replica.h"
#include "sqlite/stream_reader.h"

namespace cluster::sqlite {

class WalFollower {
 public:
  struct Stuck {
    std::string why{};
    bool diverged = false;  ///< it holds what the stream does not; else transactions are missing
    /// The last transaction that both may have; nothing when that is not known.
    std::optional<Txid> common{};
    /// Where transactions are missing: the record that a copy must go on with or behind.
    std::uint64_t sequence = 0;
  };

  struct Events {
    /// The replica has the transactions of this record, or the record, a fence, has none.
    std::function<void(const StreamRecord& record)> applied{};
    /// Once: all that the stream had when following began has been applied.
    std::function<void()> caught_up{};
    /// The stream has lost its end, and ends with record `last` now; nothing follows.
    std::function<void(std::uint64_t last)> rewound{};
    /// The replica can't go on from what it has; nothing follows.
    std::function<void(const Stuck& stuck)> stuck{};
    /// The record `sequence` or its file was wrong (Error{corrupt}), or applying it failed; nothing
    /// follows.
    std::function<void(const Error& error, std::uint64_t sequence)> failed{};
    /// Reading failed, and is tried again.
    std::function<void(const Error& error)> trouble{};
    /// A message of the stream is none of ours, and was passed over.
    std::function<void(std::uint64_t sequence, const Error& why)> foreign{};
  };

  /// Begins behind `after`, a sequence up to which the replica has all. The replica must have a
  /// position or no database yet, and is used on `strand` until this object is gone and the
  /// strand's tasks have ended.
  WalFollower(nats::JetStream& jetstream, Strand& strand, std::string stream,
              std::shared_ptr<Replica> replica, std::uint64_t after, Events events);
  ~WalFollower();
  WalFollower(const WalFollower&) = delete;
  WalFollower& operator=(const WalFollower&) = delete;

  /// The newest message read, and the newest record whose transactions the replica has.
  std::uint64_t read() const noexcept { return taken_; }
  /// Of the newest record that was read; 0: none was.
  std::uint64_t epoch() const noexcept { return reader_.epoch(); }
  std::uint64_t applied() const noexcept { return applied_; }
  /// All up to this message is applied, or has nothing to apply. At least applied().
  std::uint64_t done() const noexcept;
  /// Of records that were read and are not applied yet.
  std::size_t pending_bytes() const noexcept { return pending_bytes_; }
  /// Nothing is being applied: the replica may be looked at, until the loop goes on.
  bool at_rest() const noexcept { return tasks_ == 0; }
  /// Where the replica stands once all that was read has been applied.
  const CopyPosition& position() const noexcept { return reader_.position(); }
  /// The last transaction of the newest record read.
  Txid newest() const noexcept { return newest_; }
  /// The last record that the stream had when the newest one was read.
  std::uint64_t end() const noexcept { return end_; }
  /// Nothing is read, since much waits to be applied: the stream may have gone on beyond end().
  bool paused() const noexcept { return paused_; }
  /// When the oldest record that is not applied yet was stored, wall time in ns since 1970; 0: all
  /// is applied.
  std::int64_t waits_since_ns() const noexcept { return waiting_.empty() ? 0 : waiting_.front(); }

 private:
  /// A file as it comes, part by part. Used on the strand.
  struct File;

  void read_from(std::uint64_t sequence);
  void take(nats::StoredMessage message);
  void work(const StreamRecord& record, std::string bytes);
  void pass(const StreamRecord& record);
  void worked(const StreamRecord& record, std::size_t size);
  void stop();

  nats::JetStream& jetstream_;
  Strand& strand_;
  const std::string stream_;
  const std::shared_ptr<Replica> replica_;
  const Events events_;
  StreamReader reader_;
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  std::string folder_;          // of the replica
  std::shared_ptr<File> file_;  // that is coming
  std::uint64_t applied_ = 0;
  std::uint64_t taken_ = 0;  // the newest message read
  Txid newest_ = 0;
  std::uint64_t end_ = 0;
  std::size_t pending_bytes_ = 0;
  std::size_t tasks_ = 0;               // of the strand, not answered yet
  std::deque<std::int64_t> waiting_;    // when the record of each of them was stored
  std::optional<StreamRecord> passed_;  // record with nothing to apply, behind all tasks
  bool paused_ = false;                 // more is read once some of what waits has been applied
  bool stopped_ = false;
  bool begun_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
