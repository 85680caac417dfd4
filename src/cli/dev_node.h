// One node of `cpp-cluster dev`: this same program as a child, `run` with a file of its own, its
// output line by line behind its name. Started again when it dies.
#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "core/loop.h"

namespace cluster::cli {

struct DevNodeOptions {
  std::string name{};
  int number = 1;          ///< picks its colour
  std::string file{};      ///< configuration, written here; may hold secrets
  std::string yaml{};      ///< its content
  std::string log_file{};  ///< empty: lines go to standard output
  bool restart = true;     ///< a second after it has died
};

class DevNode {
 public:
  /// Starts it. Throws Error when the program can't be started.
  DevNode(Loop& loop, DevNodeOptions options);
  /// Kills it if it still runs.
  ~DevNode();
  DevNode(const DevNode&) = delete;
  DevNode& operator=(const DevNode&) = delete;

  const std::string& name() const noexcept;
  const std::string& log_file() const noexcept;
  pid_t pid() const noexcept;  ///< 0 while it does not run
  bool running() const noexcept { return pid() != 0; }
  /// Asks it to stop in order; it is not started again.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cluster::cli
