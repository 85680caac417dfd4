// A mark that is held in a database's shared memory, as a reader of SQLite's holds it: as long as
// it lasts, no checkpoint moves what was committed behind it into the database file, and SQLite
// does not begin the WAL anew before all up to it is in there (sqlite.org/walformat.html,
// "WAL-Index Format", and the locks there). Taken by SQLite's own locks, without a transaction: a
// transaction can't choose which of the four marks it takes, and a checkpoint that waits for one
// mark waits on, however far others have moved it.
#pragma once

#include <cstdint>

#include "sqlite/handle.h"
#include "sqlite/wal_index.h"

namespace cluster::sqlite {

/// Not thread-safe. A `handle` must have read something in WAL mode, stay open for as long as it is
/// held, and run no statement meanwhile.
class ReadMark {
 public:
  static constexpr int kNone = -1;
  static constexpr int kFile = 0;  ///< for readers of the database file alone
  static constexpr int kMarks = 5;

  ReadMark() = default;
  ~ReadMark() { drop(); }
  ReadMark(const ReadMark&) = delete;
  ReadMark& operator=(const ReadMark&) = delete;

  /// Holds one of the marks 1 to 4, but not `other_than`, at frame `frame`, which must count in the
  /// run with `salts`. False when the WAL was begun anew meanwhile. Where all marks are others',
  /// one that stands at an earlier frame is shared: see frame(). Must not be held. Throws
  /// Error{system}, Error{unavailable} when that is not possible either.
  bool take(const Handle& handle, const WalSalts& salts, std::uint32_t frame, int other_than);
  /// Holds the one for readers of the file alone. False while a checkpoint is moving something.
  bool take_file(const Handle& handle);
  void drop() noexcept;

  bool held() const noexcept { return mark_ != kNone; }
  int mark() const noexcept { return mark_; }
  /// Where it stands.
  std::uint32_t frame() const noexcept { return frame_; }

 private:
  bool hold(const Handle& handle, int mark, std::uint32_t frame);
  bool share_earlier(const Handle& handle, std::uint32_t frame);

  const Handle* handle_ = nullptr;
  int mark_ = kNone;
  std::uint32_t frame_ = 0;
};

}  // namespace cluster::sqlite
