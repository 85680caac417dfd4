#include "sqlite/wal_watch.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/log.h"

namespace cluster::sqlite {
namespace {

// So often in a row, with no longer pause, and the WAL is looked at by the clock for a while.
constexpr int kBusyRow = 32;
constexpr Duration kBusyPause = std::chrono::microseconds(500);
constexpr Duration kPace = std::chrono::microseconds(250);
constexpr Duration kPaced = std::chrono::milliseconds(50);

Error failed(const std::string& what) {
  return Error(Errc::system, what + ": " + std::generic_category().message(errno));
}

}  // namespace

WalWatch::WalWatch(const std::string& database) : paths_{database, database + "-wal"} {
  const auto path = std::filesystem::absolute(database);
  name_ = path.filename();
  events_ = UniqueFd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!events_)
    throw failed("watch of " + database +
                 ": inotify (the limit is /proc/sys/fs/inotify/max_user_instances)");
  calls_ = UniqueFd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!calls_) throw failed("watch of " + database + ": eventfd");
  folder_watch_ =
      ::inotify_add_watch(events_.get(), path.parent_path().c_str(),
                          IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR);
  if (folder_watch_ < 0) throw failed("watch of folder " + path.parent_path().string());
  watch_files();
}

// The same file is watched once, however often that is asked for. Without a watch it is looked at
// all the same, only not at once.
void WalWatch::watch_files() {
  bool failed = false;
  for (int i = 0; i < 2; ++i) {
    const int watch = ::inotify_add_watch(events_.get(), paths_[i].c_str(), IN_MODIFY);
    if (watch >= 0) file_watches_[i] = watch;
    if (watch >= 0 || errno == ENOENT) continue;
    failed = true;
    if (!unwatched_)
      log::warn("wal_not_watched",
                {{"path", paths_[i]},
                 {"why", std::generic_category().message(errno)},
                 {"means",
                  "what is committed is seen some times a second only; the limit is "
                  "/proc/sys/fs/inotify/max_user_watches"}});
  }
  unwatched_ = failed;
}

void WalWatch::unwatch_files() {
  for (int& watch : file_watches_)
    if (const int was = std::exchange(watch, -1); was >= 0) ::inotify_rm_watch(events_.get(), was);
}

WalWatch::Woken WalWatch::written() {
  const Time now = BootClock::now();
  in_a_row_ = now - last_written_ < kBusyPause ? in_a_row_ + 1 : 0;
  last_written_ = now;
  if (in_a_row_ >= kBusyRow) {
    unwatch_files();
    paced_until_ = now + kPaced;
    in_a_row_ = 0;
  }
  return Woken::written;
}

void WalWatch::take_events() {
  alignas(inotify_event) char buffer[4096];
  ssize_t n = sizeof buffer;
  // Until fewer came than there was room for: a busy writer makes more all the time.
  while (n > static_cast<ssize_t>(sizeof buffer / 2) &&
         (n = ::read(events_.get(), buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < n;) {
      inotify_event event;
      std::memcpy(&event, buffer + at, sizeof event);
      const char* name = buffer + at + sizeof event;
      at += static_cast<ssize_t>(sizeof event + event.len);
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        written_ = files_ = true;
      } else if ((event.wd == file_watches_[0] || event.wd == file_watches_[1]) &&
                 (event.mask & IN_MODIFY) != 0) {
        written_ = true;
      } else if (event.wd == folder_watch_ && event.len > 0) {
        const std::string file = name;
        if (file != name_ && file != name_ + "-wal") continue;
        files_ = true;
        watch_files();
      }
    }
  }
}

WalWatch::Woken WalWatch::wait(Duration limit) {
  const Time end = BootClock::now() + limit;
  while (true) {
    // Whoever is woken looks at everything: a call that came with a write is done with it.
    eventfd_t calls = 0;
    const bool called = ::eventfd_read(calls_.get(), &calls) == 0;
    take_events();
    if (std::exchange(files_, false)) return Woken::files;
    if (std::exchange(written_, false)) return written();
    if (called) return Woken::called;
    const Time now = BootClock::now();
    auto left = end - now;
    const bool paced = paced_until_ != Time{};
    if (paced && now >= paced_until_) {
      // What was written before it is watched again has to be looked for.
      paced_until_ = {};
      watch_files();
      return Woken::written;
    }
    if (left <= Duration(0)) return Woken::timeout;
    if (paced) left = std::min(left, kPace);
    pollfd fds[2] = {{events_.get(), POLLIN, 0}, {calls_.get(), POLLIN, 0}};
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec wait{seconds.count(), static_cast<long>((left - seconds).count())};
    const int ready = ::ppoll(fds, 2, &wait, nullptr);
    if (ready < 0 && errno != EINTR) throw failed("wait for " + paths_[1]);
    if (ready == 0 && paced) return Woken::written;
  }
}

void WalWatch::wake() noexcept {
  // It fails only when so many calls wait that one more changes nothing.
  ::eventfd_write(calls_.get(), 1);
}

}  // namespace cluster::sqlite
