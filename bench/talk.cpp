// Keys, calls and events, beside what libnats alone takes for the same: in turns, on connections of
// the same settings, at the same server.
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <malloc.h>

#include "bench/figures.h"
#include "bench/platform_node.h"
#include "bench/raw_nats.h"
#include "nats/embedded_server.h"

namespace bench {
namespace {

using cluster::BootClock;
using namespace std::chrono_literals;

constexpr int kTalkRounds = 20;  // of ours and of libnats', in turns
constexpr int kThreads = 8;

using Operation = std::function<void(int thread)>;

struct Side {
  Distribution times{};
  double together_per_s = 0;  // kThreads threads at a time
};

void one_by_one(Side& side, const Operation& once, int count) {
  for (int i = 0; i < count; ++i) {
    const auto begin = BootClock::now();
    once(0);
    side.times.add(BootClock::now() - begin);
  }
}

double together(const Operation& once, int count) {
  const auto begin = BootClock::now();
  std::mutex mutex;
  std::string failure;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      try {
        for (int i = 0; i < count / kThreads; ++i) once(t);
      } catch (const Failed& fault) {
        const std::lock_guard lock(mutex);
        failure = fault.text;
      } catch (const std::exception& fault) {
        const std::lock_guard lock(mutex);
        failure = fault.what();
      }
    });
  for (auto& thread : threads) thread.join();
  if (!failure.empty()) throw Failed{failure};
  return count / (milliseconds(BootClock::now() - begin) / 1'000);
}

std::string ratio_text(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", ratio);
  return text;
}

std::string talk_rate(double per_s) { return std::to_string(static_cast<int>(per_s)) + "/s"; }

struct Targets {
  double throughput = 0, latency = 0;
};

void compare(Surroundings& around, const std::string& what, const Operation& raw,
             const Operation& ours, const Targets& targets) {
  const int count = around.amounts.talk_operations / kTalkRounds;
  Side libnats, us, warm;
  one_by_one(warm, raw, count);
  one_by_one(warm, ours, count);
  std::vector<double> raw_rates, our_rates;
  for (int i = 0; i < kTalkRounds; ++i) {
    one_by_one(libnats, raw, count);
    one_by_one(us, ours, count);
    around.waiting.check();
  }
  for (int i = 0; i < kTalkRounds; ++i) {
    libnats.together_per_s += together(raw, 4 * count) / kTalkRounds;
    us.together_per_s += together(ours, 4 * count) / kTalkRounds;
    around.waiting.check();
  }
  around.report.line(what + ", libnats: " + libnats.times.text() + "; " + std::to_string(kThreads) +
                     " threads " + talk_rate(libnats.together_per_s));
  around.report.line(what + ", ours: " + us.times.text() + "; " + std::to_string(kThreads) +
                     " threads " + talk_rate(us.together_per_s));
  const double latency = us.times.median() / libnats.times.median();
  const double throughput = us.together_per_s / libnats.together_per_s;
  around.report.verdict(
      what + ", latency",
      "p50 " + ms_text(us.times.median()) + " (libnats " + ms_text(libnats.times.median()) +
          "): " + ratio_text(latency),
      targets.latency > 0 ? "at most " + ratio_text(targets.latency) : "",
      targets.latency > 0 ? std::optional(latency <= targets.latency) : std::nullopt);
  around.report.verdict(what + ", throughput of " + std::to_string(kThreads) + " threads",
                        talk_rate(us.together_per_s) + " (libnats " +
                            talk_rate(libnats.together_per_s) + "): " + ratio_text(throughput),
                        "at least " + ratio_text(targets.throughput),
                        throughput >= targets.throughput);
}

void keys(Surroundings& around, RawClient& raw, cluster::App& app) {
  const std::string data(kMessageBytes, 'x');
  std::vector<std::uint64_t> raw_at, our_at;
  const auto key = [](int thread) { return "key-" + std::to_string(thread); };
  for (int t = 0; t < kThreads; ++t) {
    raw_at.push_back(raw.put(key(t), data));
    our_at.push_back(app.kv().put(key(t), data));
  }
  const auto at = [](std::vector<std::uint64_t>& all, int thread) -> std::uint64_t& {
    return all[static_cast<std::size_t>(thread)];
  };
  compare(
      around, "KV get, 128 B", [&](int t) { raw.get(key(t)); },
      [&](int t) {
        if (!app.kv().get(key(t))) throw Failed{"a key is gone"};
      },
      {0.9, 1.1});
  compare(
      around, "KV update, 128 B",
      [&](int t) { at(raw_at, t) = raw.update(key(t), data, at(raw_at, t)); },
      [&](int t) { at(our_at, t) = app.kv().update(key(t), data, at(our_at, t)); }, {0.9, 1.1});
}

void calls(Surroundings& around, const std::string& url, RawClient& raw, cluster::App& app) {
  const std::string data(kMessageBytes, 'x');
  const Echo echo(url, "bench.echo");
  const Echo worker(url, "bench.worker", kThreads);
  const cluster::CallOptions to_a{.node = "a"};
  const auto call = [&](const char* method) {
    return [&app, &data, &to_a, method](int) {
      if (app.call("echo", method, data, to_a).payload != data) throw Failed{"an odd answer"};
    };
  };
  const auto request = [&](const char* to) {
    return [&raw, &data, to](int) { raw.request(to, data); };
  };
  // Each beside a responder of its kind: one that answers on the thread that delivers and must not
  // block, and one that hands over to threads that may.
  compare(around, "call of a quick method, 128 B", request("bench.echo"), call("quick"),
          {0.85, 1.15});
  compare(around, "call of a method that may block, 128 B", request("bench.worker"), call("echo"),
          {0.85, 1.15});
  compare(around, "call of a method that may block, beside one that must not, 128 B",
          request("bench.echo"), call("echo"), {0.85, 1.15});
  // What calls leave behind, on both sides of them.
  const auto in_use = [] { return static_cast<double>(mallinfo2().uordblks) / 1024; };
  const int count = around.amounts.calls_for_memory;
  together([&](int) { app.call("echo", "echo", data, to_a); }, count / 20);
  const double before = in_use();
  together([&](int) { app.call("echo", "echo", data, to_a); }, count);
  const double growth = in_use() - before;
  around.report.verdict("heap in use after " + std::to_string(count) + " calls more, both sides",
                        ratio_text(growth) + " KiB more than before", "no growth (under 64 KiB)",
                        growth < 64);
}

void events(Surroundings& around, RawClient& raw, cluster::App& app) {
  const std::string data(kMessageBytes, 'x');
  std::atomic<std::uint64_t> id{0};
  compare(
      around, "one event, 128 B, acknowledged",
      [&](int) { raw.publish(data, "bench-id-of-16ch-" + std::to_string(++id)); },
      [&](int) { app.events().publish("bench", data); }, {0.9, 0});
}

}  // namespace

void talk(Surroundings& around) {
  const auto servers =
      cluster::nats::start_local_servers(1, around.folder + "/nats", around.sync_always);
  const std::string url = servers.front()->url();
  RawClient raw(url);
  PlatformNode a(url, around.folder, "a"), b(url, around.folder, "b");
  cluster::App* caller = nullptr;
  for (auto* node : {&a, &b}) {
    auto& app = node->platform.add_app({.name = "echo", .mode = cluster::Spread{}});
    const auto echo = [](const cluster::CallRequest& request) { return request.payload; };
    app.handle("echo", echo);
    app.handle("quick", echo, {.quick = true});
    caller = &app;
  }
  a.run(around.waiting, 1);
  b.run(around.waiting, 2);
  around.waiting.wait_for("a call to be answered", 10s, [&] {
    try {
      caller->call("echo", "echo", "", {.node = "a"});
      return true;
    } catch (const cluster::Error&) {
      return false;
    }
  });
  keys(around, raw, *caller);
  calls(around, url, raw, *caller);
  events(around, raw, *caller);
}

}  // namespace bench
