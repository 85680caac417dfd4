#include "nats/connect_limit.h"

#include <cstdlib>

#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cluster::nats {
namespace {

constexpr auto kAgain = std::chrono::milliseconds(100);

int peer_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return -1;
  if (address.ss_family == AF_INET)
    return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  if (address.ss_family == AF_INET6)
    return ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
  return -1;
}

}  // namespace

ConnectLimit::ConnectLimit(int port, Duration limit)
    : port_(port),
      before_(sockets(false)),
      end_(BootClock::now() + limit),
      thread_([this] { watch(); }) {}

ConnectLimit::~ConnectLimit() {
  {
    std::lock_guard lock(mutex_);
    done_ = true;
    wake_.notify_all();
  }
  thread_.join();
}

void ConnectLimit::end_now() {
  std::lock_guard lock(mutex_);
  end_ = BootClock::now();
  wake_.notify_all();
}

bool ConnectLimit::over() {
  std::lock_guard lock(mutex_);
  return BootClock::now() >= end_;
}

void ConnectLimit::watch() {
  std::unique_lock lock(mutex_);
  while (!done_) {
    auto left = end_ - BootClock::now();
    if (left > Duration::zero()) {
      wake_.wait_for(lock, left);
      continue;
    }
    sockets(true);
    wake_.wait_for(lock, kAgain);  // it may have opened its socket only now
  }
}

std::set<std::string> ConnectLimit::sockets(bool shut_new) const {
  std::set<std::string> found;
  DIR* folder = ::opendir("/proc/self/fd");
  if (!folder) return found;
  while (auto* entry = ::readdir(folder)) {
    char* end = nullptr;
    auto fd = static_cast<int>(std::strtol(entry->d_name, &end, 10));
    if (end == entry->d_name || peer_port(fd) != port_) continue;
    char target[64];
    auto size = ::readlinkat(::dirfd(folder), entry->d_name, target, sizeof target);
    if (size <= 0) continue;
    std::string inode(target, static_cast<std::size_t>(size));
    if (shut_new && !before_.contains(inode)) ::shutdown(fd, SHUT_RDWR);
    found.insert(std::move(inode));
  }
  ::closedir(folder);
  return found;
}

}  // namespace cluster::nats
