#include "platform/validate.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "core/duration.h"
#include "core/names.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLongestDuration = std::chrono::hours(24 * 365);

class Faults {
 public:
  explicit Faults(std::string prefix) : prefix_(std::move(prefix)) {}

  void add(const std::string& path, const std::string& what) {
    lines_.push_back(prefix_ + path + ": " + what);
  }
  void add_unless(bool fine, const std::string& path, const std::string& what) {
    if (!fine) add(path, what);
  }
  void within(const std::string& path, int value, int least, int most) {
    if (value < least || value > most)
      add(path, std::to_string(value) + " is not from " + std::to_string(least) + " to " +
                    std::to_string(most));
  }
  /// No duration is longer than a year: sums of such, in nanoseconds, are far from overflowing.
  void at_least(const std::string& path, milliseconds value, milliseconds least) {
    if (value < least)
      add(path, format_duration(value) + " is less than " + format_duration(least));
    else if (value > kLongestDuration)
      add(path, "it is more than a year");
  }
  void at_most(const std::string& path, milliseconds value, milliseconds most) {
    if (value > most) add(path, format_duration(value) + " is more than " + format_duration(most));
  }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::string prefix_;
  std::vector<std::string> lines_;
};

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

bool has_control(std::string_view text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return true;
  return false;
}

std::string port_fault(std::string_view text, int& port) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (failure != std::errc() || end != text.data() + text.size() || port < 0 || port > 65'535)
    return "has \"" + std::string(text) + "\" where a port from 0 to 65535 belongs";
  return {};
}

// The part of a URL behind its scheme, up to a path; without user and password.
std::string authority_of(const std::string& url, std::size_t scheme_size) {
  std::string authority = url.substr(scheme_size);
  authority = authority.substr(0, authority.find('/'));
  if (const auto at = authority.rfind('@'); at != std::string::npos) authority.erase(0, at + 1);
  return authority;
}

// What a message may show of a URL: never the password in it.
std::string shown_url(const std::string& url) {
  const auto at = url.rfind('@');
  const auto scheme = url.find("://");
  if (at == std::string::npos) return quoted(url);
  return quoted((scheme == std::string::npos ? "" : url.substr(0, scheme + 3)) + "***" +
                url.substr(at));
}

std::string url_fault(const std::string& url, bool port_needed) {
  std::size_t scheme_size = 0;
  for (const std::string_view scheme : {"nats://", "tls://"})
    if (url.rfind(scheme, 0) == 0) scheme_size = scheme.size();
  if (scheme_size == 0)
    return shown_url(url) + " does not begin with nats:// or tls://: write one like " +
           "nats://127.0.0.1:4222";
  std::string authority = authority_of(url, scheme_size);
  const bool bracketed = !authority.empty() && authority.back() == ']';
  if (authority.find(':') == std::string::npos || bracketed) {
    if (authority.empty()) return shown_url(url) + " names no host";
    if (port_needed) return shown_url(url) + " names no port";
    return {};
  }
  HostPort parts;
  if (const auto why = split_host_port(authority, parts); !why.empty())
    return shown_url(url) + " " + why;
  if (parts.port == 0) return shown_url(url) + " has port 0, which nobody can connect to";
  return {};
}

void check_embedded(const EmbeddedNats& e, Faults& faults) {
  const std::string at = "nats.embedded.";
  faults.add_unless(!e.host.empty(), at + "host", "it is empty: give an address such as 127.0.0.1");
  faults.within(at + "port", e.port, 0, 65'535);
  faults.within(at + "cluster_port", e.cluster_port, 1, 65'535);
  faults.add_unless(!e.cluster_host.empty(), at + "cluster_host",
                    "it is empty: give an address such as 0.0.0.0");
  if (!e.routes.empty() && e.port != 0 && e.port == e.cluster_port)
    faults.add(at + "cluster_port",
               std::to_string(e.cluster_port) + " is also the port of clients");
  for (const auto& [name, value] :
       {std::pair<std::string, const std::string&>{"server_name", e.server_name},
        {"cluster_name", e.cluster_name}})
    if (has_control(value) || value.find(' ') != std::string::npos)
      faults.add(at + name, quoted(value) + " has blanks or control characters");
  for (const auto& route : e.routes)
    if (const auto why = url_fault(route, true); !why.empty()) faults.add(at + "routes", why);
}

void check_credentials(const Nats& nats, Faults& faults) {
  std::vector<std::string> given;
  if (!nats.creds_file.empty()) given.push_back("creds_file");
  if (!nats.nkey_seed_file.empty()) given.push_back("nkey_seed_file");
  if (!nats.user.empty()) given.push_back("user");
  if (!nats.token.empty()) given.push_back("token");
  if (given.size() > 1) {
    std::string all;
    for (const auto& name : given) all += (all.empty() ? "" : ", ") + name;
    faults.add("nats", "more than one way to log in is given (" + all + "): keep one");
  }
  faults.add_unless(nats.password.empty() || !nats.user.empty(), "nats.password",
                    "a password without a user: give nats.user too");
  faults.add_unless(nats.tls.cert_file.empty() || !nats.tls.key_file.empty(), "nats.tls.cert_file",
                    "a certificate without its key: give nats.tls.key_file too");
  faults.add_unless(nats.tls.key_file.empty() || !nats.tls.cert_file.empty(), "nats.tls.key_file",
                    "a key without its certificate: give nats.tls.cert_file too");
}

void check_nats(const PlatformOptions& options, Faults& faults) {
  const Nats& nats = options.nats;
  if (!options.nats_url.empty() && !nats.servers.empty())
    faults.add("nats_url", "nats.servers is given too: keep one");
  if (options.nats_url.empty() && nats.servers.empty() && nats.embedded.empty())
    faults.add("nats.servers", "no server is given: name one, for example nats://127.0.0.1:4222");
  std::size_t start = 0;
  while (!options.nats_url.empty() && start <= options.nats_url.size()) {
    const auto comma = std::min(options.nats_url.find(',', start), options.nats_url.size());
    const std::string url = options.nats_url.substr(start, comma - start);
    if (const auto why = url_fault(url, false); !why.empty()) faults.add("nats_url", why);
    start = comma + 1;
  }
  for (const auto& url : nats.servers)
    if (const auto why = url_fault(url, false); !why.empty()) faults.add("nats.servers", why);
  check_credentials(nats, faults);
  faults.add_unless(nats.embedded.size() <= 1, "nats.embedded", "more than one server is given");
  for (const auto& e : nats.embedded) check_embedded(e, faults);
  faults.at_least("nats.start_timeout", nats.start_timeout, milliseconds(0));
  faults.within("nats.replicas", nats.replicas, 0, 5);
}

void check_timing(const Timing& timing, Faults& faults) {
  const std::string at = "timing.";
  faults.at_least(at + "session_timeout", timing.session_timeout, milliseconds(200));
  faults.at_most(at + "session_timeout", timing.session_timeout, milliseconds(60'000));
  if (timing.lease_ttl < 10 * timing.session_timeout)
    faults.add(at + "lease_ttl", format_duration(timing.lease_ttl) +
                                     " is less than ten times session_timeout (" +
                                     format_duration(10 * timing.session_timeout) + ")");
  faults.at_most(at + "lease_ttl", timing.lease_ttl, std::chrono::hours(1));
  faults.at_least(at + "stop_margin", timing.stop_margin, milliseconds(1));
  if (timing.stop_margin > timing.session_timeout / 4)
    faults.add(at + "stop_margin", format_duration(timing.stop_margin) +
                                       " is more than a quarter of session_timeout (" +
                                       format_duration(timing.session_timeout / 4) + ")");
  // Written so that a NaN is refused too.
  if (!(timing.drift >= 0.001 && timing.drift <= 0.2))
    faults.add(at + "drift", "it must be from 0.001 to 0.2 (2% is 0.02)");
  faults.at_least(at + "hook_timeout", timing.hook_timeout, milliseconds(1));
  faults.at_least(at + "cooldown", timing.cooldown, milliseconds(1));
  faults.at_least(at + "shutdown_timeout", timing.shutdown_timeout, milliseconds(1'000));
}

void check_ready(const Process& process, Faults& faults) {
  const std::string at = "process.ready";
  if (const auto* tcp = std::get_if<ReadyTcp>(&process.ready)) {
    faults.add_unless(!tcp->host.empty(), at + ".tcp", "it names no host");
    faults.within(at + ".tcp", tcp->port, 1, 65'535);
  } else if (const auto* http = std::get_if<ReadyHttp>(&process.ready)) {
    const std::string_view scheme = "http://";
    if (http->url.rfind(scheme, 0) != 0) {
      faults.add(at + ".http", quoted(http->url) + " does not begin with http://");
    } else {
      const std::string authority = authority_of(http->url, scheme.size());
      HostPort parts;
      if (authority.empty() || authority[0] == ':')
        faults.add(at + ".http", quoted(http->url) + " names no host");
      else if (authority.find(':') != std::string::npos && authority.back() != ']')
        if (const auto why = split_host_port(authority, parts); !why.empty())
          faults.add(at + ".http", quoted(http->url) + " " + why);
    }
  } else {
    const auto delay = std::get<ReadyDelay>(process.ready).delay;
    faults.at_least(at + ".delay", delay, milliseconds(0));
    if (delay >= process.ready_timeout && delay > milliseconds(0))
      faults.add(at + ".delay", format_duration(delay) +
                                    " is not less than ready_timeout: it would never be ready");
  }
}

void check_process(const Process& process, Faults& faults) {
  const std::string at = "process.";
  if (process.command.empty() || process.command[0].empty())
    faults.add(at + "command", "it is empty: name the program to run");
  for (const auto& [name, value] : process.environment) {
    if (name.empty() || name.find('=') != std::string::npos || has_control(name))
      faults.add(at + "environment", quoted(name) + " can't be a variable's name");
    for (const std::string_view ours : {"PLATFORM", "APP", "NODE", "ROLE", "EPOCH", "DATABASE",
                                        "COMMIT", "COMMIT_TIMEOUT", "COMMIT_FOLDER"})
      if (name == "CPP_CLUSTER_" + std::string(ours))
        faults.add(at + "environment", name + " is set by the node itself");
    if (value.find('\0') != std::string::npos)
      faults.add(at + "environment", "the value of " + name + " has a zero byte");
  }
  check_ready(process, faults);
  faults.at_least(at + "ready_timeout", process.ready_timeout, milliseconds(1));
  faults.at_least(at + "health_interval", process.health_interval, milliseconds(0));
  faults.add_unless(process.health_failures >= 1, at + "health_failures", "it must be at least 1");
  faults.at_least(at + "stop_timeout", process.stop_timeout, milliseconds(0));
  faults.at_least(at + "backoff_min", process.backoff_min, milliseconds(1));
  faults.at_least(at + "backoff_max", process.backoff_max, milliseconds(1));
  if (process.backoff_max < process.backoff_min)
    faults.add(at + "backoff_max", format_duration(process.backoff_max) +
                                       " is less than backoff_min (" +
                                       format_duration(process.backoff_min) + ")");
  faults.add_unless(process.max_restarts >= 0, at + "max_restarts", "it is negative");
  faults.at_least(at + "restart_window", process.restart_window, milliseconds(1));
}

void check_kv(const KvOptions& kv, Faults& faults) {
  if (kv.history < 1 || kv.history > 64)
    faults.add("kv.history", std::to_string(kv.history) + " is not between 1 and 64");
  if (kv.max_bytes < 0) faults.add("kv.max_bytes", "it can't be negative; 0 is no limit");
  if (kv.max_value_size < 0)
    faults.add("kv.max_value_size", "it can't be negative; 0 is what NATS takes");
}

void check_calls(const CallerOptions& calls, Faults& faults) {
  faults.add_unless(calls.breaker_failures >= 0 && calls.breaker_failures <= 1'000,
                    "calls.breaker_failures", "it must be 0 (never) to 1000");
  faults.at_least("calls.breaker_open", calls.breaker_open, milliseconds(10));
  faults.at_most("calls.breaker_open", calls.breaker_open, milliseconds(600'000));
}

void check_sqlite(const AppOptions& options, Faults& faults) {
  const Sqlite& sqlite = options.sqlite;
  if (sqlite.path.empty()) {
    if (sqlite != Sqlite{}) faults.add("sqlite.path", "it must be given: the database's file");
    return;
  }
  if (!std::holds_alternative<Singleton>(options.mode))
    faults.add("sqlite.path", "only a singleton app can have a database: one node writes to it");
  if (sqlite.path.find('\0') != std::string::npos || sqlite.path.back() == '/')
    faults.add("sqlite.path", quoted(sqlite.path) + " can't be a file's name");
  if (!sqlite.replica.empty() && sqlite.replica.back() == '/')
    faults.add("sqlite.replica", quoted(sqlite.replica) + " can't be a file's name");
  faults.at_least("sqlite.commit_timeout", sqlite.commit_timeout, milliseconds(10));
  faults.at_least("sqlite.drain_timeout", sqlite.drain_timeout, milliseconds(0));
  faults.at_least("sqlite.snapshot_interval", sqlite.snapshot_interval, milliseconds(1'000));
  faults.at_least("sqlite.snapshot_retention", sqlite.snapshot_retention, milliseconds(0));
  faults.at_least("sqlite.snapshot_merge_interval", sqlite.snapshot_merge_interval,
                  milliseconds(100));
  faults.at_least("sqlite.stream_window", sqlite.stream_window, milliseconds(0));
  if (sqlite.scrub_interval.count() != 0) {
    faults.at_least("sqlite.scrub_interval", sqlite.scrub_interval, milliseconds(1'000));
  }
  faults.add_unless(sqlite.scrub_rate >= 64 * 1024 && sqlite.scrub_rate <= std::uint64_t{16} << 30,
                    "sqlite.scrub_rate",
                    "it must be 64 KiB (65536) to 16 GiB (17179869184) a second");
  faults.add_unless(sqlite.snapshots_kept >= 1 && sqlite.snapshots_kept <= 1'000,
                    "sqlite.snapshots_kept", "it must be 1 to 1000");
  faults.add_unless(sqlite.wal_limit >= 64 * 1024 && sqlite.wal_limit <= 1024 * 1024 * 1024,
                    "sqlite.wal_limit", "it must be 64 KiB (65536) to 1 GiB (1073741824)");
}

void check_events(const EventsOptions& events, Faults& faults) {
  faults.at_least("events.max_age", events.max_age, milliseconds(0));
  faults.at_least("events.duplicate_window", events.duplicate_window, milliseconds(1'000));
  if (events.max_age.count() > 0)
    faults.at_most("events.duplicate_window", events.duplicate_window, events.max_age);
  faults.add_unless(events.max_bytes == 0 || events.max_bytes >= 1024 * 1024, "events.max_bytes",
                    "it must be 0 (no limit) or at least 1 MiB (1048576)");
  faults.add_unless(events.max_message_size == 0 || events.max_message_size >= 1024,
                    "events.max_message_size",
                    "it must be 0 (the server's limit) or at least 1 KiB (1024)");
}

void check_audit(const AuditOptions& audit, Faults& faults) {
  if (audit.max_age.count() > 0 && audit.max_age < std::chrono::minutes(1))
    faults.add("audit.max_age", "it must be 0 (for ever) or at least 1 minute (1m)");
  else
    faults.at_least("audit.max_age", audit.max_age, milliseconds(0));
  faults.add_unless(audit.max_bytes == 0 || audit.max_bytes >= 1024 * 1024, "audit.max_bytes",
                    "it must be 0 (no limit) or at least 1 MiB (1048576)");
}

}  // namespace

std::string split_host_port(const std::string& text, HostPort& out) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return "names no port: write host:port";
  std::string host = text.substr(0, colon);
  if (!host.empty() && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string::npos)
    return "has an IPv6 address without brackets: write [address]:port";
  if (host.empty()) return "names no host";
  if (has_control(host) || host.find_first_of(" /@[]") != std::string::npos)
    return "has characters that no host's name has";
  int port = 0;
  if (const auto why = port_fault(std::string_view(text).substr(colon + 1), port); !why.empty())
    return why;
  out = {host, port};
  return {};
}

std::vector<std::string> faults_of(const PlatformOptions& options) {
  Faults faults("");
  if (const auto why = platform_name_fault(options.name); !why.empty())
    faults.add("name", options.name.empty() ? why : quoted(options.name) + ": " + why);
  if (!options.node.empty())
    if (const auto why = node_name_fault(options.node); !why.empty())
      faults.add("node", quoted(options.node) + ": " + why);
  check_nats(options, faults);
  for (const auto& [key, value] : options.labels) {
    if (key.empty() || has_control(key))
      faults.add("labels", quoted(key) + " can't be a label's name");
    if (has_control(value)) faults.add("labels", "the value of " + key + " has control characters");
  }
  HostPort http;
  if (!options.http.empty())
    if (const auto why = split_host_port(options.http, http); !why.empty())
      faults.add("http", quoted(options.http) + " " + why);
  check_timing(options.timing, faults);
  check_events(options.events, faults);
  check_calls(options.calls, faults);
  check_audit(options.audit, faults);
  return faults.take();
}

std::vector<std::string> faults_of(const AppOptions& options) {
  Faults faults("apps." + options.name + ".");
  if (const auto why = app_name_fault(options.name); !why.empty())
    faults.add("name", options.name.empty() ? why : quoted(options.name) + ": " + why);
  faults.at_least("hook_timeout", options.hook_timeout, milliseconds(0));
  check_sqlite(options, faults);
  check_kv(options.kv, faults);
  faults.add_unless(options.calls.concurrency >= 1 && options.calls.concurrency <= 10'000,
                    "calls.concurrency", "it must be 1 to 10000");
  if (const auto* process = std::get_if<Process>(&options.backend)) check_process(*process, faults);
  return faults.take();
}

std::string faults_text(const std::vector<std::string>& faults) {
  std::string text = "the options have " + std::to_string(faults.size()) +
                     (faults.size() == 1 ? " fault:" : " faults:");
  for (const auto& line : faults) text += "\n  " + line;
  return text;
}

}  // namespace cluster
