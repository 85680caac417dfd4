// Takes a database over that a program makes while its node leads, without standing in its way. A
// program without a busy timeout gets "database is locked" from any lock that somebody else holds
// at the wrong moment; so nothing of ours touches the database before the program pauses, and it is
// switched to WAL mode, after which readers and writers don't stop each other, in that pause.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "cluster/clock.h"
#include "sqlite/handle.h"

namespace cluster::sqlite {

class FirstPause {
 public:
  enum class State {
    absent,  ///< there is no database yet, or an empty file
    busy,    ///< the program is at it: look again in kLook
    ready,   ///< it is in WAL mode and can be opened
  };
  /// So often it is looked at while it is busy.
  static constexpr Duration kLook = std::chrono::milliseconds(10);

  struct Limits {
    /// Between two transactions of a first set-up there is less; a program that has been quiet for
    /// so long hardly ever commits again in just the fraction of a millisecond that the switch
    /// takes.
    Duration pause = std::chrono::milliseconds(100);
    /// What is committed until then is not replicated.
    Duration longest = std::chrono::seconds(10);
  };

  explicit FirstPause(std::string path) : FirstPause(std::move(path), Limits()) {}
  FirstPause(std::string path, Limits limits) : path_(std::move(path)), limits_(limits) {}

  /// Looks at it, and switches it when that is due. `at_once`: does not wait for a pause, as when
  /// one has been waited for as long as the limit is. May block, for some seconds then. Throws as
  /// ensure_wal_mode() does.
  State look(bool at_once);
  /// It was opened: lets go of it.
  void end();

 private:
  struct Seen {
    std::uint64_t inode = 0;
    std::int64_t size = -1, written_ns = 0;
    std::int64_t journal_size = -1, journal_written_ns = 0;
    std::int64_t wal_size = -1;
    bool operator==(const Seen&) const = default;
  };

  Seen seen() const;
  bool pauses(Time now);
  bool in_wal_mode() const;
  bool is_being_written() const;
  bool switch_now(bool wait);

  const std::string path_;
  const Limits limits_;
  Handle handle_;  // looks at it without a lock
  Seen seen_;
  Time changed_{}, since_{}, next_try_{};
  Duration retry_{};
};

}  // namespace cluster::sqlite
