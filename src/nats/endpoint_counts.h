// What an endpoint of a micro-service has done. All methods from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "cluster/clock.h"

namespace cluster::nats {

class EndpointCounts {
 public:
  void came() noexcept { ++requests_; }
  /// `error`: `<code>:<text>`; empty: none.
  void done(Duration took, const std::string& error) {
    busy_ns_ += took.count();
    if (!error.empty()) failed(error);
  }
  void failed(const std::string& error) {
    ++errors_;
    const std::lock_guard lock(mutex_);
    last_error_ = error;
  }

  std::uint64_t requests() const noexcept { return requests_; }
  std::uint64_t errors() const noexcept { return errors_; }
  std::int64_t busy_ns() const noexcept { return busy_ns_; }
  std::string last_error() const {
    const std::lock_guard lock(mutex_);
    return last_error_;
  }

 private:
  std::atomic<std::uint64_t> requests_{0}, errors_{0};
  std::atomic<std::int64_t> busy_ns_{0};
  mutable std::mutex mutex_;
  std::string last_error_;
};

}  // namespace cluster::nats
