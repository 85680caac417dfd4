#include "e2e/small_disk.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster::e2e {
namespace {

// Mounts of this thread are its own from now on.
bool unshare_mounts() {
  static const bool done = ::unshare(CLONE_NEWNS) == 0 &&
                           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return done;
}

}  // namespace

std::string SmallDisk::missing() {
  if (::geteuid() != 0) return "mounting a small disk needs root";
  if (!unshare_mounts()) return std::string("no mount namespace: ") + std::strerror(errno);
  return {};
}

SmallDisk::SmallDisk(const std::string& folder, std::uint64_t bytes) : folder_(folder) {
  std::filesystem::create_directories(folder_);
  const std::string size = "size=" + std::to_string(bytes);
  if (!unshare_mounts() || ::mount("tmpfs", folder_.c_str(), "tmpfs", 0, size.c_str()) != 0)
    throw Error(Errc::system, "mount at " + folder_ + ": " + std::strerror(errno));
}

SmallDisk::~SmallDisk() { ::umount2(folder_.c_str(), MNT_DETACH); }

void SmallDisk::fill() const {
  std::ofstream file(folder_ + "/filler", std::ios::binary | std::ios::app);
  const std::string block(4096, 'x');
  while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) continue;
}

void SmallDisk::make_room() const { std::filesystem::remove(folder_ + "/filler"); }

void SmallDisk::set_read_only(bool read_only) const {
  unsigned long flags = MS_REMOUNT;
  if (read_only) flags |= MS_RDONLY;
  if (::mount(nullptr, folder_.c_str(), nullptr, flags, nullptr) != 0)
    throw Error(Errc::system, "remount of " + folder_ + ": " + std::strerror(errno));
}

}  // namespace cluster::e2e
