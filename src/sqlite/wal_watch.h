// Wakes a thread when a database or its WAL is written, by whatever process, or when its files come
// and go. Says that something may have changed, never what: look, and wait again. With a time limit
// as a safety net, since a file system may not tell (network file systems do not). What can't be
// watched, since a limit of inotify is used up, is looked at by the clock.
#pragma once

#include <string>

#include <sys/stat.h>

#include "cluster/clock.h"
#include "sqlite/inotify.h"

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
  explicit WalWatch(const std::string& database, Inotify& inotify = Inotify::of_process());

  /// Blocks for at most `limit`. Of several causes it tells one; those that it does not tell are
  /// done with, so look at everything. While the WAL is written all the time it says so every
  /// quarter of a millisecond without being told: a writer pays for each event. On one thread at a
  /// time.
  Woken wait(Duration limit);
  /// Any thread.
  void wake() noexcept { member_.call(); }

 private:
  /// As two looks at the files tell them apart.
  struct Look {
    struct File {
      ino_t inode = 0;  // 0: it is not there
      off_t size = 0;
      timespec written{};
    };
    File database{}, wal{};
  };

  void watch();
  void not_watched(int why);
  Woken written();
  Woken look();

  const std::string path_, wal_path_, folder_;
  Inotify& inotify_;
  Inotify::Member member_;
  Time last_written_{};
  int in_a_row_ = 0;    // that it was written, with hardly a pause
  Time paced_until_{};  // the files are not watched before that, but looked at
  // What can't be watched is polled:
  bool polled_ = false;
  Duration poll_pause_{};
  Look seen_{};
  Time changed_{};  // when it was seen changed last
  Time next_try_{};
};

}  // namespace cluster::sqlite
