// A database that follows: applies LTX files as transactions, keeps whole what its readers see, and
// knows at each moment which transaction it stands at. Nobody else can write to it by SQLite's
// means as long as it is open. Knows nothing of where the files come from.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "sqlite/capture.h"
#include "sqlite/handle.h"
#include "sqlite/hash_file.h"
#include "sqlite/ltx.h"
#include "sqlite/position_log.h"
#include "sqlite/scrub_step.h"
#include "sqlite/wal_index.h"
#include "sqlite/writer_guard.h"

namespace cluster::sqlite {

/// Where a file stands in the stream.
struct StreamPlace {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};

class Replica {
 public:
  /// Opens the database, if there is one, and looks up in `log` at which transaction it stands.
  /// What it holds is known from `hashes`; where that can't vouch for it, all of it is read. `log`
  /// and `hashes` stay the caller's. Throws as Handle does, but for a file that is not there.
  Replica(std::string path, PositionLog& log, HashFile& hashes, std::size_t wal_limit);
  ~Replica();
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  const std::string& path() const noexcept { return path_; }
  /// There is a database.
  bool exists() const noexcept { return static_cast<bool>(handle_); }
  /// Opening it has read all of the database: nothing could vouch for what it holds.
  bool read_in_full() const noexcept { return read_in_full_; }
  /// Nobody else has written to its file, as far as that can be told without reading it. Any
  /// thread.
  bool proven() const noexcept { return proven_; }
  /// All of it was read and found right, since its file was as `file` says. Returns whether it
  /// still is: then it is proven. Throws Error{system}.
  bool prove(const FileState& file);
  /// Where it stands; nothing when there is none, or when what it holds is at no known transaction:
  /// then somebody else has written to it, or it has lost something.
  const std::optional<PositionRecord>& position() const noexcept { return position_; }
  const DatabaseState& state() const noexcept { return state_; }
  /// It stands at its position, and its WAL has more, which this node committed as the leader and
  /// has noted nothing of: the end of the WAL was lost with the machine's power. What is there is a
  /// part of the stream's next record, which is applied over it; or, where the stream has none,
  /// left over: take_rest(). Any thread.
  bool has_rest() const noexcept { return has_rest_; }
  /// The rest counts as committed by this node's last lead. False when that can't be shown. Throws
  /// Error{system}.
  bool take_rest();

  /// Puts a database in place that write_database() has written to the file `from`, at `place`;
  /// what is here goes.
  void put(const std::string& from, DatabaseState state, const StreamPlace& place);

  /// Applies a file as one transaction: of the content with hash `expected.before`, after which it
  /// has the hash `expected.after`. Where there is no database, a snapshot makes one. Nothing
  /// when that is done; else why the file does not follow what is here: the database must then be
  /// had anew. Throws Error{corrupt} for a damaged file, Error{system} and Error{unavailable} (a
  /// lock) when trying again may help: nothing has changed then.
  std::optional<std::string> apply(LtxDecoder& file, const StreamPlace& place,
                                   const Hashes& expected);

  /// Moves what is in the WAL into the database file when there is more than the limit, or nothing
  /// is noted yet of what the file holds, and notes that. On another thread than the others, if
  /// that is wanted; readers are not disturbed, and those that stand on an old state keep the WAL
  /// long. Returns whether it is short.
  bool checkpoint();
  /// The same at once, whatever there is. Returns whether the WAL is empty now.
  bool settle();
  /// Where its WAL ends; nothing when somebody else has written to it.
  std::optional<WalPosition> end() const;
  bool wants_checkpoint() const noexcept {
    if (has_rest_) return false;
    // Until it is proven its file stays as it is.
    if (!proven_) return wal_bytes_.load() > kUnprovenLimits * wal_limit_;
    return wal_bytes_.load() > wal_limit_ || unmarked_;
  }
  /// Of its WAL, that count now. Any thread.
  std::uint64_t wal_bytes() const noexcept { return wal_bytes_.load(); }

  /// The state at transaction `since`, at which this node led, with the pages that were written
  /// later. Nothing where that can't be told.
  std::optional<DatabaseState> state_at(Txid since) const;

  /// What it holds counts as committed under `epoch` from now on: that of this node's lead, whose
  /// fence it goes on from. Its position must be known. Throws Error{system}.
  void claim(std::uint64_t epoch);

  /// What it holds, which no record was found of, is what `record` says. Throws Error{system}.
  void recognised(const PositionRecord& record);

  /// What pages of its file must be. Nothing while that is not known for sure: there is no mark of
  /// it, or it is not proven. Any thread, but not while put() or the destructor runs.
  std::optional<ExpectedPages> expected(PageNumber first, PageNumber count) const;
  /// Writes a page of its file anew, by way of the WAL, as a transaction that changes nothing: it
  /// stands where it stood. False when `page` is not what the page must be, or the WAL has a newer
  /// version of it. Throws Error{system}, Error{corrupt} (its wal-index), Error{unavailable} when
  /// somebody else has written to it.
  bool repair(PageNumber number, std::string_view page);

  /// What is wrong with the database, or nothing. Its WAL is verified; of its file each page is
  /// compared with its hash, but only where somebody else has written to it since it was opened.
  std::optional<std::string> check();
  /// The part of that which does not read the file, for a copy that goes on following: what is
  /// wrong with the frames in its WAL. Whether nobody else has written to the file proven() tells
  /// then. What was verified within the last minute is not read again by this and by check(). Not
  /// while it checkpoints. Throws Error{system}.
  std::optional<std::string> check_frames();

 private:
  /// So many times the limit its WAL may become while the copy is proven.
  static constexpr std::size_t kUnprovenLimits = 4;

  std::optional<std::string> compare();
  void verify_wal();
  void open();
  void find_content(const WalIndexHeader& header);
  void read_content();
  void open_handles();
  void note_mark();
  void note_part();
  void look_for_others();
  void look_for_mark();
  struct Checkpointed {
    int code = 0;  // SQLite's
    bool complete = false;
  };
  Checkpointed checkpoint_by_sqlite();
  bool untouched() const;
  bool replaced() const;
  std::optional<PositionRecord> position_of(const WalIndexHeader& header,
                                            std::optional<std::uint64_t> in_file);
  std::optional<PositionRecord> left_over_position(const WalIndexHeader& header,
                                                   std::optional<std::uint64_t> in_file);
  std::optional<PositionRecord> noted_before(const WalIndexHeader& header) const;
  void stand_at(const PositionRecord& record);
  std::string does_not_follow(const LtxHeader& header, std::uint64_t before) const;

  const std::string path_;
  PositionLog& log_;
  HashFile& hashes_;
  const std::size_t wal_limit_;
  Handle handle_;
  Handle checkpointer_;
  WriterGuard guard_;
  DatabaseState state_;
  std::optional<PositionRecord> position_;
  std::uint64_t inode_ = 0;
  bool read_in_full_ = false;
  std::atomic<bool> proven_{true}, has_rest_{false};
  std::uint32_t changes_ = 0;          // the wal-index's count after our last transaction
  std::optional<FileState> file_;      // after our last checkpoint
  std::atomic<bool> unmarked_{false};  // the stream has what it holds, and there is no mark of it
  std::atomic<std::uint64_t> wal_bytes_{0};
  std::optional<WalPosition> verified_;  // its WAL is as it was written, up to there
  Time verified_since_{};                // the oldest part of that
  std::uint64_t generation_ = 0;         // of its file: how often a checkpoint was complete
  mutable std::mutex writing_;           // applying, and the part of a checkpoint that stops it
};

}  // namespace cluster::sqlite
