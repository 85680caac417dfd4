// Work with files that must not touch the locks of this process. POSIX locks, SQLite's among them,
// belong to the process' table of descriptors: whoever closes any descriptor of a file drops all
// locks that the process has on it. A thread with a table of its own has no part in that.
#pragma once

#include <functional>

namespace cluster {

/// Runs `task` on a thread that has no descriptor but those that it opens itself, and waits for it.
/// What the task throws is rethrown here. The disk serves the thread when nobody else wants it, as
/// far as its scheduler knows that.
///
/// The task must use nothing that needs one of the process' descriptors: no log, no loop, not even
/// standard error. Throws Error{system} where the kernel can't give such a thread (Linux before
/// 5.9).
void with_own_files(const std::function<void()>& task);

}  // namespace cluster
