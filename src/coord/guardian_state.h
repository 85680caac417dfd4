// What a node and its guardian share in memory: until when the node may act, and what runs for it.
// The node alone writes, the guardian alone reads; every field is atomic, so a node killed at any
// instant leaves it whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include <sys/types.h>

#include "cluster/clock.h"

namespace cluster::coord {

constexpr std::size_t kMostGroups = 4096;  ///< process groups that one node may have

struct GuardianState {
  static constexpr std::uint64_t kMagic = 0x63706c6773743033u;  // "cplgst03"

  std::uint64_t magic = kMagic;
  /// Nanoseconds of CLOCK_BOOTTIME at which what runs must be gone; 0: now, nothing may run.
  std::atomic<std::int64_t> limit_ns{0};
  /// How long before the limit the guardian acts.
  std::atomic<std::int64_t> margin_ns{0};
  /// The session has been left in order, or there was none: nothing needs to be written.
  std::atomic<bool> left{true};
  /// The node is over, though its process may live on: as if that had ended.
  std::atomic<bool> over{false};
  /// Which of the two names is the session's: written first, then switched to.
  std::atomic<std::uint32_t> session_slot{0};
  char session[2][64] = {};
  std::atomic<pid_t> groups[kMostGroups] = {};
};

static_assert(std::atomic<std::int64_t>::is_always_lock_free);

/// The shared memory, mapped; from a new descriptor (node) or an inherited one (guardian).
class GuardianMemory {
 public:
  /// Makes it. Throws Error{system}.
  GuardianMemory();
  /// Maps the one behind `fd`. Throws Error{corrupt} when it is not what it should be.
  explicit GuardianMemory(int fd);
  ~GuardianMemory();
  GuardianMemory(const GuardianMemory&) = delete;
  GuardianMemory& operator=(const GuardianMemory&) = delete;

  int fd() const noexcept { return fd_; }
  GuardianState& state() noexcept { return *state_; }

  /// Node: the limit, Time{} for "nothing may run".
  void set_limit(Time limit, Duration margin);
  void set_session(const std::string& id);
  std::string session() const;
  /// Node: a process group began or ended. add_group throws Error{system} when there are too many.
  void add_group(pid_t group);
  void remove_group(pid_t group);
  /// SIGKILL to every group; how many there were.
  int kill_groups();

 private:
  int fd_ = -1;
  GuardianState* state_ = nullptr;
};

}  // namespace cluster::coord
