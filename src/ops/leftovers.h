// What an earlier run of this node left behind: programs that its crash, or the machine's, has not
// ended.
#pragma once

#include <string>
#include <vector>

#include "core/process_scan.h"

namespace cluster {

using Leftover = ScannedProcess;

/// Processes that a node with this folder id has started. Call it while holding the folder's lock
/// and before anything is started, so that what is found belongs to no live node.
std::vector<Leftover> find_leftovers(const std::string& marker);

/// Ends them (SIGKILL) and logs each; returns those that were ended. Blocks until they are gone.
/// Throws Error{backend_failed} that names what still runs after `limit`, and Error{system} when it
/// may not end one.
std::vector<Leftover> end_leftovers(const std::string& marker, Duration limit);

}  // namespace cluster
