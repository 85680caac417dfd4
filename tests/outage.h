// Servers of a NATS cluster that a test kills one at a time, and what it may ask of them meanwhile.
//
// On a busy machine nats-server 2.10.27 that was killed now and then does not catch up for minutes,
// until it is started once more; two of three now and then elect no leader for a minute or more;
// and they may lose what they have acknowledged, though each had caught up by its own word before
// the next one was killed. None of that is what tests of our code are to fail on. All that our code
// must do while the servers do their part stays asserted.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/loop.h"
#include "nats/connection.h"
#include "nats/embedded_server.h"
#include "nats/jetstream.h"

namespace cluster::faults {

/// How often a server is started that does not come back, all starts counted.
inline constexpr int kStarts = 4;

/// Waits until a server that has been started is ready, and starts it once more where it is not in
/// `patience`. Throws the last Error{timeout} when no start helps.
inline void wait_until_ready(nats::EmbeddedServer& server,
                             std::chrono::milliseconds patience = std::chrono::seconds(30)) {
  for (int start = 1;; ++start) {
    try {
      return server.wait_ready(patience);
    } catch (const Error& error) {
      if (start == kStarts || error.errc() != Errc::timeout) throw;
      server.start_again();
    }
  }
}

class Outage {
 public:
  explicit Outage(std::vector<nats::EmbeddedServer*> servers) : servers_(std::move(servers)) {}

  /// Kills a server. Wait before that until all have caught up (wait_whole), as near to it as what
  /// is to be under way then allows.
  void kill(std::size_t victim) {
    servers_.at(victim)->kill_hard();
    down_ = victim;
  }

  /// Repeats `attempt`, which takes from a tenth of a second to a few, until it returns true. When
  /// the servers have had no leader of some stream for a minute, the killed one is brought back,
  /// and it goes on. Fails when they have a leader all the time and nothing comes of it.
  template <typename Attempt>
  ::testing::AssertionResult outlast(const Attempt& attempt) {
    int rescues = 0;
    bool led = true;
    const Time begun = BootClock::now();
    Time since = begun;
    while (!attempt()) {
      const Seen seen = look();
      const Time now = BootClock::now();
      if (std::exchange(led, seen.led) != led) since = now;
      if (now - begun > kBound) return ::testing::AssertionFailure() << "in vain; " << seen.text;
      if (now - since < (led ? kPatienceWithLeader : kPatienceWithout)) continue;
      if (led)
        return ::testing::AssertionFailure()
               << "in vain, though the servers have a leader; " << seen.text;
      if (++rescues > kRescues)
        return ::testing::AssertionFailure() << "the servers elect no leader; " << seen.text;
      if (auto whole = down_ ? end() : wait_whole(); !whole) return whole;
      since = BootClock::now();
    }
    return ::testing::AssertionSuccess();
  }

  /// The killed server runs, unless it does already, and all replicas are current.
  ::testing::AssertionResult end() {
    if (const auto down = std::exchange(down_, std::nullopt)) {
      servers_[*down]->start_again();
      wait_until_ready(*servers_[*down]);
    }
    return wait_whole();
  }

  /// All servers run: waits until all replicas of all streams are current. Servers that stay behind
  /// are started once more; where a stream has no leader, one after the other.
  ::testing::AssertionResult wait_whole() {
    for (std::size_t round = 0;; ++round) {
      const Time end = BootClock::now() + kCatchUp;
      Seen seen = look(true);
      while (!seen.whole() && BootClock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        seen = look(true);
      }
      if (seen.whole()) return ::testing::AssertionSuccess();
      if (round == kStarts)
        return ::testing::AssertionFailure() << "the servers do not catch up; " << seen.text;
      for (std::size_t i = 0; i < servers_.size(); ++i) {
        const bool its_turn = seen.behind.empty() && i == round % servers_.size();
        if (!its_turn && !seen.behind.contains(servers_[i]->options().server_name)) continue;
        servers_[i]->start_again();
        wait_until_ready(*servers_[i]);
      }
    }
  }

  /// Each stream's servers have a leader, as that one says.
  bool led() { return look().led; }

  /// Streams that had fewer messages, at some look, than at an earlier one; empty: none had. Ask
  /// before what the servers have lost is taken for a fault of our code (CLUSTER_SKIP_LOST).
  const std::string& lost() const { return lost_; }

 private:
  static constexpr std::chrono::seconds kPatienceWithLeader{90}, kPatienceWithout{60};
  static constexpr std::chrono::seconds kBound{300}, kCatchUp{25};
  static constexpr int kRescues = 2;

  struct Seen {
    bool led = true;
    std::set<std::string> behind{};  // names of servers
    std::string text{};              // what was answered
    bool whole() const { return led && behind.empty(); }
  };

  // On a connection of its own: that the one under test works is for the test to show. A cluster
  // that can't be reached at all counts as led: it is not elections that are missing.
  Seen look(bool anew = false) {
    Loop loop;
    nats::ConnectOptions o;
    o.name = "outage";
    for (std::size_t i = 0; i < servers_.size(); ++i)
      if (i != down_) o.nats.servers.push_back(servers_[i]->url());
    nats::Connection connection(loop, o);
    const std::chrono::seconds limit(30);
    Seen seen;
    if (!loop.run_until([&] { return connection.state() == nats::ConnectionState::connected; },
                        limit)) {
      seen.behind.insert("unreachable");
      seen.text = "no server can be reached";
      return seen;
    }
    nats::JetStream js(connection, std::chrono::seconds(3));
    if (anew) {
      auto names =
          nats::await<std::vector<std::string>>(loop, limit, [&](auto done) { js.streams(done); });
      if (!names) return {false, {}, names.error().what()};
      streams_ = std::move(names.value());
    }
    for (const auto& stream : streams_) {
      const auto answer = nats::await<std::string>(
          loop, limit, [&](auto done) { js.api("STREAM.INFO." + stream, "", done); });
      seen.text += answer ? answer.value() : answer.error().what();
      add(seen, answer ? nlohmann::json::parse(answer.value(), nullptr, false) : nullptr);
    }
    return seen;
  }

  void add(Seen& seen, const nlohmann::json& info) {
    if (info.is_object() && info.contains("state") && info.contains("config")) note_last(info);
    // A server alone tells of no cluster.
    if (info.is_object() && !info.contains("cluster")) return;
    const auto cluster = info.is_object() ? info["cluster"] : nlohmann::json::object();
    if (cluster.value("leader", "").empty()) {
      seen.led = false;
      return;
    }
    for (const auto& replica : cluster.value("replicas", nlohmann::json::array()))
      if (!replica.value("current", false) || replica.value("offline", false) ||
          replica.value("lag", 0) != 0)
        seen.behind.insert(replica.value("name", ""));
  }

  void note_last(const nlohmann::json& info) {
    const auto now = info["state"].value("last_seq", std::uint64_t{0});
    const std::string name = info["config"].value("name", "");
    auto& last = last_[name + " of " + info.value("created", "")];
    if (now < last)
      lost_ += name + " went back from message " + std::to_string(last) + " to " +
               std::to_string(now) + "; ";
    last = now;
  }

  const std::vector<nats::EmbeddedServer*> servers_;
  std::vector<std::string> streams_;
  std::map<std::string, std::uint64_t> last_;  // message, by stream
  std::string lost_;
  std::optional<std::size_t> down_;
};

}  // namespace cluster::faults

/// Skips the test when the servers have lost messages: what it would report then is their fault.
#define CLUSTER_SKIP_LOST(outage) \
  if (!(outage).lost().empty())   \
  GTEST_SKIP() << "optional: nats-server has lost messages: " << (outage).lost()
