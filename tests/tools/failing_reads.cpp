// By LD_PRELOAD: reads of files whose name ends with CLUSTER_FAILING_READS fail with EIO where they
// meet the byte whose place the file CLUSTER_FAILING_READS_AT says, as on a disk with a sector that
// can't be read. Writing to that byte mends it: that file is removed.
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

bool has_the_name(int fd) {
  const char* suffix = std::getenv("CLUSTER_FAILING_READS");
  if (suffix == nullptr) return false;
  char link[64], path[4096];
  // The thread may have descriptors of its own.
  ::snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  const std::size_t ends = std::strlen(suffix);
  return length >= static_cast<ssize_t>(ends) &&
         std::memcmp(path + length - ends, suffix, ends) == 0;
}

// -1: none fails. By system calls alone: nothing of this may come back here.
long long failing_byte() {
  const char* path = std::getenv("CLUSTER_FAILING_READS_AT");
  if (path == nullptr || ::access(path, F_OK) != 0) return -1;
  const long fd = ::syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  char text[32] = {};
  const long got = ::syscall(SYS_read, fd, text, sizeof text - 1);
  ::syscall(SYS_close, fd);
  return got <= 0 ? -1 : std::strtoll(text, nullptr, 10);
}

bool meets(int fd, size_t size, off64_t offset) {
  const long long byte = failing_byte();
  return byte >= offset && byte < offset + static_cast<off64_t>(size) && has_the_name(fd);
}

}  // namespace

extern "C" {

ssize_t pread64(int fd, void* bytes, size_t size, off64_t offset) {
  using Read = ssize_t (*)(int, void*, size_t, off64_t);
  static const auto read = reinterpret_cast<Read>(::dlsym(RTLD_NEXT, "pread64"));
  if (meets(fd, size, offset)) {
    errno = EIO;
    return -1;
  }
  return read(fd, bytes, size, offset);
}

ssize_t pread(int fd, void* bytes, size_t size, off_t offset) {
  return pread64(fd, bytes, size, offset);
}

// Nothing is in the page cache.
ssize_t preadv2(int, const iovec*, int, off_t, int) {
  errno = EAGAIN;
  return -1;
}

ssize_t pwrite64(int fd, const void* bytes, size_t size, off64_t offset) {
  using Write = ssize_t (*)(int, const void*, size_t, off64_t);
  static const auto write = reinterpret_cast<Write>(::dlsym(RTLD_NEXT, "pwrite64"));
  const ssize_t done = write(fd, bytes, size, offset);
  if (done > 0 && meets(fd, static_cast<size_t>(done), offset))
    ::unlink(std::getenv("CLUSTER_FAILING_READS_AT"));
  return done;
}

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  return pwrite64(fd, bytes, size, offset);
}
}
