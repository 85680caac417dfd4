// Wakes a thread when a database's WAL is written, by whatever process, or when its files come and
// go. Says that something may have changed, never what: look, and wait again. With a time limit as
// a safety net, since a file system may not tell (network file systems do not).
#pragma once

#include <string>

#include "cluster/clock.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {

class WalWatch {
 public:
  enum class Woken {
    timeout,
    written,  ///< the WAL
    files,    ///< the database or its WAL was made, removed, or replaced
    called,   ///< by wake()
  };

  /// The folder must exist; the database need not. Throws Error{system}.
  explicit WalWatch(const std::string& database);

  /// Blocks for at most `limit`. Of several causes it tells one; none is lost. While the WAL is
  /// written all the time it says so every quarter of a millisecond without being told: a writer
  /// pays for each event.
  Woken wait(Duration limit);
  /// Any thread.
  void wake() noexcept;

 private:
  void watch_wal();
  void unwatch_wal();
  Woken written();
  void take_events();

  std::string name_;  // of the database, without its folder
  std::string wal_path_;
  UniqueFd events_;
  UniqueFd calls_;
  int folder_watch_ = -1;
  int wal_watch_ = -1;
  bool unwatched_ = false;                // the WAL is there, and can't be watched
  bool written_ = false, files_ = false;  // not told yet
  Time last_written_{};
  int in_a_row_ = 0;    // that it was written, with hardly a pause
  Time paced_until_{};  // the WAL is not watched before that, but looked at
};

}  // namespace cluster::sqlite
