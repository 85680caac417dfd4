// Nodes of a platform as the others see them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/options.h"

namespace cluster {

enum class MemberState {
  live,
  left,     ///< ended by itself or by its guardian
  expired,  ///< ended by others, because it was silent
};

struct Member {
  std::string node{};
  std::string session{};          ///< id of its session
  std::uint64_t session_rev = 0;  ///< revision that began the session
  MemberState state = MemberState::live;
  Labels labels{};
  std::string host{};
  std::string version{};  ///< of cpp-cluster
  std::vector<std::string> apps{};
  double load = 0;
  std::string ended_by{};  ///< who ended the session and why; empty while it lives
  std::string started{};   ///< wall time of the session's start, RFC 3339, for people
};

}  // namespace cluster
