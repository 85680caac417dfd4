// Real NATS servers for tests: one or a cluster of three, each test's own, in a folder that goes
// with it.
#pragma once

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <stdlib.h>

#include "core/loop.h"
#include "nats/connection.h"
#include "nats/embedded_server.h"
#include "nats/jetstream.h"
#include "nats/key_value.h"
#include "slowness.h"
#include "temporary_folder.h"

namespace cluster::testing {

/// Generous: how long a test waits for what must happen. A limit for what hangs: a busy machine may
/// hold a process up for many seconds.
inline constexpr auto kSoon = std::chrono::seconds(60);

/// One server (or a cluster) with JetStream, ready.
class NatsServers {
 public:
  explicit NatsServers(int count = 1)
      : servers_(nats::start_local_servers(count, folder_.path(), false)) {}

  nats::EmbeddedServer& operator[](std::size_t i) { return *servers_.at(i); }
  std::size_t size() const { return servers_.size(); }
  std::vector<std::string> urls() const {
    std::vector<std::string> all;
    for (const auto& s : servers_) all.push_back(s->url());
    return all;
  }
  std::vector<nats::EmbeddedServer*> all() const {
    std::vector<nats::EmbeddedServer*> all;
    for (const auto& s : servers_) all.push_back(s.get());
    return all;
  }
  nats::ConnectOptions options(const std::string& name = "test") const {
    nats::ConnectOptions o;
    o.nats.servers = urls();
    o.name = name;
    return o;
  }

 private:
  TemporaryFolder folder_;
  std::vector<std::unique_ptr<nats::EmbeddedServer>> servers_;
};

/// Runs the loop until `connection` is connected; false when that takes too long.
inline bool connect(nats::Connection& connection) {
  return connection.loop().run_until(
      [&] { return connection.state() == nats::ConnectionState::connected; }, kSoon);
}

/// Stops a process and waits until the kernel has done so. Each of its threads stops by itself: on
/// a busy machine one may still answer when another has stopped. One that the kernel holds up (D)
/// runs nothing of the program before it stops.
inline void freeze(pid_t pid) {
  ::kill(pid, SIGSTOP);
  const auto stopped = [](const std::filesystem::path& thread) {
    std::ifstream stat(thread / "stat");
    std::string text;
    std::getline(stat, text);
    const auto at = text.rfind(") ");
    return at == std::string::npos ||
           std::string_view("TDXZ").find(text[at + 2]) != std::string_view::npos;
  };
  const std::string threads = "/proc/" + std::to_string(pid) + "/task";
  const Time end = BootClock::now() + kSoon * slowness();
  for (bool all = false; !all;) {
    if (BootClock::now() >= end) {
      ADD_FAILURE() << "process " << pid << " was stopped and runs still";
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    all = true;
    std::error_code gone;
    for (const auto& thread : std::filesystem::directory_iterator(threads, gone))
      if (!stopped(thread.path())) all = false;
  }
}
inline void thaw(pid_t pid) { ::kill(pid, SIGCONT); }

/// `await` for calls that answer with nothing or a failure; throws the failure.
template <typename Start>
void must(Loop& loop, Start start) {
  auto answer = std::make_shared<std::optional<Failure>>();
  start(Completion([answer](Failure failure) { answer->emplace(std::move(failure)); }));
  if (!loop.run_until([&] { return answer->has_value(); }, kSoon))
    throw Error(Errc::timeout, "no answer in the test's time");
  if (**answer) throw ***answer;
}

}  // namespace cluster::testing
