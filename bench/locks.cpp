// Locks: the cycle of one that nobody else wants, hand-overs between many that do, what held ones
// cost, and how soon the next one has it when its holder's process is killed.
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "bench/built.h"
#include "bench/child.h"
#include "bench/figures.h"
#include "bench/monitored_server.h"
#include "bench/platform_node.h"
#include "bench/raw_nats.h"

namespace bench {
namespace {

using cluster::BootClock;
using cluster::Time;
using namespace std::chrono_literals;

std::string text(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.2f", value);
  return out;
}

// As programs do it: the guard's end gives the lock up, and does not wait for that; and with
// release(), which does. Of several locks in turn: the release of one and the next acquisition of
// the same would share a write.
void cycle(Surroundings& around, RawClient& raw, cluster::Platform& platform) {
  constexpr int kRounds = 20;
  constexpr int kLocks = 16;
  const std::string data(kMessageBytes, 'x');
  const int count = around.amounts.talk_operations / kRounds / 4;
  std::vector<cluster::Lock> locks;
  for (int i = 0; i < kLocks; ++i) locks.push_back(platform.lock("cycle-" + std::to_string(i)));
  std::uint64_t revision = raw.put("key", data);
  Distribution updates, scopes, cycles;
  for (int round = 0; round <= kRounds; ++round) {
    for (int i = 0; i < count; ++i) {
      const auto begin = BootClock::now();
      revision = raw.update("key", data, revision);
      if (round > 0) updates.add(BootClock::now() - begin);
    }
    for (int i = 0; i < count; ++i) {
      auto& lock = locks[static_cast<std::size_t>(i % kLocks)];
      const auto begin = BootClock::now();
      lock.acquire().release();
      if (round > 0) cycles.add(BootClock::now() - begin);
    }
    for (int i = 0; i < count; ++i) {
      auto& lock = locks[static_cast<std::size_t>(i % kLocks)];
      const auto begin = BootClock::now();
      {
        const auto guard = lock.acquire();
      }
      if (round > 0) scopes.add(BootClock::now() - begin);
    }
    around.waiting.check();
  }
  around.report.line("a cycle of acquire and the guard's end: " + scopes.text());
  around.report.line("a cycle of acquire and release: " + cycles.text());
  around.report.line("a key-value update by libnats: " + updates.text());
  const auto verdict = [&](const std::string& what, const Distribution& times) {
    const double ratio = times.median() / (2 * updates.median());
    around.report.verdict(what + ", beside two updates by libnats",
                          "p50 " + ms_text(times.median()) + " (two updates " +
                              ms_text(2 * updates.median()) + "): " + text(ratio),
                          "at most 1.10", ratio <= 1.1);
  };
  verdict("a lock's cycle, to its guard's end", scopes);
  verdict("a lock's cycle, until release() has confirmed it", cycles);
}

struct HandOvers {
  Distribution times{};
  double messages = 0;  // for each, in and out of the server
};

HandOvers contend(Surroundings& around, const MonitoredServer& server,
                  std::vector<std::unique_ptr<PlatformNode>>& nodes, int contenders) {
  const int wanted = around.amounts.lock_hand_overs;
  const std::string name = "contended-" + std::to_string(contenders);
  HandOvers found;
  std::mutex mutex;
  Time released{};
  int seen = 0;
  std::int64_t before = 0;
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < contenders; ++i)
    threads.emplace_back([&, i] {
      auto lock = nodes[static_cast<std::size_t>(i) % nodes.size()]->platform.lock(name);
      while (!over) {
        try {
          auto guard = lock.acquire(60s);
          const Time now = BootClock::now();
          {
            const std::lock_guard hold(mutex);
            // The first ones find the others on their way into the queue.
            if (++seen == 2 * contenders) before = server.messages();
            if (seen > 2 * contenders && !over) found.times.add(now - released);
            if (found.times.size() == static_cast<std::size_t>(wanted) && !over) {
              found.messages = static_cast<double>(server.messages() - before) / wanted;
              over = true;
            }
            released = BootClock::now();
          }
          guard.release();
        } catch (const cluster::Error&) {
          if (!over) throw;
        }
      }
    });
  for (auto& thread : threads) thread.join();
  return found;
}

void hand_overs(Surroundings& around, const MonitoredServer& server,
                std::vector<std::unique_ptr<PlatformNode>>& nodes, double update_ms) {
  const HandOvers few = contend(around, server, nodes, 10);
  const HandOvers many = contend(around, server, nodes, 100);
  around.report.line("hand-over between 10 contenders: " + few.times.text() + ", " +
                     text(few.messages) + " messages each");
  around.report.line("hand-over between 100 contenders: " + many.times.text() + ", " +
                     text(many.messages) + " messages each");
  const double ratio = many.times.median() / update_ms;
  around.report.verdict("hand-over between 100 contenders",
                        "p50 " + ms_text(many.times.median()) + " (an update by libnats " +
                            ms_text(update_ms) + "): " + text(ratio) + " round trips",
                        "at most 3", ratio <= 3);
  around.report.verdict("messages a hand-over with 10 and with 100 contenders",
                        text(few.messages) + ", " + text(many.messages), "they do not grow",
                        many.messages <= 1.1 * few.messages + 1);
}

void held(Surroundings& around, const MonitoredServer& server, cluster::Platform& platform) {
  const int count = around.amounts.locks_held;
  const auto rate = [&] {
    const auto before = server.messages();
    const Time begin = BootClock::now();
    around.waiting.pass(10s);
    return static_cast<double>(server.messages() - before) /
           (milliseconds(BootClock::now() - begin) / 1'000);
  };
  const double none = rate();
  std::vector<cluster::LockGuard> guards;
  for (int i = 0; i < count; ++i)
    guards.push_back(platform.lock("held-" + std::to_string(i)).acquire());
  around.waiting.pass(2s);
  const double all = rate();
  for (const auto& guard : guards)
    if (!guard.held()) throw Failed{"a lock was lost"};
  const std::string locks = std::to_string(count);
  around.report.verdict("messages a second with no lock held, and with " + locks,
                        text(none) + ", " + text(all), "no more with locks (5% for chance)",
                        all <= 1.05 * none + 1);
  for (auto& guard : guards) guard.release();
}

/// A process that takes the lock whenever it can.
class Taker {
 public:
  Taker(const std::string& url, const std::string& folder, const std::string& name) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw Failed{"no pipe"};
    journal_ = ends[0];
    process_ = std::make_unique<Child>(
        std::vector<std::string>{built::kLocks, name, url, folder + "/" + name},
        folder + "/" + name + ".log", ends[1]);
    close(ends[1]);
  }
  ~Taker() { close(journal_); }
  Taker(const Taker&) = delete;
  Taker& operator=(const Taker&) = delete;

  /// Nothing: it has not taken it since the last call.
  std::optional<Time> taken() {
    char bytes[512];
    const auto size = read(journal_, bytes, sizeof bytes);
    if (size > 0) unread_.append(bytes, static_cast<std::size_t>(size));
    const auto end = unread_.find('\n');
    if (end == std::string::npos) return std::nullopt;
    const Time time(cluster::Duration(std::strtoll(unread_.c_str(), nullptr, 10)));
    unread_.erase(0, end + 1);
    return time;
  }
  Child& process() { return *process_; }

 private:
  int journal_ = -1;
  std::unique_ptr<Child> process_;
  std::string unread_;
};

void kills(Surroundings& around, const std::string& url) {
  std::vector<std::unique_ptr<Taker>> takers;
  int started = 0;
  const auto start = [&] {
    takers.push_back(
        std::make_unique<Taker>(url, around.folder, "taker-" + std::to_string(++started)));
  };
  std::size_t holder = 0;
  const auto wait_taken = [&](std::size_t not_this) {
    std::optional<Time> when;
    around.waiting.wait_for("somebody to take the lock", 30s, [&] {
      for (std::size_t i = 0; i < takers.size() && !when; ++i)
        if (i != not_this && (when = takers[i]->taken())) holder = i;
      return when.has_value();
    });
    return *when;
  };
  for (int i = 0; i < 3; ++i) start();
  wait_taken(takers.size());
  Distribution gaps;
  for (int i = 0; i < around.amounts.lock_kills; ++i) {
    around.waiting.pass(3s);  // the new one has joined, and waits for the lock
    const Time begin = BootClock::now();
    takers[holder]->process().kill_hard();
    const std::size_t dead = holder;
    gaps.add(wait_taken(dead) - begin);
    takers.erase(takers.begin() + static_cast<std::ptrdiff_t>(dead));
    if (holder > dead) --holder;
    start();
  }
  around.report.line("kill -9 of the holder's process, until the next has the lock: " +
                     gaps.text());
  around.report.verdict("the next one has the lock of a killed process",
                        "p50 " + ms_text(gaps.median()) + ", p99 " + ms_text(gaps.quantile(0.99)),
                        "p50 at most 50 ms", gaps.median() <= 50);
}

}  // namespace

void locks(Surroundings& around) {
  const MonitoredServer server(around.waiting, around.folder + "/nats", around.sync_always);
  {
    RawClient raw(server.url());
    std::vector<std::unique_ptr<PlatformNode>> nodes;
    for (const char* name : {"a", "b", "c"}) {
      nodes.push_back(std::make_unique<PlatformNode>(server.url(), around.folder, name));
      nodes.back()->run(around.waiting, nodes.size());
    }
    cycle(around, raw, nodes.front()->platform);
    const std::string data(kMessageBytes, 'x');
    Distribution updates;
    std::uint64_t revision = raw.put("key", data);
    for (int i = 0; i < 1'000; ++i) {
      const auto begin = BootClock::now();
      revision = raw.update("key", data, revision);
      updates.add(BootClock::now() - begin);
    }
    hand_overs(around, server, nodes, updates.median());
    held(around, server, nodes.front()->platform);
  }
  kills(around, server.url());
}

}  // namespace bench
