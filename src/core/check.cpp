#include "core/check.h"

#include <cstdio>
#include <cstdlib>

namespace cluster {

void check_failed(const char* what, const char* file, int line) noexcept {
  std::fprintf(stderr, "cpp-cluster: broken invariant: %s at %s:%d\n", what, file, line);
  std::abort();
}

}  // namespace cluster
