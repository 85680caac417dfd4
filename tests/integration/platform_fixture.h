// Nodes of a platform in this process, each on a thread of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "built.h"
#include "cluster/platform.h"
#include "integration/nats_fixture.h"
#include "slowness.h"

namespace cluster::testing {

template <typename Condition>
bool eventually(Condition condition) {
  const auto end = BootClock::now() + kSoon;
  while (!condition()) {
    if (BootClock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

/// Sets what a hook or a handler waits for, also where a test ends early: or else the end of its
/// node, or of its watch, would wait for ever. To be made behind these.
struct SetAtTheEnd {
  std::atomic<bool>& flag;
  ~SetAtTheEnd() { flag = true; }
};

/// The code of what `work` throws, none when it returns; and its text.
template <typename Work>
Errc errc_of(Work work, std::string* text = nullptr) {
  try {
    work();
  } catch (const Error& error) {
    if (text != nullptr) *text = error.what();
    return error.errc();
  }
  return Errc{};
}

/// What a platform says of itself. Its loop has a second to answer: asked again where it is busy.
inline std::string status_of(const Platform& platform) {
  const auto end = BootClock::now() + kSoon;
  while (true) {
    try {
      return platform.status_json();
    } catch (const Error& error) {
      if (error.errc() != Errc::timeout || BootClock::now() > end) throw;
    }
  }
}

/// A session_timeout for a node alone, whose session lasts as long as lease_ttl: it leads soon.
inline std::chrono::milliseconds patience() { return Timing().session_timeout * slowness(); }

inline Timing patient_timing(std::chrono::milliseconds session_timeout = patience()) {
  Timing timing;
  timing.session_timeout = session_timeout;
  timing.lease_ttl = std::max(timing.lease_ttl, 10 * session_timeout);
  timing.cooldown = std::chrono::milliseconds(200);
  return timing;
}

/// A session_timeout for several nodes that are to keep their sessions though their threads stand
/// still for seconds, as they do on a busy machine. Nodes that start together have voters soon, and
/// lead without waiting for it; one that starts alone leads only after it.
inline constexpr std::chrono::milliseconds kSteady{5'000};
/// The same for nodes that need not lead.
inline constexpr std::chrono::milliseconds kVerySteady{10'000};
/// For two nodes of which the first leads before the second comes.
inline std::chrono::milliseconds quite_steady() { return std::chrono::seconds(2) * slowness(); }

/// A platform that runs on a thread of its own.
class Node {
 public:
  Node(const NatsServers& servers, const std::string& folder, const std::string& name = "node-1",
       std::chrono::milliseconds hook_timeout = std::chrono::seconds(30))
      : Node(options(servers, folder, name, hook_timeout)) {}
  explicit Node(PlatformOptions o) : platform(std::make_unique<Platform>(std::move(o))) {}
  ~Node() { stop(); }

  static PlatformOptions options(const NatsServers& servers, const std::string& folder,
                                 const std::string& name, std::chrono::milliseconds hook_timeout) {
    PlatformOptions o{.name = "test", .node = name, .folder = folder + "/" + name, .http = ""};
    o.nats.servers = servers.urls();
    o.timing = patient_timing();
    o.timing.hook_timeout = hook_timeout;
    o.guardian = built::kGuardian;
    return o;
  }

  void run() {
    over = std::async(std::launch::async, [this] { platform->run(); });
  }
  void stop() {
    if (platform) platform->stop();
    if (over.valid()) over.get();
  }

  std::unique_ptr<Platform> platform;
  std::future<void> over;
};

/// A node with the database of the app "db", in a folder of its own.
class DatabaseNode : public Node {
 public:
  /// A longer `session_timeout` survives a NATS server that is stopped for a
  /// while, and takes longer to lead for the first time.
  DatabaseNode(const NatsServers& servers, const std::string& folder, const std::string& name,
               Sqlite sqlite = {}, std::chrono::milliseconds session_timeout = quite_steady())
      : Node(patient(options(servers, folder, name, std::chrono::seconds(30)), session_timeout)),
        path(folder + "/" + name + ".db") {
    sqlite.path = path;
    app = &platform->add_app({.name = "db", .sqlite = std::move(sqlite)});
  }
  Database& database() const { return app->database(); }
  Snapshots& snapshots() const { return app->snapshots(); }

  const std::string path;
  App* app = nullptr;

 private:
  static PlatformOptions patient(PlatformOptions o, std::chrono::milliseconds session_timeout) {
    o.timing = patient_timing(session_timeout);
    return o;
  }
};

}  // namespace cluster::testing
