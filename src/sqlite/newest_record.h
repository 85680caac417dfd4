// Finds the newest record of a WAL stream. Mostly that is the stream's last message. What stands
// behind it is foreign: somebody else has published it. On the loop.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/loop.h"
#include "nats/jetstream.h"
#include "sqlite/stream_record.h"

namespace cluster::sqlite {

class NewestRecord {
 public:
  struct Found {
    std::optional<StreamRecord> record{};  ///< nothing: there is none at `from` or later
    std::uint64_t end = 0;                 ///< the stream's last message; 0: it never had one
    /// Without a record: what stood up to there is not in the stream any more, or is before `from`.
    std::uint64_t gone = 0;
    std::uint64_t history = 0;  ///< of the stream; 0: that was not asked for, since it has a record
  };

  /// Looks from sequence `from` on, at least 1. Answers once, later, unless this object is gone
  /// before; the answer may destroy it. Errors: those of JetStream, incompatible for a message of
  /// another version, and timeout when nothing comes.
  NewestRecord(nats::JetStream& jetstream, std::string stream, std::uint64_t from,
               Callback<Found> done);
  ~NewestRecord();
  NewestRecord(const NewestRecord&) = delete;
  NewestRecord& operator=(const NewestRecord&) = delete;

 private:
  void look_at_last();
  void ask_stream();
  void look_back(std::uint64_t most);
  void take(const nats::StoredMessage& message);
  void looked();
  void confirm();
  void patient();
  void answer(Result<Found> found);

  nats::JetStream& jetstream_;
  const std::string stream_;
  const std::uint64_t from_;
  Callback<Found> done_;
  Found found_;
  std::uint64_t first_ = 0;  // message of those that are looked at
  std::uint64_t begin_ = 0;  // and of those in this step
  std::uint64_t most_ = 0;   // of these
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  LoopSource patience_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
