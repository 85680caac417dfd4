#include "e2e/network.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <deque>

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster::e2e {
namespace {

constexpr std::size_t kQueueLimit = 10'000;  // packets under way in one direction
constexpr std::size_t kLargestPacket = 65'536;

[[noreturn]] void fail(const std::string& what) {
  throw Error(Errc::system, what + ": " + std::strerror(errno));
}

// Runs `ip` of iproute2 in this thread's network.
void ip(std::vector<std::string> arguments) {
  char program_name[] = "ip";
  std::vector<char*> pointers{program_name};
  for (auto& a : arguments) pointers.push_back(a.data());
  pointers.push_back(nullptr);
  char path[] = "PATH=/usr/sbin:/sbin:/usr/bin:/bin";
  char* environment[] = {path, nullptr};
  pid_t pid = 0;
  const char* program = ::access("/usr/sbin/ip", X_OK) == 0 ? "/usr/sbin/ip" : "/bin/ip";
  errno = ::posix_spawn(&pid, program, nullptr, nullptr, pointers.data(), environment);
  if (errno != 0) fail("can't start ip (package iproute2)");
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || status != 0) {
    std::string line = "ip ";
    for (const auto& a : arguments) line.append(a).append(" ");
    throw Error(Errc::system, line + "failed");
  }
}

int open_tun(const std::string& name) {
  const int fd = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail("/dev/net/tun");
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (::ioctl(fd, TUNSETIFF, &request) != 0) fail("TUN device " + name);
  return fd;
}

int this_network() {
  const int fd = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("/proc/thread-self/ns/net");
  return fd;
}

}  // namespace

struct Network::Wire {
  struct Packet {
    Time due{};
    std::string bytes{};
  };
  struct Way {
    int from = -1;
    int to = -1;
    Direction quality{};
    std::deque<Packet> packets{};
  };

  int network = -1;
  int here = -1;  // TUN devices
  int there = -1;
  std::array<Way, 2> ways{};  // from the host, to it
  std::uint64_t vanished = 0;

  ~Wire() {
    for (const int fd : {network, here, there})
      if (fd >= 0) ::close(fd);
  }
};

std::string Network::missing() {
  if (::geteuid() != 0) return "network namespaces need root";
  if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "there is no /dev/net/tun";
  return {};
}

Network::Network() : before_(this_network()), waker_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (waker_ < 0) fail("eventfd");
  if (::unshare(CLONE_NEWNET) != 0) fail("unshare");
  ip({"link", "set", "lo", "up"});
  ip({"address", "add", std::string(kAddress) + "/32", "dev", "lo"});
  // Hosts reach each other through this process.
  const int forward = ::open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);
  if (forward < 0 || ::write(forward, "1", 1) != 1) fail("/proc/sys/net/ipv4/ip_forward");
  ::close(forward);
  thread_ = std::thread([this] { pump(); });
}

Network::~Network() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  thread_.join();
  wires_.clear();
  ::setns(before_, CLONE_NEWNET);
  ::close(before_);
  ::close(waker_);
}

std::size_t Network::add_host() {
  auto wire = std::make_unique<Wire>();
  const std::size_t number = wires_.size();
  const std::string address = Network::address(number);
  const std::string name = "host-" + std::to_string(number);
  wire->here = open_tun(name);
  ip({"link", "set", name, "up"});
  ip({"route", "add", address + "/32", "dev", name, "src", kAddress});
  std::exception_ptr trouble;
  std::thread([&] {
    try {
      if (::unshare(CLONE_NEWNET) != 0) fail("unshare");
      wire->network = this_network();
      wire->there = open_tun("wire");
      ip({"link", "set", "lo", "up"});
      ip({"address", "add", address + "/32", "dev", "wire"});
      ip({"link", "set", "wire", "up"});
      ip({"route", "add", "default", "dev", "wire", "src", address});
    } catch (...) {
      trouble = std::current_exception();
    }
  }).join();
  if (trouble) std::rethrow_exception(trouble);
  wire->ways[0] = {.from = wire->there, .to = wire->here};
  wire->ways[1] = {.from = wire->here, .to = wire->there};
  {
    const std::lock_guard lock(mutex_);
    wires_.push_back(std::move(wire));
  }
  wake();
  return number;
}

std::string Network::address(std::size_t host) { return "10.77.0." + std::to_string(10 + host); }

std::string Network::path(std::size_t host) const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(wires_.at(host)->network);
}

void Network::set(std::size_t host, Direction from_host, Direction to_host) {
  const std::lock_guard lock(mutex_);
  wires_.at(host)->ways[0].quality = from_host;
  wires_.at(host)->ways[1].quality = to_host;
}

std::uint64_t Network::vanished(std::size_t host) const {
  const std::lock_guard lock(mutex_);
  return wires_.at(host)->vanished;
}

void Network::wake() const {
  const std::uint64_t one = 1;
  // It can only fail when the counter is full, and then the thread is awake.
  [[maybe_unused]] const auto written = ::write(waker_, &one, sizeof one);
}

void Network::pump() {
  std::uniform_real_distribution<double> chance(0, 1);
  std::string buffer(kLargestPacket, '\0');
  std::vector<pollfd> ready;
  for (;;) {
    Time next = Time::max();
    ready.assign(1, {.fd = waker_, .events = POLLIN, .revents = 0});
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      for (auto& wire : wires_) {
        for (auto& way : wire->ways) {
          ready.push_back({.fd = way.from, .events = POLLIN, .revents = 0});
          for (ssize_t size = 0; (size = ::read(way.from, buffer.data(), buffer.size())) > 0;) {
            if (way.quality.cut || way.packets.size() >= kQueueLimit ||
                chance(random_) < way.quality.loss) {
              ++wire->vanished;
              continue;
            }
            Time due = BootClock::now() + way.quality.delay;
            if (!way.packets.empty()) due = std::max(due, way.packets.back().due);
            way.packets.push_back({due, buffer.substr(0, static_cast<std::size_t>(size))});
          }
          // A cut swallows also what is under way.
          if (way.quality.cut) {
            wire->vanished += way.packets.size();
            way.packets.clear();
          }
          while (!way.packets.empty() && way.packets.front().due <= BootClock::now()) {
            const std::string& bytes = way.packets.front().bytes;
            if (::write(way.to, bytes.data(), bytes.size()) < 0) ++wire->vanished;
            way.packets.pop_front();
          }
          if (!way.packets.empty()) next = std::min(next, way.packets.front().due);
        }
      }
    }
    timespec wait{.tv_sec = 3600, .tv_nsec = 0};
    if (next != Time::max()) {
      const auto left = std::max(next - BootClock::now(), Duration::zero()).count();
      wait = {.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
    }
    ::ppoll(ready.data(), ready.size(), &wait, nullptr);
    std::uint64_t count = 0;
    [[maybe_unused]] const auto taken = ::read(waker_, &count, sizeof count);
  }
}

}  // namespace cluster::e2e
