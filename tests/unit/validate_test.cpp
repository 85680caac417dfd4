#include "platform/validate.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cluster {
namespace {

using namespace std::chrono_literals;

PlatformOptions good() { return {.name = "shop", .nats_url = "nats://127.0.0.1:4222"}; }
AppOptions good_app() { return {.name = "database", .backend = Process{.command = {"/bin/db"}}}; }

bool has(const std::vector<std::string>& faults, const std::string& start) {
  for (const auto& line : faults)
    if (line.rfind(start, 0) == 0) return true;
  return false;
}

TEST(Validate, DefaultsWithANameAndAServerAreFine) {
  EXPECT_EQ(faults_of(good()), std::vector<std::string>{});
  EXPECT_EQ(faults_of(good_app()), std::vector<std::string>{});
  EXPECT_EQ(faults_of(AppOptions{.name = "worker"}), std::vector<std::string>{});
}

TEST(Validate, EachFaultOfAPlatformIsFoundAtItsPath) {
  struct Case {
    const char* start;
    std::function<void(PlatformOptions&)> spoil;
  };
  const std::vector<Case> cases{
      {"name: it is empty", [](auto& o) { o.name = ""; }},
      {"name: \"My_App\"", [](auto& o) { o.name = "My_App"; }},
      {"node: \"a b\"", [](auto& o) { o.node = "a b"; }},
      {"nats.servers: no server is given", [](auto& o) { o.nats_url = ""; }},
      {"nats_url: nats.servers is given too", [](auto& o) { o.nats.servers = {"nats://a:1"}; }},
      {"nats_url: \"http://a:1\" does not begin", [](auto& o) { o.nats_url = "http://a:1"; }},
      {"nats_url: \"nats://\" names no host", [](auto& o) { o.nats_url = "nats://"; }},
      {"nats_url: \"nats://a:99999\"", [](auto& o) { o.nats_url = "nats://a:1,nats://a:99999"; }},
      {"nats_url: \"nats://a:0\"", [](auto& o) { o.nats_url = "nats://a:0"; }},
      {"nats_url: \"nats://***@a:x\"", [](auto& o) { o.nats_url = "nats://me:secret@a:x"; }},
      {"nats: more than one way to log in is given (creds_file, token)",
       [](auto& o) {
         o.nats.creds_file = "a";
         o.nats.token = "b";
       }},
      {"nats.password: a password without a user", [](auto& o) { o.nats.password = "x"; }},
      {"nats.tls.cert_file:", [](auto& o) { o.nats.tls.cert_file = "c"; }},
      {"nats.tls.key_file:", [](auto& o) { o.nats.tls.key_file = "c"; }},
      {"audit.max_age: it must be 0 (for ever) or at least 1 minute",
       [](auto& o) { o.audit.max_age = 59s; }},
      {"audit.max_age:", [](auto& o) { o.audit.max_age = -1ms; }},
      {"audit.max_age:", [](auto& o) { o.audit.max_age = std::chrono::hours(24 * 400); }},
      {"audit.max_bytes: it must be 0 (no limit) or at least 1 MiB",
       [](auto& o) { o.audit.max_bytes = 1024 * 1024 - 1; }},
      {"nats.embedded: more than one", [](auto& o) { o.nats.embedded.resize(2); }},
      {"nats.embedded.port: 70000 is not from 0 to 65535",
       [](auto& o) { o.nats.embedded = {{.port = 70'000}}; }},
      {"nats.embedded.cluster_port: 0", [](auto& o) { o.nats.embedded = {{.cluster_port = 0}}; }},
      {"nats.embedded.cluster_port: 4222 is also",
       [](auto& o) { o.nats.embedded = {{.cluster_port = 4222, .routes = {"nats://b:6222"}}}; }},
      {"nats.embedded.routes: \"nats://b\" names no port",
       [](auto& o) { o.nats.embedded = {{.routes = {"nats://b"}}}; }},
      {"nats.embedded.server_name:", [](auto& o) { o.nats.embedded = {{.server_name = "a b"}}; }},
      {"nats.embedded.host: it is empty", [](auto& o) { o.nats.embedded = {{.host = ""}}; }},
      {"nats.start_timeout: -1ms", [](auto& o) { o.nats.start_timeout = -1ms; }},
      {"nats.replicas: 6 is not from 0 to 5", [](auto& o) { o.nats.replicas = 6; }},
      {"labels: \"\"", [](auto& o) { o.labels[""] = "x"; }},
      {"http: \"8080\" names no port", [](auto& o) { o.http = "8080"; }},
      {"http: \":8080\" names no host", [](auto& o) { o.http = ":8080"; }},
      {"http: \"::1:80\" has an IPv6", [](auto& o) { o.http = "::1:80"; }},
      {"http: \"a:b\"", [](auto& o) { o.http = "a:b"; }},
      {"timing.session_timeout: 199ms is less than 200ms",
       [](auto& o) {
         o.timing.session_timeout = 199ms;
         o.timing.stop_margin = 20ms;
       }},
      {"timing.session_timeout: 61s is more than 1m",
       [](auto& o) {
         o.timing.session_timeout = 61s;
         o.timing.lease_ttl = 1h;
       }},
      {"timing.lease_ttl: 6s is less than ten times session_timeout (7s)",
       [](auto& o) { o.timing.lease_ttl = 6s; }},
      {"timing.stop_margin: 176ms is more than a quarter of session_timeout (175ms)",
       [](auto& o) { o.timing.stop_margin = 176ms; }},
      {"timing.stop_margin: 0s", [](auto& o) { o.timing.stop_margin = 0ms; }},
      {"timing.drift:", [](auto& o) { o.timing.drift = 0.3; }},
      {"timing.drift:", [](auto& o) { o.timing.drift = std::nan(""); }},
      {"timing.hook_timeout:", [](auto& o) { o.timing.hook_timeout = 0ms; }},
      {"timing.hook_timeout: it is more than a year",
       [](auto& o) { o.timing.hook_timeout = std::chrono::milliseconds::max(); }},
      {"timing.cooldown: it is more than a year",
       [](auto& o) { o.timing.cooldown = std::chrono::hours(24 * 366); }},
      {"nats.start_timeout: it is more than a year",
       [](auto& o) { o.nats.start_timeout = std::chrono::milliseconds::max(); }},
      {"timing.cooldown:", [](auto& o) { o.timing.cooldown = -1ms; }},
  };
  for (const auto& c : cases) {
    PlatformOptions options = good();
    c.spoil(options);
    const auto faults = faults_of(options);
    EXPECT_EQ(faults.size(), 1u) << c.start << "\n" << faults_text(faults);
    EXPECT_TRUE(has(faults, c.start)) << c.start << "\n" << faults_text(faults);
  }
}

TEST(Validate, TheLimitsThemselvesAreAllowed) {
  PlatformOptions options = good();
  options.timing = {.session_timeout = 200ms, .lease_ttl = 2s, .stop_margin = 50ms, .drift = 0.2};
  options.http = "[::1]:0";
  options.nats_url = "nats://u:p@a:1,tls://b,nats://[::1]:4222,nats://[::1]";
  options.nats.replicas = 5;
  EXPECT_EQ(faults_of(options), std::vector<std::string>{});
}

TEST(Validate, EachFaultOfAnAppIsFoundAtItsPath) {
  struct Case {
    const char* start;
    std::function<void(AppOptions&, Process&)> spoil;
  };
  const std::vector<Case> cases{
      {"apps._x.name: \"_x\": names that begin with '_'", [](auto& a, auto&) { a.name = "_x"; }},
      {"apps..name: it is empty", [](auto& a, auto&) { a.name = ""; }},
      {"apps.database.hook_timeout: -1ms", [](auto& a, auto&) { a.hook_timeout = -1ms; }},
      {"apps.database.process.ready_timeout: it is more than a year",
       [](auto&, auto& p) { p.ready_timeout = std::chrono::milliseconds::max(); }},
      {"apps.database.process.command: it is empty", [](auto&, auto& p) { p.command = {}; }},
      {"apps.database.process.command: it is empty", [](auto&, auto& p) { p.command = {""}; }},
      {"apps.database.process.environment: \"a=b\"",
       [](auto&, auto& p) { p.environment = {{"a=b", ""}}; }},
      {"apps.database.process.environment: CPP_CLUSTER_ROLE is set by the node",
       [](auto&, auto& p) { p.environment = {{"CPP_CLUSTER_ROLE", "x"}}; }},
      {"apps.database.process.ready.tcp: 0 is not", [](auto&, auto& p) { p.ready = ReadyTcp{}; }},
      {"apps.database.process.ready.tcp: it names no host",
       [](auto&, auto& p) { p.ready = ReadyTcp{"", 80}; }},
      {"apps.database.process.ready.http: \"https://a\" does not begin",
       [](auto&, auto& p) { p.ready = ReadyHttp{"https://a"}; }},
      {"apps.database.process.ready.http: \"http:///x\" names no host",
       [](auto&, auto& p) { p.ready = ReadyHttp{"http:///x"}; }},
      {"apps.database.process.ready.http: \"http://a:b/\" has",
       [](auto&, auto& p) { p.ready = ReadyHttp{"http://a:b/"}; }},
      {"apps.database.process.ready.delay: 1m is not less than ready_timeout",
       [](auto&, auto& p) { p.ready = ReadyDelay{1min}; }},
      {"apps.database.process.ready_timeout:", [](auto&, auto& p) { p.ready_timeout = 0ms; }},
      {"apps.database.process.health_interval:", [](auto&, auto& p) { p.health_interval = -1ms; }},
      {"apps.database.process.health_failures:", [](auto&, auto& p) { p.health_failures = 0; }},
      {"apps.database.process.stop_timeout:", [](auto&, auto& p) { p.stop_timeout = -1ms; }},
      {"apps.database.process.backoff_min:", [](auto&, auto& p) { p.backoff_min = 0ms; }},
      {"apps.database.process.backoff_max: 100ms is less than backoff_min (200ms)",
       [](auto&, auto& p) { p.backoff_max = 100ms; }},
      {"apps.database.process.max_restarts:", [](auto&, auto& p) { p.max_restarts = -1; }},
      {"apps.database.process.restart_window:", [](auto&, auto& p) { p.restart_window = 0ms; }},
  };
  for (const auto& c : cases) {
    AppOptions app = good_app();
    c.spoil(app, std::get<Process>(app.backend));
    const auto faults = faults_of(app);
    EXPECT_EQ(faults.size(), 1u) << c.start << "\n" << faults_text(faults);
    EXPECT_TRUE(has(faults, c.start)) << c.start << "\n" << faults_text(faults);
  }
}

TEST(Validate, AScrubHasBounds) {
  const auto faults = [](std::chrono::milliseconds interval, std::uint64_t rate) {
    AppOptions app = good_app();
    app.sqlite.path = "/a.db";
    app.sqlite.scrub_interval = interval;
    app.sqlite.scrub_rate = rate;
    return faults_of(app);
  };
  constexpr std::uint64_t kLeast = 64 * 1024, kMost = std::uint64_t{16} << 30;
  for (const auto interval : {0ms, 1'000ms, std::chrono::milliseconds(8'760h)})
    for (const auto rate : {kLeast, kMost})
      EXPECT_EQ(faults(interval, rate), std::vector<std::string>{});
  for (const auto interval : {-1ms, 1ms, 999ms, std::chrono::milliseconds(8'760h) + 1ms}) {
    const auto found = faults(interval, kLeast);
    EXPECT_EQ(found.size(), 1U) << interval.count();
    EXPECT_TRUE(has(found, "apps.database.sqlite.scrub_interval: ")) << faults_text(found);
  }
  for (const auto rate : {std::uint64_t{0}, kLeast - 1, kMost + 1}) {
    const auto found = faults(1h, rate);
    EXPECT_EQ(found.size(), 1U) << rate;
    EXPECT_TRUE(has(found, "apps.database.sqlite.scrub_rate: it must be 64 KiB (65536) to 16 GiB"))
        << faults_text(found);
  }
}

TEST(Validate, AllFaultsComeAtOnce) {
  PlatformOptions options{.name = "X", .node = "!", .http = "x"};
  options.timing.drift = 9;
  EXPECT_EQ(faults_of(options).size(), 5u);
  EXPECT_EQ(faults_text({"a: b", "c: d"}), "the options have 2 faults:\n  a: b\n  c: d");
}

}  // namespace
}  // namespace cluster
