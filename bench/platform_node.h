// A node of the platform "bench" in this process.
#pragma once

#include <string>
#include <thread>

#include "bench/built.h"
#include "bench/wait.h"
#include "cluster/cluster.h"

namespace bench {

class PlatformNode {
 public:
  PlatformNode(const std::string& url, const std::string& folder, const std::string& name)
      : platform({.name = "bench",
                  .node = name,
                  .nats_url = url,
                  .folder = folder + "/" + name,
                  .http = "",
                  .guardian = built::kGuardian}) {}
  ~PlatformNode() {
    platform.stop();
    if (thread_.joinable()) thread_.join();
  }
  PlatformNode(const PlatformNode&) = delete;
  PlatformNode& operator=(const PlatformNode&) = delete;

  /// Returns once it has joined. Throws Failed.
  void run(Waiting& waiting, std::size_t members) {
    thread_ = std::thread([this] {
      try {
        platform.run();
      } catch (const std::exception& error) {
        failure_ = error.what();
      }
    });
    waiting.wait_for("node " + platform.node() + " to join", std::chrono::seconds(30),
                     [&] { return platform.members().size() >= members; });
  }

  cluster::Platform platform;

 private:
  std::thread thread_;
  std::string failure_;
};

}  // namespace bench
