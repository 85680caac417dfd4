// How many files this process may have open. A node with many databases needs more than the 1,024
// that systems give as a soft limit, and may raise that to the hard one by itself. What it starts
// gets the old one back: programs that use select() break when they are given descriptors beyond
// 1,023.
#pragma once

#include <sys/resource.h>

namespace cluster {

/// Raises this process' soft limit to the hard one; done once. Any thread.
void raise_open_files();
/// The limits that children are to have: those of before. Any thread; not between fork and exec.
rlimit open_files_of_children() noexcept;

}  // namespace cluster
