#include "sqlite/wal_watch.h"

#include <cstring>
#include <filesystem>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster::sqlite {
namespace {

Error failed(const std::string& what) {
  return Error(Errc::system, what + ": " + std::generic_category().message(errno));
}

}  // namespace

WalWatch::WalWatch(const std::string& database) : wal_path_(database + "-wal") {
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
  watch_wal();
}

// The same file is watched once, however often that is asked for.
void WalWatch::watch_wal() {
  const int watch = ::inotify_add_watch(events_.get(), wal_path_.c_str(), IN_MODIFY);
  if (watch < 0 && errno != ENOENT) throw failed("watch of " + wal_path_);
  if (watch >= 0) wal_watch_ = watch;
}

void WalWatch::take_events() {
  alignas(inotify_event) char buffer[4096];
  ssize_t n = 0;
  while ((n = ::read(events_.get(), buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < n;) {
      inotify_event event;
      std::memcpy(&event, buffer + at, sizeof event);
      const char* name = buffer + at + sizeof event;
      at += static_cast<ssize_t>(sizeof event + event.len);
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        written_ = files_ = true;
      } else if (event.wd == wal_watch_ && (event.mask & IN_MODIFY) != 0) {
        written_ = true;
      } else if (event.wd == folder_watch_ && event.len > 0) {
        const std::string file = name;
        if (file != name_ && file != name_ + "-wal") continue;
        files_ = true;
        watch_wal();
      }
    }
  }
}

WalWatch::Woken WalWatch::wait(Duration limit) {
  const Time end = BootClock::now() + limit;
  while (true) {
    take_events();
    if (std::exchange(files_, false)) return Woken::files;
    if (std::exchange(written_, false)) return Woken::written;
    eventfd_t calls = 0;
    if (::eventfd_read(calls_.get(), &calls) == 0) return Woken::called;
    const auto left = end - BootClock::now();
    if (left <= Duration(0)) return Woken::timeout;
    pollfd fds[2] = {{events_.get(), POLLIN, 0}, {calls_.get(), POLLIN, 0}};
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec wait{seconds.count(), static_cast<long>((left - seconds).count())};
    if (::ppoll(fds, 2, &wait, nullptr) < 0 && errno != EINTR)
      throw failed("wait for " + wal_path_);
  }
}

void WalWatch::wake() noexcept {
  // It fails only when so many calls wait that one more changes nothing.
  ::eventfd_write(calls_.get(), 1);
}

}  // namespace cluster::sqlite
