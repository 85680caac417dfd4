#include "coord/node_folder.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cluster/clock.h"
#include "cluster/error.h"
#include "core/ids.h"
#include "core/log.h"

namespace cluster::coord {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw Error(Errc::system, what + ": " + std::strerror(errno));
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

// A process that has ended but was not reaped yet does not count, nor one of which only threads are
// left that the kernel has not ended yet.
bool running(pid_t pid) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/stat");
  const auto name_end = status.rfind(')');
  if (name_end != std::string::npos && status.size() > name_end + 2 &&
      std::string_view("ZXx").find(status[name_end + 2]) != std::string_view::npos)
    return false;
  int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return false;
  pollfd poll{fd, POLLIN, 0};
  bool ended = ::poll(&poll, 1, 0) == 1;
  ::close(fd);
  return !ended;
}

std::string random_part(const std::string& folder) {
  std::string path = folder + "/id";
  std::string id = read_file(path);
  if (!id.empty()) return id;
  id = random_id();
  std::string fresh = path + ".new";
  {
    std::ofstream file(fresh, std::ios::trunc);
    file << id << "\n";
    file.flush();
    if (!file)
      throw Error(Errc::system, "node folder: \"" + fresh +
                                    "\" can't be written: is the disk full or read-only?");
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) fail("node folder: rename to \"" + path + "\"");
  return id;
}

}  // namespace

NodeFolder::NodeFolder(const std::string& path, std::chrono::milliseconds patience) : path_(path) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error)
    throw Error(Errc::system, "node folder: \"" + path_ + "\" can't be made: " + error.message());

  std::string lock_path = path_ + "/lock";
  lock_fd_ = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd_ < 0) fail("node folder: \"" + lock_path + "\"");
  try {
    Time end = BootClock::now() + patience;
    bool told = false;
    while (::flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail("node folder: lock of \"" + lock_path + "\"");
      std::string owner = read_file(lock_path);
      int pid = std::atoi(owner.c_str());
      if (pid > 0 && running(pid))
        throw Error(Errc::node_already_present,
                    "node folder \"" + path_ + "\" is in use by process " + owner +
                        " on this host: stop that one, or give this node another name or folder");
      if (!told)
        log::info("waiting_for_guardian",
                  {{"folder", path_}, {"why", "it still cleans up after the node's last process"}});
      told = true;
      if (BootClock::now() >= end)
        throw Error(
            Errc::timeout,
            "node folder \"" + path_ +
                "\" is still locked by the guardian of a process that has ended (" + owner +
                "), which can't end everything that process had started: its log says what. "
                "End that by hand and try again");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    std::time_t now = std::time(nullptr);
    char since[32];
    std::tm utc{};
    ::gmtime_r(&now, &utc);
    std::strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", &utc);
    std::string owner = std::to_string(::getpid()) + " since " + since + "\n";
    if (::ftruncate(lock_fd_, 0) != 0 ||
        ::pwrite(lock_fd_, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size()))
      fail("node folder: \"" + lock_path + "\" can't be written");
    struct stat status{};
    if (::stat(path_.c_str(), &status) != 0) fail("node folder: \"" + path_ + "\"");
    id_ = random_part(path_) + "-" + std::to_string(status.st_dev) + "-" +
          std::to_string(status.st_ino);
  } catch (...) {
    ::close(lock_fd_);
    throw;
  }
}

NodeFolder::~NodeFolder() { ::close(lock_fd_); }

std::string default_node_folder(const std::string& platform, const std::string& node) {
  std::string base;
  if (const char* state = std::getenv("STATE_DIRECTORY"); state && *state) {
    base = std::string(state).substr(0, std::string(state).find(':'));
  } else if (::geteuid() == 0) {
    base = "/var/lib/cpp-cluster";
  } else if (const char* xdg = std::getenv("XDG_STATE_HOME"); xdg && *xdg) {
    base = std::string(xdg) + "/cpp-cluster";
  } else if (const char* home = std::getenv("HOME"); home && *home) {
    base = std::string(home) + "/.local/state/cpp-cluster";
  } else {
    throw Error(Errc::invalid_argument,
                "folder: neither STATE_DIRECTORY nor HOME is set; name a folder for the node");
  }
  return base + "/" + platform + "/" + node;
}

}  // namespace cluster::coord
