// Descriptors of processes. glibc 2.36 (Debian 12) declares these without C linkage in sys/pidfd.h,
// so that C++ can't link them: here are the system calls.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace cluster {

/// A descriptor, close-on-exec, or -1 with errno. Linux 5.3.
inline int open_pidfd(pid_t pid) noexcept {
  return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U));
}

/// 0, or -1 with errno. Linux 5.1.
inline int signal_pidfd(int pidfd, int signal) noexcept {
  return static_cast<int>(::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0U));
}

}  // namespace cluster
