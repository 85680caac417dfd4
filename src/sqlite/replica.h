// A database that follows: applies LTX files as transactions, keeps whole what its readers see, and
// knows at each moment which transaction it stands at. Knows nothing of where the files come from.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "sqlite/capture.h"
#include "sqlite/handle.h"
#include "sqlite/ltx.h"
#include "sqlite/position_log.h"

namespace cluster::sqlite {

/// Where a file stands in the stream.
struct StreamPlace {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};

class Replica {
 public:
  /// Opens the database, if there is one, reads all of it, and looks up in `log` at which
  /// transaction it stands. `log` stays the caller's. Throws as Handle does, but for a file that is
  /// not there.
  Replica(std::string path, PositionLog& log, std::size_t wal_limit);
  ~Replica();
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  /// There is a database.
  bool exists() const noexcept { return static_cast<bool>(handle_); }
  /// Where it stands; nothing when there is none, or when what it holds is at no known transaction:
  /// then somebody else has written to it, or it has lost something.
  const std::optional<PositionRecord>& position() const noexcept { return position_; }
  const DatabaseState& state() const noexcept { return state_; }

  /// Applies a file as one transaction. Nothing when that is done; else why the file does not
  /// follow what is here: the database must then be had anew. Throws Error{corrupt} for a damaged
  /// file, Error{system} and Error{unavailable} (a lock) when trying again may help: nothing has
  /// changed then.
  std::optional<std::string> apply(LtxDecoder& file, const StreamPlace& place);

  /// Moves what is in the WAL into the database file when there is more than the limit. On another
  /// thread than the others, if that is wanted; readers are not disturbed, and those that stand on
  /// an old state keep the WAL long. Returns whether it is short.
  bool checkpoint();
  bool wants_checkpoint() const noexcept { return wal_bytes_.load() > wal_limit_; }

  /// PRAGMA quick_check: what is wrong, or nothing. Takes as long as reading the database.
  std::optional<std::string> quick_check();

 private:
  void open();
  std::string does_not_follow(const LtxHeader& header) const;

  const std::string path_;
  PositionLog& log_;
  const std::size_t wal_limit_;
  Handle handle_;
  Handle checkpointer_;
  DatabaseState state_;
  std::optional<PositionRecord> position_;
  std::uint32_t changes_ = 0;  // the wal-index's count after our last transaction
  std::atomic<std::uint64_t> wal_bytes_{0};
  std::mutex writing_;  // applying, and the part of a checkpoint that stops it
};

}  // namespace cluster::sqlite
