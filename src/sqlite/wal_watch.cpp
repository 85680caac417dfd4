#include "sqlite/wal_watch.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "cluster/error.h"
#include "core/log.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

// So often in a row, with no longer pause, and the WAL is looked at by the clock for a while.
constexpr int kBusyRow = 32;
constexpr Duration kBusyPause = std::chrono::microseconds(500);
constexpr Duration kPace = std::chrono::microseconds(250);
constexpr Duration kPaced = milliseconds(50);

// What can't be watched is looked at so often: a stat() of two files each time.
constexpr Duration kFirstPoll = milliseconds(1);
constexpr Duration kLastPoll = milliseconds(20);
// A file system's clock may stand still for so long: then what is written has no other time.
constexpr Duration kCoarseClock = milliseconds(25);
constexpr Duration kNextWatch = std::chrono::seconds(10);

template <typename File>
bool same(const File& a, const File& b) {
  return a.inode == b.inode && a.size == b.size && a.written.tv_sec == b.written.tv_sec &&
         a.written.tv_nsec == b.written.tv_nsec;
}

std::string advice(int why, bool instance) {
  if (instance && why == EMFILE)
    return "raise /proc/sys/fs/inotify/max_user_instances, which holds for all processes of this "
           "user, or the limit of open files (systemd: LimitNOFILE=)";
  if (why == ENOSPC) return "raise /proc/sys/fs/inotify/max_user_watches";
  if (why == EACCES) return "let this node's user read the folder";
  return "see the reason";
}

}  // namespace

WalWatch::WalWatch(const std::string& database, Inotify& inotify)
    : path_(std::filesystem::absolute(database)),
      wal_path_(path_ + "-wal"),
      folder_(std::filesystem::path(path_).parent_path()),
      inotify_(inotify),
      member_(inotify, std::filesystem::path(path_).filename()) {
  if (struct stat found{}; ::stat(folder_.c_str(), &found) != 0)
    throw Error(Errc::system,
                "watch of folder " + folder_ + ": " + std::generic_category().message(errno));
  watch();
}

// The same file is watched once, however often that is asked for.
void WalWatch::watch() {
  int why = member_.watch_folder(folder_);
  if (why == 0) why = member_.watch_files(path_, wal_path_);
  const bool before = polled_;
  polled_ = why != 0;
  if (!polled_) return;
  next_try_ = BootClock::now() + kNextWatch;
  if (!before) not_watched(why);
}

void WalWatch::not_watched(int why) {
  poll_pause_ = kFirstPoll;
  look();
  if (!inotify_.first_refusal()) return;
  log::warn("wal_not_watched",
            {{"path", path_},
             {"why", std::generic_category().message(why)},
             {"means",
              "what is committed to this database, and to others that can't be watched, is looked "
              "for every few milliseconds: it is replicated up to 20 ms later"},
             {"do", advice(why, inotify_.missing())}});
}

WalWatch::Woken WalWatch::written() {
  const Time now = BootClock::now();
  in_a_row_ = now - last_written_ < kBusyPause ? in_a_row_ + 1 : 0;
  last_written_ = now;
  if (in_a_row_ >= kBusyRow) {
    member_.unwatch_files();
    paced_until_ = now + kPaced;
    in_a_row_ = 0;
  }
  return Woken::written;
}

// By the clock.
WalWatch::Woken WalWatch::look() {
  const auto file_at = [](const std::string& path) {
    struct stat found{};
    if (::stat(path.c_str(), &found) != 0) return Look::File{};
    return Look::File{found.st_ino, found.st_size, found.st_mtim};
  };
  const Look before = std::exchange(seen_, {file_at(path_), file_at(wal_path_)});
  const bool files =
      before.database.inode != seen_.database.inode || before.wal.inode != seen_.wal.inode;
  const bool changed = !same(before.database, seen_.database) || !same(before.wal, seen_.wal);
  const Time at = BootClock::now();
  if (changed) changed_ = at;
  if (at - changed_ >= kCoarseClock) {
    poll_pause_ = std::min(poll_pause_ * 2, kLastPoll);
    return Woken::timeout;
  }
  poll_pause_ = kFirstPoll;
  return files ? Woken::files : Woken::written;
}

WalWatch::Woken WalWatch::wait(Duration limit) {
  const Time end = BootClock::now() + limit;
  while (true) {
    Time now = BootClock::now();
    const bool paced = paced_until_ != Time{};
    if (paced && now >= paced_until_) {
      // What was written before it is watched again has to be looked for.
      paced_until_ = {};
      watch();
      return Woken::written;
    }
    Duration slice = std::max<Duration>(end - now, Duration(0));
    if (paced)
      slice = std::min(slice, kPace);
    else if (polled_)
      slice = std::min(slice, poll_pause_);
    const auto woken = member_.wait(slice, paced);
    if (woken.files) {
      watch();
      return Woken::files;
    }
    if (woken.written) return written();
    if (woken.called) return Woken::called;
    if (paced && slice > Duration(0)) return Woken::written;
    now = BootClock::now();
    if (polled_ && now >= next_try_) watch();
    if (polled_)
      if (const Woken found = look(); found != Woken::timeout) return found;
    if (now >= end) return Woken::timeout;
  }
}

}  // namespace cluster::sqlite
