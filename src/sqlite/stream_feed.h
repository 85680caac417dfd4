// Messages of a stream, in order, for a thread that blocks: the loop reads ahead, within a bound.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "sqlite/snapshot_store.h"
#include "sqlite/stream_record.h"

namespace cluster::sqlite {

/// The newest record of a stream, up to `stream.last`; nothing when there is none. Blocks, and
/// throws, as StreamFeed::next does; Error{incompatible} for a message of another version.
std::optional<StreamRecord> newest_record(SnapshotStore& store, const StreamRange& stream,
                                          const std::stop_token& stop);

class StreamFeed {
 public:
  enum class What { all, headers };  ///< headers: messages come without their data

  /// Reads the messages behind sequence `after`, up to `until`. The store must outlive this.
  StreamFeed(SnapshotStore& store, std::string stream, std::uint64_t after, std::uint64_t until,
             What what, std::stop_token stop);
  ~StreamFeed();
  StreamFeed(const StreamFeed&) = delete;
  StreamFeed& operator=(const StreamFeed&) = delete;

  /// Blocks for the next message; nothing when there is none up to `until`. Throws Error{corrupt}
  /// when the stream has lost its end meanwhile, shutting_down, timeout when nothing comes.
  std::optional<nats::StoredMessage> next();

 private:
  struct Queue;
  class Reader;

  SnapshotStore& store_;
  const std::string stream_;
  const std::uint64_t until_;
  const std::stop_token stop_;
  std::uint64_t sequence_;
  std::shared_ptr<Queue> queue_;
};

}  // namespace cluster::sqlite
