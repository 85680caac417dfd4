// A pause of a thread that may block.
#pragma once

#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "cluster/clock.h"

namespace cluster {

/// Shorter when `stop` is requested.
inline void pause(Duration time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, time, [] { return false; });
}

}  // namespace cluster
