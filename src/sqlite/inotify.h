// The one inotify instance of the process, which all watches over databases share: a user may have
// 128 instances, and a node more databases. No thread of its own stands between a write and who
// waits for it: one of those who wait reads the events, its own and those of the others, to whom
// it hands them over.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cluster/clock.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {

class Inotify {
 public:
  /// What one database's watch has in it. It is of one thread, but for call().
  class Member {
   public:
    /// `database`: the name of its file, without the folder. Throws Error{system}.
    Member(Inotify& inotify, std::string database);
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    /// Watches the folder for the database and its WAL, as files that come and go; 0, or errno.
    int watch_folder(const std::string& folder);
    /// Watches writes to the database and to its WAL, instead of to those that were watched before;
    /// 0, or errno: then the one before is still watched. One that is not there is none to watch.
    /// Without effect when they are the same files.
    int watch_files(const std::string& database, const std::string& wal);
    void unwatch_files();
    /// Ends wait(), or the next one. Any thread.
    void call() noexcept;

    struct Woken {
      bool files = false, written = false, called = false;
    };
    /// Waits for at most `limit`, which may be 0, and says what has happened since it said so last.
    /// `paced`: it looks by itself so soon that it is not to be the one who reads for others.
    Woken wait(Duration limit, bool paced);

   private:
    friend class Inotify;
    Inotify& inotify_;
    const std::string database_, wal_;
    UniqueFd wake_;
    std::atomic<bool> called_{false};
    // Under the mutex of inotify_:
    int folder_watch_ = -1, database_watch_ = -1, wal_watch_ = -1;
    bool files_ = false, written_ = false;
    bool blocked_ = false;  // in wait(), asleep
    bool reads_ = false;    // and for events, its own and others'
    bool paced_ = false;
    Time active_{};  // when it had an event last
  };

  static Inotify& of_process();
  /// `without_instance`: as if none was to be had, for tests.
  explicit Inotify(bool without_instance = false) : refused_(without_instance) {}
  Inotify(const Inotify&) = delete;
  Inotify& operator=(const Inotify&) = delete;

  /// True the first time that something can't be watched; then one line in the log is enough.
  bool first_refusal() noexcept { return !told_.exchange(true); }
  /// There is no instance, and that is why nothing can be watched.
  bool missing() const;

 private:
  int open();
  int watch(Member& member, int Member::* place, const std::string& path, std::uint32_t mask);
  void drop(Member& member, int Member::* place);
  void take_events();
  void dispatch(int watch, std::uint32_t mask, const char* name);
  void tell(Member& member);
  bool may_read(const Member& member) const;
  void appoint();

  const bool refused_;
  std::atomic<bool> told_{false};
  mutable std::mutex mutex_;  // over all below, and held for no longer than a system call takes
  UniqueFd events_;
  Time next_try_{};
  int refusal_ = 0;  // errno of the last try
  int readers_ = 0;
  std::unordered_set<Member*> members_;
  std::unordered_map<int, std::vector<Member*>> watches_;
};

}  // namespace cluster::sqlite
