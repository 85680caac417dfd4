// Hosts with a network of their own, and wires to them that can be cut, slow and lossy, each
// direction for itself: what a test needs of a network, on one machine. Needs root.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cluster/clock.h"

namespace cluster::e2e {

/// While one lives, this thread and what it starts are in a network namespace that sees nothing of
/// the machine's. Make it before anything that has threads, and outlive all of that.
///
/// Each host is a further namespace; a TUN device here and one there are joined by a thread of this
/// process that passes IP packets on, late or not at all, as it is told. (The kernel's netem does
/// the same, where it is built in.)
class Network {
 public:
  /// Why this machine or user can't have one; empty: nothing is in the way.
  static std::string missing();

  Network();
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// Where this process is reached from all hosts.
  static constexpr const char* kAddress = "10.77.0.1";

  /// Returns its number, from 0.
  std::size_t add_host();
  static std::string address(std::size_t host);
  /// To be entered: see Child::Options::network_of.
  std::string path(std::size_t host) const;

  struct Direction {
    bool cut = false;   ///< nothing passes, and nobody is told
    Duration delay{0};  ///< of each packet; their order stays
    double loss = 0;    ///< share of packets that vanish, 0 to 1
  };
  void set(std::size_t host, Direction from_host, Direction to_host);
  void cut(std::size_t host) { set(host, {.cut = true}, {.cut = true}); }
  void heal(std::size_t host) { set(host, {}, {}); }
  /// Packets that vanished on that host's wire, both ways.
  std::uint64_t vanished(std::size_t host) const;

 private:
  struct Wire;
  void pump();
  void wake() const;

  int before_ = -1;  // the namespace that this thread was in
  int waker_ = -1;
  mutable std::mutex mutex_;
  bool stop_ = false;
  std::vector<std::unique_ptr<Wire>> wires_;
  std::mt19937 random_{1};
  std::thread thread_;
};

}  // namespace cluster::e2e
