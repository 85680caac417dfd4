// cpp-cluster lock hold: a node for as long as a command runs, that holds a lock.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "cli/command.h"

namespace cluster::cli {

struct HoldRequest {
  std::string app{};  ///< empty: the platform's lock
  std::string name{};
  std::string note{};
  std::chrono::milliseconds wait{};
  std::vector<std::string> command{};  ///< empty: holds it until SIGINT or SIGTERM
};

/// The command's exit status. Throws CommandError and Error.
Exit hold_lock(const CommonFlags& flags, const HoldRequest& request);

}  // namespace cluster::cli
