// Assertions that stay on in release builds: a broken invariant ends the process, because going on
// would put somebody's data at risk.
#pragma once

namespace cluster {

[[noreturn]] void check_failed(const char* what, const char* file, int line) noexcept;

}  // namespace cluster

#define CLUSTER_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::cluster::check_failed(#condition, __FILE__, __LINE__))
