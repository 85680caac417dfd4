// Reads whole LTX files out of a WAL stream, in order, for a thread that blocks; StreamReader
// judges that they follow each other.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "sqlite/record_time.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/spill.h"
#include "sqlite/stream_feed.h"
#include "sqlite/stream_reader.h"

namespace cluster::sqlite {

class StreamFiles {
 public:
  struct File {
    StreamRecord record{};     ///< of its last part
    std::int64_t time_ns = 0;  ///< effective (record_time.h), since 1970
    std::unique_ptr<Spill> bytes{};
  };

  /// Reads behind `begin`, where the database stands at `position`, up to sequence `until`.
  /// `folder`: for files that are too large for memory. The store is that of the calling thread's,
  /// and must outlive this.
  StreamFiles(SnapshotStore& store, std::string stream, const CopyPosition& position,
              const StoredAt& begin, std::uint64_t until, std::string folder, std::stop_token stop);

  /// Blocks for the next file; nothing when there is none up to `until`. Throws Error{corrupt} when
  /// the stream does not go on from the position, shutting_down, timeout when nothing comes.
  std::optional<File> next();
  /// Where the database stands with the files handed out so far.
  const CopyPosition& position() const noexcept { return reader_.position(); }

 private:
  const std::string stream_;
  const std::string folder_;
  StreamReader reader_;
  EffectiveTime time_;
  StreamFeed feed_;
  std::unique_ptr<Spill> parts_;
};

}  // namespace cluster::sqlite
