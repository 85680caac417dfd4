// How much more time than on a free, fast machine tests give to what has a time limit.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace cluster {

/// CLUSTER_TEST_SLOW, or 3 in builds with sanitizers, or 1.
inline int slowness() {
  static const int factor = [] {
    if (const char* text = std::getenv("CLUSTER_TEST_SLOW")) return std::max(1, std::atoi(text));
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 3;
#else
    return 1;
#endif
  }();
  return factor;
}

}  // namespace cluster
