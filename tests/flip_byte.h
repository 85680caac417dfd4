// Changes a byte of a file as somebody does who knows nothing of SQLite: always to another value,
// and so that the file's time says it. The kernel's clock for that has ticks of some milliseconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/unique_fd.h"

namespace cluster {

/// `bits`: those that become another one.
inline void flip_byte(const std::string& path, std::int64_t offset, unsigned char bits = 1) {
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat before{}, after{};
  unsigned char byte = 0;
  if (!file || ::fstat(file.get(), &before) != 0 || ::pread(file.get(), &byte, 1, offset) != 1)
    throw std::runtime_error("no byte " + std::to_string(offset) + " of " + path);
  byte ^= bits;
  for (int tries = 0; tries < 1'000; ++tries) {
    if (::pwrite(file.get(), &byte, 1, offset) != 1 || ::fstat(file.get(), &after) != 0)
      throw std::runtime_error("byte " + std::to_string(offset) + " of " + path +
                               " stays as it is");
    if (before.st_ctim.tv_sec != after.st_ctim.tv_sec ||
        before.st_ctim.tv_nsec != after.st_ctim.tv_nsec)
      return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  throw std::runtime_error("the time of " + path + " stands still");
}

}  // namespace cluster
