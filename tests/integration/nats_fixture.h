// Real NATS servers for tests: one or a cluster of three, each test's own, in a folder that goes
// with it.
#pragma once

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <stdlib.h>

#include "core/loop.h"
#include "nats/connection.h"
#include "nats/embedded_server.h"
#include "nats/jetstream.h"
#include "nats/key_value.h"
#include "temporary_folder.h"

namespace cluster::testing {

/// Generous: how long a test waits for what must happen.
inline constexpr auto kSoon = std::chrono::seconds(30);

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

/// Stops a process and waits until the kernel has done so.
inline void freeze(pid_t pid) {
  ::kill(pid, SIGSTOP);
  auto stopped = [&] {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(stat, text);
    auto at = text.rfind(") ");
    return at == std::string::npos || text[at + 2] == 'T';
  };
  while (!stopped()) std::this_thread::yield();
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

/// What JetStream says of a stream; empty when it does not answer.
inline std::string stream_info(nats::JetStream& js, const std::string& stream) {
  const auto text = nats::await<std::string>(
      js.connection().loop(), kSoon, [&](auto done) { js.api("STREAM.INFO." + stream, "", done); });
  return text ? text.value() : std::string();
}

/// The stream's servers have a leader, as that one says.
inline bool has_leader(nats::JetStream& js, const std::string& stream) {
  return stream_info(js, stream).find("\"leader\":") != std::string::npos;
}

/// Both followers have all that the stream's leader has, as JetStream says.
inline bool wait_until_current(nats::JetStream& js, const std::string& stream, Duration patience) {
  const auto limit = BootClock::now() + patience;
  while (true) {
    const std::string text = stream_info(js, stream);
    int count = 0;
    for (auto at = text.find("\"current\":true"); at != std::string::npos;
         at = text.find("\"current\":true", at + 1))
      ++count;
    if (count == 2) return true;
    if (BootClock::now() > limit) return false;
    js.connection().loop().run_until([] { return false; }, std::chrono::milliseconds(50));
  }
}

/// The killed server runs again and has caught up. On a busy machine one that was killed now and
/// then does not for minutes, until it is started once more (nats-server 2.10).
inline bool bring_back(NatsServers& servers, std::size_t victim, nats::JetStream& js,
                       const std::string& stream) {
  constexpr int kStarts = 4;
  for (int start = 0; start < kStarts; ++start) {
    servers[victim].start_again();
    try {
      servers[victim].wait_ready(kSoon);
    } catch (const Error&) {
      continue;  // it finds no leader
    }
    if (!connect(js.connection())) return false;
    if (wait_until_current(js, stream, std::chrono::seconds(25))) return true;
  }
  return false;
}

}  // namespace cluster::testing
