#include "core/open_files.h"

#include <mutex>
#include <optional>

namespace cluster {
namespace {

std::mutex mutex_of_limits;
std::optional<rlimit> limits_before;

}  // namespace

void raise_open_files() {
  const std::lock_guard lock(mutex_of_limits);
  if (limits_before) return;
  rlimit limits{};
  if (::getrlimit(RLIMIT_NOFILE, &limits) != 0 || limits.rlim_cur == limits.rlim_max) return;
  rlimit raised = limits;
  raised.rlim_cur = raised.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limits_before = limits;
}

rlimit open_files_of_children() noexcept {
  const std::lock_guard lock(mutex_of_limits);
  rlimit limits{};
  if (::getrlimit(RLIMIT_NOFILE, &limits) != 0) return {RLIM_INFINITY, RLIM_INFINITY};
  if (limits_before && limits_before->rlim_cur < limits.rlim_cur)
    limits.rlim_cur = limits_before->rlim_cur;
  return limits;
}

}  // namespace cluster
