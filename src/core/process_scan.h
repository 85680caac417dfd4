// Finds and ends processes by what /proc says of them: by marks in their environment, or by process
// group. A mark is an assignment like "CPP_CLUSTER_INSTANCE=x" in the environment that a process
// was started with; its children inherit it, also those that leave the process group or lose their
// parent. A process that was started with a cleared environment, or that has overwritten its own,
// is not found by marks. All functions may be called from any thread and block only as long as
// reading /proc takes, unless they say otherwise.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "cluster/clock.h"

namespace cluster {

struct ScannedProcess {
  pid_t pid = 0;
  std::string command;  ///< its command line, shortened
};

/// The mark of everything that the node with this folder id has started.
std::string instance_mark(const std::string& folder_id);

/// The live processes, without the caller, whose environment holds every one of `marks` (at least
/// one).
std::vector<ScannedProcess> find_marked(const std::vector<std::string>& marks);

struct EndedProcesses {
  std::vector<ScannedProcess> ended;      ///< were killed
  std::vector<ScannedProcess> remaining;  ///< still there when the time was over
};

/// Sends SIGKILL to those that find_marked() finds, safe against reuse of process ids, and waits
/// until they are gone; repeats until none is left or `limit` is over. Throws Error{system} when it
/// may not send to one of them.
EndedProcesses end_marked(const std::vector<std::string>& marks, Duration limit);

/// Whether the group has a member that still runs; zombies don't count.
bool group_alive(pid_t group);

}  // namespace cluster
