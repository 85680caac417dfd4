// For tests that wait for elections of NATS servers, which take up to a minute and more on a busy
// machine, and for those that keep all cores busy.
#pragma once

#include <gtest/gtest.h>

/// What such a test shows of the code, shorter ones show with sanitizers too.
#ifdef CLUSTER_SANITIZED
#define CLUSTER_SKIP_LONG_WAITS() \
  GTEST_SKIP() << "optional: waits for NATS' elections for minutes with sanitizers"
#define CLUSTER_SKIP_HEAVY_LOAD() \
  GTEST_SKIP() << "optional: keeps all cores busy for minutes with sanitizers"
#else
#define CLUSTER_SKIP_LONG_WAITS() static_cast<void>(0)
#define CLUSTER_SKIP_HEAVY_LOAD() static_cast<void>(0)
#endif
