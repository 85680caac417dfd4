#include "core/own_files.h"

#include <cerrno>
#include <exception>
#include <string>
#include <system_error>
#include <thread>

#include <linux/close_range.h>
#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster {
namespace {

// Before anything is copied into the new table: what the thread would keep open otherwise, others
// would wait to see closed.
int leave_all_files() {
  return ::syscall(SYS_close_range, 0U, ~0U, CLOSE_RANGE_UNSHARE) == 0 ? 0 : errno;
}

// Of this thread alone. Only a hint: where it is refused, the thread reads as others do.
void read_when_idle() {
  ::syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

}  // namespace

void with_own_files(const std::function<void()>& task) {
  int refused = 0;
  std::exception_ptr thrown;
  const auto run = [&] {
    refused = leave_all_files();
    if (refused != 0) return;
    read_when_idle();
    try {
      task();
    } catch (...) {
      thrown = std::current_exception();
    }
  };
  try {
    std::thread(run).join();
  } catch (const std::system_error& error) {
    throw Error(Errc::system,
                std::string("there is no thread to read files with: ") + error.what());
  }
  if (refused != 0)
    throw Error(Errc::system,
                "this kernel gives no thread a table of descriptors of its own (close_range, Linux "
                "5.9 or newer): " +
                    std::generic_category().message(refused));
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace cluster
