// How much more time than on a free, fast machine tests give to what has a time limit.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace cluster {

/// CLUSTER_TEST_SLOW, or what the build says (tests/CMakeLists.txt), or 1.
inline int slowness() {
  static const int factor = [] {
    if (const char* text = std::getenv("CLUSTER_TEST_SLOW")) return std::max(1, std::atoi(text));
#ifdef CLUSTER_SANITIZED
    return CLUSTER_SANITIZED;
#else
    return 1;
#endif
  }();
  return factor;
}

}  // namespace cluster
