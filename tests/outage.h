// Servers of a NATS cluster that a test kills one at a time, and what it may ask of them meanwhile.
//
// On a busy machine nats-server 2.10.27 that was killed now and then does not catch up for minutes,
// until it is started once more; two of three now and then elect no leader for a minute or more;
// and they may lose what they have acknowledged, though each had caught up by its own word before
// the next one was killed. None of that is what tests of our code are to fail on. All that our code
// must do while the servers do their part stays asserted.
#pragma once

#include <algorithm>
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
#include "slowness.h"

namespace cluster::faults {

/// How often a server is started that does not come back, all starts counted.
inline constexpr int kStarts = 4;

/// How long a test may wait for its servers in all. Less than ctest waits for the test: it is to
/// say itself what it waited for.
inline constexpr std::chrono::seconds kTimeForServers{300};
inline Time deadline_for_servers() { return BootClock::now() + kTimeForServers * slowness(); }

/// Waits until a server that has been started is ready, and starts it once more where it is not in
/// half a minute. Throws the last Error{timeout} when no start helps, or at the deadline.
inline void wait_until_ready(nats::EmbeddedServer& server, Time deadline) {
  using std::chrono::milliseconds;
  constexpr milliseconds kPatience{30'000};
  for (int start = 1;; ++start) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - BootClock::now());
    try {
      return server.wait_ready(std::clamp(left, milliseconds(1), kPatience));
    } catch (const Error& error) {
      if (start == kStarts || error.errc() != Errc::timeout || BootClock::now() >= deadline) throw;
      server.start_again();
    }
  }
}

class Outage {
 public:
  /// What is waited for beyond the deadline has failed.
  explicit Outage(std::vector<nats::EmbeddedServer*> servers,
                  Time deadline = deadline_for_servers())
      : servers_(std::move(servers)), deadline_(deadline) {}

  Time deadline() const { return deadline_; }

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
    Time since = BootClock::now();
    while (!attempt()) {
      const Seen seen = look();
      const Time now = BootClock::now();
      if (std::exchange(led, seen.led) != led) since = now;
      if (now >= deadline_)
        return ::testing::AssertionFailure()
               << (led ? "in vain" : "the servers elect no leader") << kLate << seen.text;
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
      start_again(*servers_[*down]);
    }
    return wait_whole();
  }

  /// All servers run: waits until all replicas of all streams are current. Servers that stay behind
  /// are started once more; where a stream has no leader, one after the other.
  ::testing::AssertionResult wait_whole() {
    for (std::size_t round = 0;; ++round) {
      const Time end = std::min(BootClock::now() + kCatchUp, deadline_);
      Seen seen = look(true);
      while (!seen.whole() && BootClock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        seen = look(true);
      }
      if (seen.whole()) return ::testing::AssertionSuccess();
      if (BootClock::now() >= deadline_)
        return ::testing::AssertionFailure() << "the servers do not catch up" << kLate << seen.text;
      if (round == kStarts)
        return ::testing::AssertionFailure() << "the servers do not catch up; " << seen.text;
      for (std::size_t i = 0; i < servers_.size(); ++i) {
        const bool its_turn = seen.behind.empty() && i == round % servers_.size();
        if (!its_turn && !seen.behind.contains(servers_[i]->options().server_name)) continue;
        start_again(*servers_[i]);
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
  static constexpr std::chrono::seconds kCatchUp{25};
  static constexpr int kRescues = 2;
  static constexpr const char* kLate = ", and the test's time for its servers is over; ";

  struct Seen {
    bool led = true;
    std::set<std::string> behind{};  // names of servers
    std::string text{};              // what was answered
    bool whole() const { return led && behind.empty(); }
  };

  void start_again(nats::EmbeddedServer& server) const {
    server.start_again();
    try {
      wait_until_ready(server, deadline_);
    } catch (const Error& error) {
      // Whoever waits for it says that the time is over.
      if (error.errc() != Errc::timeout || BootClock::now() < deadline_) throw;
    }
  }

  // On a connection of its own: that the one under test works is for the test to show. A cluster
  // that can't be reached at all counts as led: it is not elections that are missing.
  Seen look(bool anew = false) {
    Loop loop;
    nats::ConnectOptions o;
    o.name = "outage";
    for (std::size_t i = 0; i < servers_.size(); ++i)
      if (i != down_) o.nats.servers.push_back(servers_[i]->url());
    nats::Connection connection(loop, o);
    const Duration limit = std::clamp<Duration>(deadline_ - BootClock::now(),
                                                std::chrono::seconds(1), std::chrono::seconds(30));
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
  const Time deadline_;
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
