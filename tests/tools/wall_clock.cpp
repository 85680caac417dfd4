// By LD_PRELOAD: wall time moved by as many seconds as the file CLUSTER_WALL_CLOCK says at that
// moment. Other clocks stay, as on a machine whose date is set.
#include <cstdint>
#include <cstdlib>

#include <algorithm>
#include <cerrno>

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

std::int64_t moved_by() {
  const char* path = std::getenv("CLUSTER_WALL_CLOCK");
  if (path == nullptr) return 0;
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[32] = {};
  const bool read = ::read(fd, text, sizeof text - 1) > 0;
  ::close(fd);
  return read ? std::strtoll(text, nullptr, 10) : 0;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += moved_by();
  return static_cast<int>(result);
}

int gettimeofday(timeval* now, void*) noexcept {
  timespec exact{};
  if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

// A wait until a wall time lasts until the clock shows it, also when it is set meanwhile.
int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           const timespec* until) {
  using Wait = int (*)(pthread_cond_t*, pthread_mutex_t*, const timespec*);
  static const auto wait =
      reinterpret_cast<Wait>(::dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"));
  constexpr std::int64_t kSecond = 1'000'000'000;
  constexpr std::int64_t kSlice = 20'000'000;
  for (;;) {
    timespec shown{};
    clock_gettime(CLOCK_REALTIME, &shown);
    const std::int64_t left =
        (until->tv_sec - shown.tv_sec) * kSecond + until->tv_nsec - shown.tv_nsec;
    if (left <= 0) return ETIMEDOUT;
    timespec slice{};
    ::syscall(SYS_clock_gettime, CLOCK_REALTIME, &slice);
    const std::int64_t end = slice.tv_nsec + std::min(left, kSlice);
    slice.tv_sec += end / kSecond;
    slice.tv_nsec = end % kSecond;
    const int result = wait(condition, mutex, &slice);
    if (result != ETIMEDOUT) return result;
  }
}

time_t time(time_t* out) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
}
