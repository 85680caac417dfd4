// By LD_PRELOAD: writes to files whose name ends with CLUSTER_HELD_FILES wait as long as the file
// CLUSTER_HELD_FILES_WHILE exists, as on a disk that does not answer.
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

namespace {

bool is_held(int fd) {
  const char* suffix = std::getenv("CLUSTER_HELD_FILES");
  const char* hold = std::getenv("CLUSTER_HELD_FILES_WHILE");
  if (suffix == nullptr || hold == nullptr || ::access(hold, F_OK) != 0) return false;
  char link[64], path[4096];
  ::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  const std::size_t ends = std::strlen(suffix);
  return length >= static_cast<ssize_t>(ends) &&
         std::memcmp(path + length - ends, suffix, ends) == 0;
}

void wait_while_held(int fd) {
  const timespec pause{0, 5'000'000};
  while (is_held(fd)) ::nanosleep(&pause, nullptr);
}

}  // namespace

extern "C" {

ssize_t pwrite64(int fd, const void* bytes, size_t size, off64_t offset) {
  using Write = ssize_t (*)(int, const void*, size_t, off64_t);
  static const auto write = reinterpret_cast<Write>(::dlsym(RTLD_NEXT, "pwrite64"));
  wait_while_held(fd);
  return write(fd, bytes, size, offset);
}

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  return pwrite64(fd, bytes, size, offset);
}
}
