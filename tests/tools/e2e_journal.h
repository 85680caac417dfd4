// The journal that all processes of an end-to-end test append to: one line an event, one write(2) a
// line, times of the clock that all processes of a machine share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace cluster::e2e {

inline std::int64_t boot_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

/// Lines: time, process, node, app, event, epoch, detail (the rest).
class Journal {
 public:
  explicit Journal(const std::string& path)
      : fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) {
      std::perror(path.c_str());
      std::exit(2);
    }
  }

  void write(std::int64_t ns, const std::string& node, const std::string& app, const char* event,
             std::uint64_t epoch, const std::string& detail = "-") const {
    const std::string line = std::to_string(ns) + ' ' + std::to_string(::getpid()) + ' ' + node +
                             ' ' + app + ' ' + event + ' ' + std::to_string(epoch) + ' ' + detail +
                             '\n';
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      std::perror("journal");
      std::exit(2);
    }
  }

 private:
  int fd_;
};

/// A file of one T that several processes share; T is trivial and starts as zeros.
template <typename T>
T* map_shared(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0 || ::ftruncate(fd, sizeof(T)) != 0) {
    std::perror(path.c_str());
    std::exit(2);
  }
  void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) {
    std::perror("mmap");
    std::exit(2);
  }
  return static_cast<T*>(memory);
}

}  // namespace cluster::e2e
