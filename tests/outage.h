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
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
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
#include "nats/jetstream_messages.h"
#include "nats/stored_message.h"
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
      : servers_(std::move(servers)), deadline_(deadline) {
    std::vector<std::string> urls;  // they stay; the servers are the calling thread's
    for (auto* server : servers_) urls.push_back(server->url());
    watcher_ = std::jthread(
        [this, urls = std::move(urls)](const std::stop_token& stop) { watch(urls, stop); });
  }

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

  /// Compares what each server has of a stream that may be read directly and that nobody writes to
  /// any more; what differs counts as lost. A server that was killed amid writes on a busy machine
  /// may lack some, give the next ones other numbers, and count as current all the same
  /// (nats-server 2.10.27). Fails when the stream has nothing, or can't be read.
  ::testing::AssertionResult compare(const std::string& stream) {
    const Time end = std::min(BootClock::now() + kCatchUp, deadline_);
    for (;; std::this_thread::sleep_for(kPause)) {
      std::vector<Held> all;
      for (auto* server : servers_)
        if (auto has = held(*server, stream); has && !has->empty()) all.push_back(std::move(*has));
      const bool read = all.size() == servers_.size();
      const std::string differs = read ? difference(all) : "";
      if (read && differs.empty()) return ::testing::AssertionSuccess();
      if (BootClock::now() < end) continue;
      if (!read)
        return ::testing::AssertionFailure() << "not each server tells what it has of " << stream;
      const std::lock_guard lock(mutex_);
      lost_ += stream + ": " + differs;
      return ::testing::AssertionSuccess();
    }
  }

  /// Streams that have fewer messages than at an earlier look, or another one at the place of their
  /// last, or of which servers have different ones (compare()); empty: none. Ask before what the
  /// servers have lost is taken for a fault of our code (CLUSTER_END_LOST).
  std::string lost() const {
    // Who leads anew may not have got to the end yet.
    const Time end = std::min(BootClock::now() + kCatchUp, deadline_);
    for (;; std::this_thread::sleep_for(kPause)) {
      const std::lock_guard lock(mutex_);
      std::string back;
      for (const auto& [name, stream] : seen_)
        if (stream.behind)
          back += name + " went back from message " + std::to_string(stream.most) + " to " +
                  std::to_string(stream.now) + "; ";
      if (back.empty() || !lost_.empty() || BootClock::now() >= end) return lost_ + back;
    }
  }

 private:
  static constexpr std::chrono::seconds kPatienceWithLeader{90}, kPatienceWithout{60};
  static constexpr std::chrono::seconds kCatchUp{25};
  static constexpr std::chrono::milliseconds kPause{100};  // between looks of the thread
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

  using Held = std::map<std::uint64_t, std::string>;  // subjects, by sequence

  // As a rule the server to which one is connected answers. Where another one does, a difference
  // may stay unseen. Nothing when it can't be told what the server has.
  std::optional<Held> held(nats::EmbeddedServer& server, const std::string& stream) const {
    Loop loop;
    nats::ConnectOptions o;
    o.name = "outage";
    o.nats.servers = {server.url()};
    nats::Connection connection(loop, o);
    const std::chrono::seconds limit(30);
    Held all;
    if (!loop.run_until([&] { return connection.state() == nats::ConnectionState::connected; },
                        limit))
      return std::nullopt;
    for (std::uint64_t next = 1;;) {
      nats::Message request;
      request.subject = "$JS.API.DIRECT.GET." + stream;
      request.data = nats::message_request({.sequence = next, .next_of_subject = ">"});
      auto answer = nats::await<nats::Message>(
          loop, limit, [&](auto done) { connection.request(request, limit, done); });
      const auto message = nats::direct_answer_from("a message", std::move(answer));
      if (!message && message.error().errc() != Errc::not_found) return std::nullopt;
      if (!message) return all;
      all[message.value().sequence] = message.value().subject;
      next = message.value().sequence + 1;
    }
  }

  std::string difference(const std::vector<Held>& all) const {
    const auto at = [](const Held& held, auto it) {
      return it == held.end() ? "no more" : it->second + " as " + std::to_string(it->first);
    };
    const Held& first = all.front();
    for (std::size_t i = 1; i < all.size(); ++i) {
      if (all[i] == first) continue;
      const auto [a, b] = std::mismatch(first.begin(), first.end(), all[i].begin(), all[i].end());
      return servers_.front()->options().server_name + " has " + at(first, a) + ", " +
             servers_[i]->options().server_name + " " + at(all[i], b) + "; ";
    }
    return {};
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

  // All the time, since a stream that has gone back soon has as many messages again.
  void watch(const std::vector<std::string>& urls, const std::stop_token& stop) {
    constexpr std::chrono::seconds kLimit(2);
    constexpr int kListEach = 10;  // looks
    Loop loop;
    nats::ConnectOptions o;
    o.name = "outage-watch";
    o.nats.servers = urls;
    nats::Connection connection(loop, o);
    nats::JetStream js(connection, std::chrono::seconds(1));
    std::vector<std::string> streams;
    for (int looks = 0; !stop.stop_requested(); ++looks) {
      loop.run_until([] { return false; }, kPause);
      if (connection.state() != nats::ConnectionState::connected) continue;
      if (looks % kListEach == 0) {
        auto names = nats::await<std::vector<std::string>>(loop, kLimit,
                                                           [&](auto done) { js.streams(done); });
        if (names) streams = std::move(names.value());
      }
      for (const auto& stream : streams) {
        if (stop.stop_requested()) return;
        const auto answer = nats::await<std::string>(
            loop, kLimit, [&](auto done) { js.api("STREAM.INFO." + stream, "", done); });
        const auto info = answer ? nlohmann::json::parse(answer.value(), nullptr, false) : nullptr;
        if (info.is_object() && info.contains("state") && info.contains("config"))
          note_last(loop, js, info);
      }
    }
  }

  // A new leader may not have got to the last messages yet, of which it knows that they count: only
  // when it has given their numbers to others are they lost. That is asked as soon as it has so
  // many again: in a bucket, later ones may take their place. Only on the thread that watches: an
  // answer that another one had before would look like a step back.
  void note_last(Loop& loop, nats::JetStream& js, const nlohmann::json& info) {
    const std::string name = info["config"].value("name", "");
    const std::string id = name + " of " + info.value("created", "");
    const auto now = info["state"].value("last_seq", std::uint64_t{0});
    const SeenStream before = seen(id);
    if (before.behind && now >= before.most) {
      const auto message = nats::await<nats::StoredMessage>(
          loop, std::chrono::seconds(2), [&](auto done) { js.message(name, before.most, done); });
      const std::lock_guard lock(mutex_);
      if (message && before.time && message.value().time_ns != *before.time)
        lost_ += name + ": message " + std::to_string(before.most) + " is another one; ";
    }
    const std::lock_guard lock(mutex_);
    if (now >= before.most)
      seen_[id] = {now, now, nats::time_ns_from(info["state"].value("last_ts", "")), false};
    else
      seen_[id] = {now, before.most, before.time, true};
  }

  struct SeenStream {
    std::uint64_t now = 0, most = 0;     // sequence of its last message
    std::optional<std::int64_t> time{};  // of the message with the highest one
    bool behind = false;                 // it had more once
  };
  SeenStream seen(const std::string& id) const {
    const std::lock_guard lock(mutex_);
    const auto it = seen_.find(id);
    return it == seen_.end() ? SeenStream{} : it->second;
  }

  const std::vector<nats::EmbeddedServer*> servers_;
  const Time deadline_;
  std::vector<std::string> streams_;
  std::map<std::string, SeenStream> seen_;
  std::string lost_;
  std::optional<std::size_t> down_;
  mutable std::mutex mutex_;  // of seen_ and lost_
  std::jthread watcher_;      // the last: it uses the others
};

}  // namespace cluster::faults

/// Ends the test when the servers have lost messages: what it would report then is their fault. It
/// is a failure, of a kind that `make check` tries again.
#define CLUSTER_END_LOST(outage)                                                     \
  if (const std::string lost_by_servers = (outage).lost(); !lost_by_servers.empty()) \
  FAIL() << "the servers lose what they acknowledge: " << lost_by_servers
