#include "coord/guardian_state.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster::coord {

GuardianMemory::GuardianMemory() {
  fd_ = ::memfd_create("cpp-cluster-guardian", MFD_CLOEXEC);
  if (fd_ < 0 || ::ftruncate(fd_, sizeof(GuardianState)) != 0)
    throw Error(Errc::system, std::string("guardian: shared memory: ") + std::strerror(errno));
  void* memory = ::mmap(nullptr, sizeof(GuardianState), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (memory == MAP_FAILED)
    throw Error(Errc::system, std::string("guardian: mmap: ") + std::strerror(errno));
  state_ = new (memory) GuardianState();
}

GuardianMemory::GuardianMemory(int fd) : fd_(fd) {
  if (::lseek(fd, 0, SEEK_END) < static_cast<off_t>(sizeof(GuardianState)))
    throw Error(Errc::corrupt,
                "guardian: descriptor " + std::to_string(fd) + " is no shared memory of a node");
  void* memory = ::mmap(nullptr, sizeof(GuardianState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED)
    throw Error(Errc::system, std::string("guardian: mmap: ") + std::strerror(errno));
  state_ = static_cast<GuardianState*>(memory);
  if (state_->magic != GuardianState::kMagic)
    throw Error(Errc::incompatible,
                "guardian: the shared memory is of another version of cpp-cluster: install node "
                "and guardian together");
}

GuardianMemory::~GuardianMemory() {
  ::munmap(state_, sizeof(GuardianState));
  ::close(fd_);
}

void GuardianMemory::set_limit(Time limit, Duration margin) {
  state_->margin_ns.store(margin.count());
  state_->limit_ns.store(limit.time_since_epoch().count());
}

void GuardianMemory::set_session(const std::string& id) {
  std::uint32_t slot = 1 - state_->session_slot.load();
  std::strncpy(state_->session[slot], id.c_str(), sizeof state_->session[slot] - 1);
  state_->session_slot.store(slot);
  state_->left.store(id.empty());
}

std::string GuardianMemory::session() const {
  return state_->session[state_->session_slot.load() & 1];
}

void GuardianMemory::add_group(pid_t group) {
  for (auto& slot : state_->groups) {
    pid_t none = 0;
    if (slot.compare_exchange_strong(none, group)) return;
  }
  throw Error(Errc::system,
              "guardian: more than " + std::to_string(kMostGroups) + " process groups");
}

void GuardianMemory::remove_group(pid_t group) {
  for (auto& slot : state_->groups) {
    pid_t expected = group;
    if (slot.compare_exchange_strong(expected, 0)) return;
  }
}

int GuardianMemory::kill_groups() {
  int count = 0;
  for (auto& slot : state_->groups) {
    pid_t group = slot.load();
    if (group > 1 && ::kill(-group, SIGKILL) == 0) ++count;
  }
  return count;
}

}  // namespace cluster::coord
