// Starts a program as a child in a process group of its own: everything that may block or allocate
// is prepared first, then forked. The child waits at a gate before exec, and dies with the thread
// that forked it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "cluster/backend.h"
#include "core/unique_fd.h"

namespace cluster {

/// A program that is ready to be forked.
struct Launch {
  std::string program;                   ///< absolute, or relative to `folder`
  std::vector<std::string> arguments;    ///< with the program's name as given first
  std::vector<std::string> environment;  ///< NAME=value
  std::string folder;                    ///< empty: the node's
  std::string user;                      ///< empty: no switch
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  UniqueFd input;       ///< /dev/null
  UniqueFd output;      ///< the log file; none: the node's output
  off_t log_start = 0;  ///< the log file's size before this start
};

/// Looks up program and user, opens the log file. `environment` is the node's, to which the
/// process's own and `extra` are added. May block. Throws Error{backend_failed} that says what is
/// missing and what to do.
Launch prepare_launch(const Process& process, const std::vector<std::string>& environment,
                      const std::vector<std::string>& extra);

/// The environment of the calling process, without what systemd meant for it alone.
std::vector<std::string> node_environment();

/// A child that has been forked, and has not been reaped.
struct Child {
  pid_t pid = 0;  ///< also its process group
  UniqueFd pidfd;
  UniqueFd gate;         ///< open_gate() lets it exec; closing it unopened makes it exit
  UniqueFd exec_result;  ///< for exec_failure(); readable once exec has happened or failed
};

/// Forks. The calling thread must live as long as the child should. Throws Error{backend_failed}.
Child spawn(const Launch& launch);
void open_gate(Child& child);

enum class ExecState { pending, done, failed };
/// What became of exec; with `failed`, `why` says what to do. Doesn't block.
ExecState exec_state(const Child& child, const Launch& launch, std::string& why);

}  // namespace cluster
