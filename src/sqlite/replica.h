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
#include "sqlite/wal_index.h"

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

  const std::string& path() const noexcept { return path_; }
  /// There is a database.
  bool exists() const noexcept { return static_cast<bool>(handle_); }
  /// Where it stands; nothing when there is none, or when what it holds is at no known transaction:
  /// then somebody else has written to it, or it has lost something.
  const std::optional<PositionRecord>& position() const noexcept { return position_; }
  const DatabaseState& state() const noexcept { return state_; }

  /// Puts a database in place that write_database() has written to the file `from`, at `place`;
  /// what is here goes.
  void put(const std::string& from, DatabaseState state, const StreamPlace& place);

  /// Applies a file as one transaction; where there is no database, a snapshot makes one. Nothing
  /// when that is done; else why the file does not
  /// follow what is here: the database must then be had anew. Throws Error{corrupt} for a damaged
  /// file, Error{system} and Error{unavailable} (a lock) when trying again may help: nothing has
  /// changed then.
  std::optional<std::string> apply(LtxDecoder& file, const StreamPlace& place);

  /// Moves what is in the WAL into the database file when there is more than the limit. On another
  /// thread than the others, if that is wanted; readers are not disturbed, and those that stand on
  /// an old state keep the WAL long. Returns whether it is short.
  bool checkpoint();
  bool wants_checkpoint() const noexcept { return wal_bytes_.load() > wal_limit_; }
  /// Of its WAL, that count now. Any thread.
  std::uint64_t wal_bytes() const noexcept { return wal_bytes_.load(); }

  /// The state at transaction `since`, at which this node led: of pages that were written later no
  /// more is known than that. Nothing where that can't be told.
  std::optional<DatabaseState> state_at(Txid since) const;

  /// What it holds counts as committed under `epoch` from now on: that of this node's lead, whose
  /// fence it goes on from. Its position must be known. Throws Error{system}.
  void claim(std::uint64_t epoch);

  /// What it holds, which no record was found of, is what `record` says. Throws Error{system}.
  void recognised(const PositionRecord& record);

  /// What is wrong with the file, or nothing: each page's checksum, then PRAGMA quick_check. Takes
  /// as long as reading the database twice.
  std::optional<std::string> check();

 private:
  std::optional<std::string> compare();
  void open();
  void open_handles();
  bool replaced() const;
  void take_left_over(const WalIndexHeader& header);
  void stand_at(const PositionRecord& record);
  std::string does_not_follow(const LtxHeader& header) const;

  const std::string path_;
  PositionLog& log_;
  const std::size_t wal_limit_;
  Handle handle_;
  Handle checkpointer_;
  DatabaseState state_;
  std::optional<PositionRecord> position_;
  std::uint64_t inode_ = 0;
  std::uint32_t changes_ = 0;  // the wal-index's count after our last transaction
  std::atomic<std::uint64_t> wal_bytes_{0};
  std::mutex writing_;  // applying, and the part of a checkpoint that stops it
};

}  // namespace cluster::sqlite
