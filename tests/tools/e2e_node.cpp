// A node for the end-to-end tests: a program on the public API that writes down what it sees and
// does.
//   e2e_node OPTIONS         runs a node; OPTIONS is JSON, see below
//   e2e_node --reaper MARK   waits for the end of standard input, then ends all processes whose
//                            environment holds MARK
// Ends with 0, or with 10 + the number of the error's Errc.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cluster/cluster.h"
#include "core/process_scan.h"
#include "tools/e2e_journal.h"
#include "tools/e2e_workload.h"

namespace {

using cluster::e2e::boot_ns;
using cluster::e2e::Journal;
using nlohmann::json;
using std::chrono::milliseconds;

constexpr std::int64_t kLeadsLineEvery = 5'000'000;  // ns, while an app leads

milliseconds ms(const json& options, const char* key, milliseconds fallback) {
  return milliseconds(options.value(key, static_cast<std::int64_t>(fallback.count())));
}

cluster::PlatformOptions platform_options(const json& o) {
  cluster::PlatformOptions p;
  p.name = o.at("platform");
  p.node = o.at("node");
  p.nats.servers = o.at("nats").get<std::vector<std::string>>();
  p.nats.user = o.value("user", "");
  p.nats.password = o.value("password", "");
  p.nats.start_timeout = ms(o, "start_timeout_ms", p.nats.start_timeout);
  p.folder = o.at("folder");
  p.http = o.value("http", "");
  p.timing.session_timeout = ms(o, "session_timeout_ms", p.timing.session_timeout);
  p.timing.lease_ttl = ms(o, "lease_ttl_ms", p.timing.lease_ttl);
  p.timing.stop_margin = ms(o, "stop_margin_ms", p.timing.stop_margin);
  p.timing.hook_timeout = ms(o, "hook_timeout_ms", p.timing.hook_timeout);
  p.timing.cooldown = ms(o, "cooldown_ms", p.timing.cooldown);
  p.timing.shutdown_timeout = ms(o, "shutdown_timeout_ms", p.timing.shutdown_timeout);
  return p;
}

cluster::Backend backend_from(const json& app) {
  if (!app.contains("backend")) return {};
  const auto& o = app.at("backend");
  cluster::Process p;
  p.command = o.at("command").get<std::vector<std::string>>();
  if (o.contains("ready_port"))
    p.ready = cluster::ReadyTcp{.host = "127.0.0.1", .port = o.at("ready_port")};
  p.ready_timeout = ms(o, "ready_timeout_ms", p.ready_timeout);
  p.stop_timeout = ms(o, "stop_timeout_ms", p.stop_timeout);
  p.max_restarts = o.value("max_restarts", p.max_restarts);
  p.backoff_min = ms(o, "backoff_ms", p.backoff_min);
  p.backoff_max = ms(o, "backoff_ms", p.backoff_max);
  if (o.value("restart", "always") == "never") p.restart = cluster::Restart::never;
  return p;
}

/// Writes down when a singleton leads: from the first moment of which that is certain to the last.
class LeadWatch {
 public:
  LeadWatch(const Journal& journal, std::string node, cluster::App& app)
      : journal_(journal), node_(std::move(node)), app_(app), thread_([this] { watch(); }) {}
  ~LeadWatch() {
    stop_.store(true);
    thread_.join();
  }
  LeadWatch(const LeadWatch&) = delete;
  LeadWatch& operator=(const LeadWatch&) = delete;

 private:
  void line(std::int64_t ns, const char* event) {
    journal_.write(ns, node_, app_.name(), event, epoch_);
  }

  void watch() {
    bool led = false;
    std::int64_t last_true = 0;
    std::int64_t last_line = 0;
    while (!stop_.load()) {
      const std::int64_t before = boot_ns();
      const bool leads = app_.election().is_leader();
      const std::uint64_t epoch = leads ? app_.epoch() : epoch_;
      if (led && (!leads || epoch != epoch_)) {
        line(last_true, "leads_end");
        led = false;
      }
      if (leads) {
        epoch_ = epoch;
        last_true = before;
        if (!led) {
          line(boot_ns(), "leads_begin");
        } else if (before - last_line >= kLeadsLineEvery) {
          line(before, "leads");
          last_line = before;
        }
        led = true;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    if (led) line(last_true, "leads_end");
  }

  const Journal& journal_;
  const std::string node_;
  cluster::App& app_;
  std::uint64_t epoch_ = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// A hook as the test wants it: {"throw": N} throws the first N times, {"block": true} never
/// returns, {"slow_ms": N} takes that long unless it is told to stop.
class Hook {
 public:
  Hook(const Journal& journal, std::string node, cluster::App& app, std::string name,
       const json& behaviour)
      : journal_(journal),
        node_(std::move(node)),
        app_(app),
        name_(std::move(name)),
        throws_(behaviour.value("throw", 0)),
        blocks_(behaviour.value("block", false)),
        slow_(behaviour.value("slow_ms", 0)) {}

  void operator()(std::stop_token stop) {
    line("_begin");
    if (throws_ > 0) {
      --throws_;
      line("_threw");
      throw std::runtime_error("as the test wants it");
    }
    while (blocks_) ::pause();
    const auto end = std::chrono::steady_clock::now() + milliseconds(slow_);
    while (!stop.stop_requested() && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(milliseconds(1));
    line("_end");
  }

 private:
  void line(const char* what) {
    const bool singleton = app_.epoch() != 0;
    journal_.write(boot_ns(), node_, app_.name(), (name_ + what).c_str(), app_.epoch(),
                   singleton && app_.election().is_leader() ? "leads" : "-");
  }

  const Journal& journal_;
  const std::string node_;
  cluster::App& app_;
  const std::string name_;
  int throws_;
  bool blocks_;
  int slow_;
};

cluster::App& add_app(cluster::Platform& platform, const Journal& journal, const json& o) {
  const std::string node = platform.node();
  cluster::AppOptions options;
  options.name = o.at("name");
  if (o.value("spread", false)) options.mode = cluster::Spread{};
  options.backend = backend_from(o);
  options.kv.history = o.value("kv_history", options.kv.history);
  if (o.contains("sqlite")) {
    options.sqlite.path = o.at("sqlite").at("path");
    options.sqlite.replica = o.at("sqlite").value("replica", "");
    if (o.at("sqlite").value("commit", "async") == "replicated")
      options.sqlite.commit = cluster::Commit::replicated;
    options.sqlite.wal_limit = o.at("sqlite").value("wal_limit", options.sqlite.wal_limit);
    const auto ms = [&](const char* key, std::chrono::milliseconds& value) {
      value = std::chrono::milliseconds(o.at("sqlite").value(key, value.count()));
    };
    ms("drain_timeout_ms", options.sqlite.drain_timeout);
    ms("snapshot_interval_ms", options.sqlite.snapshot_interval);
    ms("snapshot_merge_interval_ms", options.sqlite.snapshot_merge_interval);
    ms("snapshot_retention_ms", options.sqlite.snapshot_retention);
    ms("stream_window_ms", options.sqlite.stream_window);
    ms("scrub_interval_ms", options.sqlite.scrub_interval);
    options.sqlite.scrub_rate = o.at("sqlite").value("scrub_rate", options.sqlite.scrub_rate);
  }
  cluster::App& app = platform.add_app(options);
  auto hook = [&](const char* name) {
    return cluster::App::Hook(
        [h = std::make_shared<Hook>(journal, node, app, name, o.value(name, json::object()))](
            std::stop_token stop) { (*h)(stop); });
  };
  app.on_start(hook("start"));
  app.on_active(hook("active"));
  app.on_passive(hook("passive"));
  app.on_stop(hook("stop"));
  app.on_leader_change([&journal, node](const cluster::LeaderChange& change) {
    journal.write(boot_ns(), node, change.app, "leader", change.leader ? change.leader->epoch : 0,
                  change.leader ? change.leader->node : "none");
  });
  return app;
}

int run(const json& o) {
  const Journal journal(o.at("journal").get<std::string>());
  cluster::Platform platform(platform_options(o));
  const std::string node = platform.node();
  std::vector<std::unique_ptr<LeadWatch>> watches;
  std::unique_ptr<cluster::e2e::Workload> workload;
  for (const auto& one : o.at("apps")) {
    cluster::App& app = add_app(platform, journal, one);
    if (!one.value("spread", false))
      watches.push_back(std::make_unique<LeadWatch>(journal, node, app));
    if (one.contains("workload"))
      workload = std::make_unique<cluster::e2e::Workload>(platform, app, one.at("workload"));
  }
  // They are called until the platform is gone, which is after all that comes after it here.
  platform.on_member_join([&journal, node](const cluster::Member& m) {
    journal.write(boot_ns(), node, "-", "member_join", 0, m.node);
  });
  platform.on_member_leave([&journal, node](const cluster::Member& m) {
    journal.write(boot_ns(), node, "-", "member_leave", 0, m.node);
  });
  journal.write(boot_ns(), node, "-", "run", 0);
  platform.run();
  workload.reset();
  journal.write(boot_ns(), node, "-", "ran", 0);
  return 0;
}

int reap(const std::string& mark) {
  char byte = 0;
  while (::read(0, &byte, 1) > 0) continue;
  cluster::end_marked({mark}, std::chrono::seconds(10));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count == 3 && std::string(arguments[1]) == "--reaper") return reap(arguments[2]);
    if (count != 2) throw std::runtime_error("one argument, please: the options as JSON");
    return run(json::parse(arguments[1]));
  } catch (const cluster::Error& e) {
    std::fprintf(stderr, "e2e_node: %s\n", e.what());
    return 10 + e.code().value();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "e2e_node: %s\n", e.what());
    return 2;
  }
}
