// The file beside a database in which a node notes where its copy stands: <database>-cluster. Held
// locked for as long as the node replicates that database. What it says is compared with what the
// database holds, by hash, so it may lag or have been lost: it is never believed alone.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "core/unique_fd.h"
#include "sqlite/position_record.h"

namespace cluster::sqlite {

/// Opens or makes the file that goes with a database, and locks it. Throws Error{unavailable} when
/// another process has it locked: two nodes must not replicate into one database.
UniqueFd open_locked(const std::string& path);

/// Where a copy stood in a history whose stream is gone.
struct FormerPlace {
  std::uint64_t history = 0, epoch = 0, txid = 0;
  std::uint64_t hash = 0;  ///< of its content

  bool operator==(const FormerPlace&) const = default;
};

class PositionLog {
 public:
  /// Records that are kept; the oldest one makes room.
  static constexpr std::size_t kRecords = 4096;

  /// As open_locked(). Damaged records count as none.
  explicit PositionLog(const std::string& path);

  /// Which history the records belong to; 0: none yet. Records of another one are dropped.
  std::uint64_t history() const noexcept { return history_; }
  /// Another history begins; `former`: where the copy stood in the one that was. Synced. Killed in
  /// between, it is still at the old history, with what it had or with `former` alone. Throws
  /// Error{system}.
  void set_history(std::uint64_t history, std::optional<FormerPlace> former = {});
  /// As given to set_history() last.
  const std::optional<FormerPlace>& former() const noexcept { return former_; }

  /// The copy in the file with that inode holds nothing that the stream does not have, and this
  /// node has not led with it since. Without sync. Throws Error{system}.
  void note_all_from_stream(std::uint64_t inode);
  /// That is true no more, or will not be: this node is about to lead. Synced. Throws
  /// Error{system}.
  void forget_all_from_stream();
  /// Whether that is noted of that file, since the last time that it was known. False also when
  /// nothing is known.
  bool all_from_stream(std::uint64_t inode) const noexcept {
    return inode != 0 && inode == all_from_stream_;
  }

  /// Without sync: it may be lost with the machine. Throws Error{system}.
  void append(const PositionRecord& record);
  /// It has, or has had, a record of some history: the database was replicated once.
  bool ever_replicated() const noexcept { return earlier_ || !records_.empty(); }
  /// From the oldest to the newest.
  const std::deque<PositionRecord>& records() const noexcept { return records_; }
  /// From there on the stream has what goes on from transaction `txid`; 0: from its beginning.
  std::uint64_t sequence_before(Txid txid) const;
  /// Whether the stream is known to have, or to have had, that content.
  bool has_stored(Txid txid, std::uint64_t hash) const;
  /// Whether that content may be of a later transaction than `txid`.
  bool at_least(Txid txid, std::uint64_t hash) const;
  /// The newest record of that content: of those that end at that place in the WAL, if there are
  /// any.
  std::optional<PositionRecord> find(std::uint64_t hash, std::uint32_t page_size,
                                     const WalPosition& end) const;

 private:
  void clear();
  void drop_records();
  void write_header();

  std::string path_;
  UniqueFd file_;
  std::uint64_t history_ = 0;
  bool earlier_ = false;  // there were records that have been dropped
  std::optional<FormerPlace> former_;
  std::uint64_t all_from_stream_ = 0;  // the inode of that file; 0: none is known to be so
  std::uint64_t count_ = 0;            // of records ever written
  std::deque<PositionRecord> records_;
};

/// The file that goes with a database.
inline std::string position_log_path(const std::string& database) { return database + "-cluster"; }

}  // namespace cluster::sqlite
