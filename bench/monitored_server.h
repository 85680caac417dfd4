// A server that tells how many messages it has carried; the embedded ones have no such port.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bench/child.h"
#include "bench/wait.h"

namespace bench {

class MonitoredServer {
 public:
  /// Waits until it is ready. Throws Failed.
  MonitoredServer(Waiting& waiting, const std::string& folder, bool sync_always);

  const std::string& url() const { return url_; }
  pid_t pid() const { return process_->pid(); }
  /// Messages received and sent so far. Throws Failed.
  std::int64_t messages() const;

 private:
  bool read_ports();

  std::string folder_;
  std::optional<Child> process_;
  std::string url_;
  std::string monitoring_;
};

}  // namespace bench
