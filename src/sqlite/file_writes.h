// Tells whether somebody writes to the file of a database in WAL mode other than by a checkpoint,
// as `cp` over it does. Only checkpoints write to it, and each says so in the wal-index: before it
// writes, up to which frame it will, and afterwards that it has (sqlite.org/walformat.html,
// "nBackfill" and "nBackfillAttempted").
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sqlite/wal_index.h"

namespace cluster::sqlite {

/// Not thread-safe.
class FileWrites {
 public:
  /// True when the file was written to since the last look although no checkpoint has moved
  /// anything. While a checkpoint is under way, or the file is not there, nothing can be told: then
  /// the next look begins anew. What is written within the same tick of the kernel's clock as the
  /// last checkpoint, to the same size, is not seen.
  bool unexplained(const WalIndex& index, const std::string& path);
  /// The last look was so soon after a write that the file's time may not show the next one.
  bool may_hide_more() const;
  /// Frames that were in the file at the last look.
  std::uint32_t backfilled() const noexcept { return last_ ? last_->backfilled : 0; }

 private:
  struct Look {
    WalSalts salts{};
    std::uint32_t frames = 0, backfilled = 0;
    std::uint64_t inode = 0;
    std::int64_t size = 0, written_ns = 0, changed_ns = 0;
  };
  static bool nothing_moved(const Look& before, const Look& now);
  static std::optional<Look> look(const WalIndex& index, const std::string& path);

  std::optional<Look> last_;
};

}  // namespace cluster::sqlite
