// Wakes a thread when a database or its WAL is written, by whatever process, or when its files come
// and go. Says that something may have changed, never what: look, and wait again. With a time limit
// as a safety net, since a file system may not tell (network file systems do not).
#pragma once

#include <string>

#include "cluster/clock.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {

class WalWatch {
 public:
  enum class Woken {
    timeout,
    written,  ///< the WAL, or the database file (by a checkpoint, say)
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
  void watch_files();
  void unwatch_files();
  Woken written();
  void take_events();

  std::string name_;      // of the database, without its folder
  std::string paths_[2];  // of the database and its WAL
  UniqueFd events_;
  UniqueFd calls_;
  int folder_watch_ = -1;
  int file_watches_[2] = {-1, -1};
  bool unwatched_ = false;                // a file is there, and can't be watched
  bool written_ = false, files_ = false;  // not told yet
  Time last_written_{};
  int in_a_row_ = 0;    // that it was written, with hardly a pause
  Time paced_until_{};  // the files are not watched before that, but looked at
};

}  // namespace cluster::sqlite
