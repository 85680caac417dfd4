// Follows a WAL stream on JetStream into a replica: reads it in order, lets StreamReader judge, and
// has files applied on a strand. On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/loop.h"
#include "core/strand.h"
#include "nats/jetstream.h"
#include "sqlite/replica.h"
#include "sqlite/stream_reader.h"

namespace cluster::sqlite {

class WalFollower {
 public:
  struct Events {
    /// The replica has the transactions of this record.
    std::function<void(const StreamRecord& record)> applied{};
    /// Once: all that the stream had when following began has been applied.
    std::function<void()> caught_up{};
    /// The replica can't go on from what it has; nothing follows. `diverged`: it holds what the
    /// stream does not.
    std::function<void(const std::string& why, bool diverged)> stuck{};
    /// A record or a file was wrong, or applying it failed; nothing follows.
    std::function<void(const Error& error)> failed{};
    /// Reading failed, and is tried again.
    std::function<void(const Error& error)> trouble{};
  };

  /// Begins behind `after`, a sequence up to which the replica has all. The replica must have a
  /// position, and is used on `strand` until this object is gone and the strand's tasks have ended.
  WalFollower(nats::JetStream& jetstream, Strand& strand, std::string stream,
              std::shared_ptr<Replica> replica, std::uint64_t after, Events events);
  ~WalFollower();
  WalFollower(const WalFollower&) = delete;
  WalFollower& operator=(const WalFollower&) = delete;

  /// The newest record read, and the newest whose transactions the replica has.
  std::uint64_t read() const noexcept { return reader_.sequence(); }
  std::uint64_t applied() const noexcept { return applied_; }
  /// Of records that were read and are not applied yet.
  std::size_t pending_bytes() const noexcept { return pending_bytes_; }

 private:
  using Bytes = std::shared_ptr<const std::string>;

  void read_from(std::uint64_t sequence);
  void take(nats::StoredMessage message);
  void apply(const StreamRecord& record, std::vector<Bytes> parts, std::size_t size);
  void pass(const StreamRecord& record);
  void was_applied(const StreamRecord& record, std::size_t size);
  void stop();

  nats::JetStream& jetstream_;
  Strand& strand_;
  const std::string stream_;
  const std::shared_ptr<Replica> replica_;
  const Events events_;
  StreamReader reader_;
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  std::vector<Bytes> parts_;
  std::size_t parts_size_ = 0;
  std::uint64_t applied_ = 0;
  std::size_t pending_bytes_ = 0;
  std::size_t tasks_ = 0;     // of the strand, not answered yet
  std::uint64_t passed_ = 0;  // record with nothing to apply, behind all tasks
  bool paused_ = false;       // more is read once some of what waits has been applied
  bool stopped_ = false;
  bool begun_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
