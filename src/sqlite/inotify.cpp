#include "sqlite/inotify.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include "cluster/error.h"

namespace cluster::sqlite {
namespace {

constexpr Duration kNextTry = std::chrono::seconds(10);
// Whoever had an event within this reads for itself, so that no other thread is on the way of the
// next one. Each event wakes all who read, so they are few.
constexpr Duration kActive = std::chrono::milliseconds(100);
constexpr int kMostReaders = 4;

timespec timespec_of(Duration time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {seconds.count(), static_cast<long>((time - seconds).count())};
}

}  // namespace

// Never destroyed: closing it would take the kernel long, and threads may still wait.
Inotify& Inotify::of_process() {
  static auto& instance = *new Inotify;
  return instance;
}

bool Inotify::missing() const {
  const std::lock_guard lock(mutex_);
  return !events_;
}

// 0, or errno. Where there is none it is tried again now and then: limits can be raised.
int Inotify::open() {
  if (events_) return 0;
  if (refused_) return EMFILE;
  const Time now = BootClock::now();
  if (now < next_try_) return refusal_;
  next_try_ = now + kNextTry;
  events_ = UniqueFd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  refusal_ = events_ ? 0 : errno;
  return refusal_;
}

int Inotify::watch(Member& member, int Member::* place, const std::string& path,
                   std::uint32_t mask) {
  const std::lock_guard lock(mutex_);
  if (const int why = open(); why != 0) return why;
  // Of a file that is watched already, by whomever, this is the same number.
  const int id = ::inotify_add_watch(events_.get(), path.c_str(), mask);
  if (id < 0) return errno;
  if (member.*place == id) return 0;
  drop(member, place);
  member.*place = id;
  watches_[id].push_back(&member);
  return 0;
}

void Inotify::drop(Member& member, int Member::* place) {
  const auto it = watches_.find(std::exchange(member.*place, -1));
  if (it == watches_.end()) return;
  std::erase(it->second, &member);
  if (!it->second.empty()) return;
  ::inotify_rm_watch(events_.get(), it->first);
  watches_.erase(it);
}

void Inotify::take_events() {
  if (!events_) return;
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
      dispatch(event.wd, event.mask, event.len > 0 ? name : "");
    }
  }
}

void Inotify::dispatch(int watch, std::uint32_t mask, const char* name) {
  if ((mask & IN_Q_OVERFLOW) != 0) {
    for (Member* member : members_) {
      member->files_ = member->written_ = true;
      tell(*member);
    }
    return;
  }
  const auto it = watches_.find(watch);
  if (it == watches_.end()) return;
  for (Member* member : it->second) {
    const bool file = watch == member->wal_watch_ || watch == member->database_watch_;
    if (file && (mask & IN_MODIFY) != 0)
      member->written_ = true;
    else if (watch == member->folder_watch_ && (member->database_ == name || member->wal_ == name))
      member->files_ = true;
    else
      continue;
    tell(*member);
  }
  if ((mask & IN_IGNORED) == 0) return;
  // The file is gone for good, and so is the watch.
  for (Member* member : it->second)
    for (auto place : {&Member::folder_watch_, &Member::database_watch_, &Member::wal_watch_})
      if (member->*place == watch) member->*place = -1;
  watches_.erase(it);
}

void Inotify::tell(Member& member) {
  member.active_ = BootClock::now();
  if (std::exchange(member.blocked_, false)) ::eventfd_write(member.wake_.get(), 1);
}

bool Inotify::may_read(const Member& member) const {
  if (!events_ || member.paced_) return false;
  return readers_ == 0 || (readers_ < kMostReaders && BootClock::now() - member.active_ < kActive);
}

// While anybody waits, somebody reads: the one who has rested longest, and so will be there
// longest.
void Inotify::appoint() {
  if (readers_ > 0) return;
  Member* best = nullptr;
  for (Member* member : members_)
    if (member->blocked_ && !member->paced_ && (best == nullptr || member->active_ < best->active_))
      best = member;
  if (best != nullptr) ::eventfd_write(best->wake_.get(), 1);
}

Inotify::Member::Member(Inotify& inotify, std::string database)
    : inotify_(inotify), database_(std::move(database)), wal_(database_ + "-wal") {
  wake_ = UniqueFd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake_)
    throw Error(Errc::system,
                "watch of " + database_ + ": eventfd: " + std::generic_category().message(errno));
  const std::lock_guard lock(inotify_.mutex_);
  inotify_.members_.insert(this);
}

Inotify::Member::~Member() {
  const std::lock_guard lock(inotify_.mutex_);
  for (auto place : {&Member::folder_watch_, &Member::database_watch_, &Member::wal_watch_})
    inotify_.drop(*this, place);
  inotify_.members_.erase(this);
}

int Inotify::Member::watch_folder(const std::string& folder) {
  return inotify_.watch(*this, &Member::folder_watch_, folder,
                        IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR);
}

int Inotify::Member::watch_files(const std::string& database, const std::string& wal) {
  const int one = inotify_.watch(*this, &Member::database_watch_, database, IN_MODIFY);
  const int other = inotify_.watch(*this, &Member::wal_watch_, wal, IN_MODIFY);
  for (const int why : {one, other})
    if (why != 0 && why != ENOENT) return why;
  return 0;
}

void Inotify::Member::unwatch_files() {
  const std::lock_guard lock(inotify_.mutex_);
  inotify_.drop(*this, &Member::database_watch_);
  inotify_.drop(*this, &Member::wal_watch_);
}

void Inotify::Member::call() noexcept {
  called_ = true;
  // It fails only when so many calls wait that one more changes nothing.
  ::eventfd_write(wake_.get(), 1);
}

Inotify::Member::Woken Inotify::Member::wait(Duration limit, bool paced) {
  const Time end = BootClock::now() + limit;
  std::unique_lock lock(inotify_.mutex_);
  paced_ = paced;
  int failure = 0;
  while (failure == 0) {
    // Whoever is woken looks at everything: a call that came with a write is done with it.
    eventfd_t calls = 0;
    ::eventfd_read(wake_.get(), &calls);
    inotify_.take_events();
    const Duration left = end - BootClock::now();
    if (files_ || written_ || called_ || left <= Duration(0)) break;
    reads_ = inotify_.may_read(*this);
    if (reads_) ++inotify_.readers_;
    blocked_ = true;
    pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {inotify_.events_.get(), POLLIN, 0}};
    const nfds_t count = reads_ ? 2 : 1;
    const timespec wait = timespec_of(left);
    lock.unlock();
    const int ready = ::ppoll(fds, count, &wait, nullptr);
    if (ready < 0 && errno != EINTR) failure = errno;
    lock.lock();
    blocked_ = false;
    if (std::exchange(reads_, false)) --inotify_.readers_;
  }
  inotify_.appoint();
  if (failure != 0)
    throw Error(Errc::system, "wait for the WAL of " + database_ + ": " +
                                  std::generic_category().message(failure));
  return {std::exchange(files_, false), std::exchange(written_, false), called_.exchange(false)};
}

}  // namespace cluster::sqlite
