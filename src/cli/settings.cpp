#include "cli/settings.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "core/duration.h"
#include "core/names.h"
#include "platform/validate.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

Value one(std::string text) { return {.items = {std::move(text)}, .pairs = {}, .scalar = true}; }

// Where a value lives. `make` creates the section around it; without, a null pointer says that the
// section is not there.
template <typename T>
using Place = std::function<T*(bool make)>;

template <typename T>
Place<T> at(T& object) {
  return [&object](bool) { return &object; };
}

template <typename T, typename Section>
Place<T> in(const Place<Section>& section, T Section::* member) {
  return [section, member](bool make) -> T* {
    Section* s = section(make);
    return s == nullptr ? nullptr : &(s->*member);
  };
}

template <typename T>
Setting scalar(std::string path, Place<T> place,
               std::function<std::string(const std::string&, T&)> read,
               std::function<std::string(const T&)> show) {
  return {.path = std::move(path),
          .kind = Setting::Kind::scalar,
          .set = [place, read](const Value& v) { return read(v.items.at(0), *place(true)); },
          .get = [place, show]() -> std::optional<Value> {
            const T* value = place(false);
            return value == nullptr ? std::nullopt : std::optional(one(show(*value)));
          }};
}

Setting text(std::string path, Place<std::string> place) {
  return scalar<std::string>(
      std::move(path), std::move(place),
      [](const std::string& given, std::string& value) {
        value = given;
        return std::string();
      },
      [](const std::string& value) { return value; });
}

Setting secret(std::string path, Place<std::string> place) {
  Setting setting = text(std::move(path), std::move(place));
  setting.secret = true;
  return setting;
}

Setting duration(std::string path, Place<milliseconds> place) {
  return scalar<milliseconds>(
      std::move(path), std::move(place),
      [](const std::string& given, milliseconds& value) -> std::string {
        const auto parsed = parse_duration(given);
        if (!parsed.ok()) return parsed.error().what();
        value = parsed.value();
        return {};
      },
      [](const milliseconds& value) { return format_duration(value); });
}

// Also `off`, which is no time at all.
Setting duration_or_off(std::string path, Place<milliseconds> place) {
  Setting setting = duration(std::move(path), std::move(place));
  setting.set = [set = std::move(setting.set)](const Value& v) {
    return set(v.items.at(0) == "off" ? one("0s") : v);
  };
  setting.get = [get = std::move(setting.get)]() -> std::optional<Value> {
    auto value = get();
    if (value && value->items.at(0) == format_duration(milliseconds(0))) value = one("off");
    return value;
  };
  return setting;
}

template <typename T>
Setting number(std::string path, Place<T> place) {
  return scalar<T>(
      std::move(path), std::move(place),
      [](const std::string& given, T& value) -> std::string {
        T parsed{};
        const auto [end, failure] =
            std::from_chars(given.data(), given.data() + given.size(), parsed);
        if (failure != std::errc() || end != given.data() + given.size())
          return quoted(given) + (std::is_integral_v<T> ? " is no whole number" : " is no number");
        value = parsed;
        return {};
      },
      [](const T& value) {
        char buffer[64];
        const auto [end, failure] = std::to_chars(buffer, buffer + sizeof buffer, value);
        return failure == std::errc() ? std::string(buffer, end) : std::string();
      });
}

// One of some words, each with its value.
template <typename T>
Setting choice(std::string path, Place<T> place, std::vector<std::pair<std::string, T>> words) {
  return scalar<T>(
      std::move(path), std::move(place),
      [words](const std::string& given, T& value) -> std::string {
        std::vector<std::string> names;
        std::string all;
        for (const auto& [word, meaning] : words) {
          if (word == given) {
            value = meaning;
            return {};
          }
          names.push_back(word);
          all += (all.empty() ? "" : ", ") + word;
        }
        const std::string near = nearest_name(given, names);
        return quoted(given) + " is not one of " + all +
               (near.empty() ? "" : "; did you mean " + quoted(near) + "?");
      },
      [words](const T& value) {
        for (const auto& [word, meaning] : words)
          if (meaning == value) return word;
        return std::string();
      });
}

Setting boolean(std::string path, Place<bool> place) {
  return choice<bool>(std::move(path), std::move(place), {{"true", true}, {"false", false}});
}

template <typename T>
Setting section(std::string path, Place<T> place, std::function<void(T&)> entered = {}) {
  return {.path = std::move(path),
          .kind = Setting::Kind::section,
          .set =
              [place, entered](const Value&) {
                T* object = place(true);
                if (entered) entered(*object);
                return std::string();
              },
          .get = [place]() -> std::optional<Value> {
            return place(false) == nullptr ? std::nullopt : std::optional<Value>(Value{});
          }};
}

std::vector<std::string> split_commas(const std::string& given) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  while (start <= given.size()) {
    const auto comma = std::min(given.find(',', start), given.size());
    std::string part = given.substr(start, comma - start);
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    if (!part.empty()) parts.push_back(std::move(part));
    start = comma + 1;
  }
  return parts;
}

Setting list(std::string path, Place<std::vector<std::string>> place) {
  return {.path = std::move(path),
          .kind = Setting::Kind::list,
          .set =
              [place](const Value& v) {
                *place(true) = v.scalar ? split_commas(v.items.at(0)) : v.items;
                return std::string();
              },
          .get = [place]() -> std::optional<Value> {
            const auto* items = place(false);
            if (items == nullptr) return std::nullopt;
            return Value{.items = *items};
          }};
}

Setting pairs(std::string path, Place<std::map<std::string, std::string>> place) {
  return {.path = std::move(path),
          .kind = Setting::Kind::map,
          .set = [place](const Value& v) -> std::string {
            auto& map = *place(true);
            for (const auto& [key, value] : v.pairs) map[key] = value;
            if (!v.scalar) return {};
            for (const auto& part : split_commas(v.items.at(0))) {
              const auto equals = part.find('=');
              if (equals == std::string::npos)
                return quoted(part) + " has no \"=\": write name=value";
              map[part.substr(0, equals)] = part.substr(equals + 1);
            }
            return {};
          },
          .get = [place]() -> std::optional<Value> {
            const auto* map = place(false);
            if (map == nullptr) return std::nullopt;
            return Value{.items = {}, .pairs = *map};
          }};
}

void add_nats(Settings& all, Nats& nats) {
  all.push_back(section<Nats>("nats", at(nats)));
  // Another spelling of nats.servers, so it never shows a value of its own.
  all.push_back({.path = "nats.url",
                 .kind = Setting::Kind::scalar,
                 .set =
                     [&nats](const Value& v) {
                       nats.servers = split_commas(v.items.at(0));
                       return std::string();
                     },
                 .get = []() -> std::optional<Value> { return std::nullopt; }});
  all.push_back(list("nats.servers", at(nats.servers)));
  all.push_back(text("nats.creds", at(nats.creds_file)));
  all.push_back(text("nats.nkey", at(nats.nkey_seed_file)));
  all.push_back(text("nats.user", at(nats.user)));
  all.push_back(secret("nats.password", at(nats.password)));
  all.push_back(secret("nats.token", at(nats.token)));
  // Whoever describes TLS wants it: forgetting `enabled` must not mean plain text.
  all.push_back(section<Tls>("nats.tls", at(nats.tls), [](Tls& tls) { tls.enabled = true; }));
  all.push_back(boolean("nats.tls.enabled", at(nats.tls.enabled)));
  all.push_back(text("nats.tls.ca", at(nats.tls.ca_file)));
  all.push_back(text("nats.tls.cert", at(nats.tls.cert_file)));
  all.push_back(text("nats.tls.key", at(nats.tls.key_file)));
  all.push_back(text("nats.tls.server_name", at(nats.tls.server_name)));
  all.push_back(boolean("nats.tls.skip_verification", at(nats.tls.skip_verification)));
  const Place<EmbeddedNats> embedded = [&nats](bool make) -> EmbeddedNats* {
    if (nats.embedded.empty() && make) nats.embedded.emplace_back();
    return nats.embedded.empty() ? nullptr : &nats.embedded.front();
  };
  const auto key = [](const char* name) { return std::string("nats.embedded.") + name; };
  all.push_back(section<EmbeddedNats>("nats.embedded", embedded));
  all.push_back(text(key("folder"), in(embedded, &EmbeddedNats::folder)));
  all.push_back(text(key("host"), in(embedded, &EmbeddedNats::host)));
  all.push_back(number<int>(key("port"), in(embedded, &EmbeddedNats::port)));
  all.push_back(text(key("server_name"), in(embedded, &EmbeddedNats::server_name)));
  all.push_back(text(key("cluster_name"), in(embedded, &EmbeddedNats::cluster_name)));
  all.push_back(text(key("cluster_host"), in(embedded, &EmbeddedNats::cluster_host)));
  all.push_back(number<int>(key("cluster_port"), in(embedded, &EmbeddedNats::cluster_port)));
  all.push_back(list(key("routes"), in(embedded, &EmbeddedNats::routes)));
  all.push_back(choice<bool>(key("sync"), in(embedded, &EmbeddedNats::sync_always),
                             {{"always", true}, {"default", false}}));
  all.push_back(text(key("binary"), in(embedded, &EmbeddedNats::binary)));
  all.push_back(duration("nats.start_timeout", at(nats.start_timeout)));
  all.push_back(number<int>("nats.replicas", at(nats.replicas)));
}

std::string read_tcp(const std::string& given, Ready& ready) {
  HostPort parts;
  if (const auto why = split_host_port(given, parts); !why.empty())
    return quoted(given) + " " + why;
  ready = ReadyTcp{.host = parts.host, .port = parts.port};
  return {};
}

std::optional<Value> show_tcp(const Ready* ready) {
  const auto* tcp = ready == nullptr ? nullptr : std::get_if<ReadyTcp>(ready);
  if (tcp == nullptr) return std::nullopt;
  const bool brackets = tcp->host.find(':') != std::string::npos;
  return one((brackets ? "[" + tcp->host + "]" : tcp->host) + ":" + std::to_string(tcp->port));
}

void add_ready(Settings& all, const Place<Ready>& ready) {
  all.push_back(section<Ready>("process.ready", ready));
  all.push_back({.path = "process.ready.tcp",
                 .set = [ready](const Value& v) { return read_tcp(v.items.at(0), *ready(true)); },
                 .get = [ready] { return show_tcp(ready(false)); }});
  all.push_back({.path = "process.ready.http",
                 .set =
                     [ready](const Value& v) {
                       *ready(true) = ReadyHttp{v.items.at(0)};
                       return std::string();
                     },
                 .get = [ready]() -> std::optional<Value> {
                   const Ready* r = ready(false);
                   const auto* http = r == nullptr ? nullptr : std::get_if<ReadyHttp>(r);
                   return http == nullptr ? std::nullopt : std::optional(one(http->url));
                 }});
  all.push_back({.path = "process.ready.delay",
                 .set = [ready](const Value& v) -> std::string {
                   const auto parsed = parse_duration(v.items.at(0));
                   if (!parsed.ok()) return parsed.error().what();
                   *ready(true) = ReadyDelay{parsed.value()};
                   return {};
                 },
                 .get = [ready]() -> std::optional<Value> {
                   const Ready* r = ready(false);
                   const auto* delay = r == nullptr ? nullptr : std::get_if<ReadyDelay>(r);
                   if (delay == nullptr) return std::nullopt;
                   return one(format_duration(delay->delay));
                 }});
}

Setting command_setting(const Place<std::vector<std::string>>& place) {
  Setting setting = list("process.command", place);
  setting.set = [place](const Value& v) {
    std::string fault;
    auto words = v.scalar ? split_words(v.items.at(0), fault) : v.items;
    if (fault.empty()) *place(true) = std::move(words);
    return fault;
  };
  return setting;
}

}  // namespace

Settings platform_settings(Config& config) {
  PlatformOptions& p = config.platform;
  Settings all;
  all.push_back(text("platform", at(p.name)));
  all.push_back(text("node", at(p.node)));
  add_nats(all, p.nats);
  all.push_back(pairs("labels", at(p.labels)));
  all.push_back(text("folder", at(p.folder)));
  all.push_back(text("http", at(p.http)));
  all.push_back(text("guardian", at(p.guardian)));
  all.push_back(section<Config>("log", at(config)));
  all.push_back(choice<log::Level>("log.level", at(config.log_level),
                                   {{"trace", log::Level::trace},
                                    {"debug", log::Level::debug},
                                    {"info", log::Level::info},
                                    {"warn", log::Level::warn},
                                    {"error", log::Level::error},
                                    {"off", log::Level::off}}));
  all.push_back(text("log.file", at(config.log_file)));
  all.push_back(section<Timing>("timing", at(p.timing)));
  all.push_back(duration("timing.session_timeout", at(p.timing.session_timeout)));
  all.push_back(duration("timing.lease_ttl", at(p.timing.lease_ttl)));
  all.push_back(duration("timing.stop_margin", at(p.timing.stop_margin)));
  all.push_back(number<double>("timing.drift", at(p.timing.drift)));
  all.push_back(duration("timing.hook_timeout", at(p.timing.hook_timeout)));
  all.push_back(duration("timing.cooldown", at(p.timing.cooldown)));
  all.push_back(duration("timing.shutdown_timeout", at(p.timing.shutdown_timeout)));
  all.push_back(section<CallerOptions>("calls", at(p.calls)));
  all.push_back(number<int>("calls.breaker_failures", at(p.calls.breaker_failures)));
  all.push_back(duration("calls.breaker_open", at(p.calls.breaker_open)));
  all.push_back(section<EventsOptions>("events", at(p.events)));
  all.push_back(duration("events.max_age", at(p.events.max_age)));
  all.push_back(number<std::int64_t>("events.max_bytes", at(p.events.max_bytes)));
  all.push_back(number<std::int32_t>("events.max_message_size", at(p.events.max_message_size)));
  all.push_back(duration("events.duplicate_window", at(p.events.duplicate_window)));
  all.push_back(section<AuditOptions>("audit", at(p.audit)));
  all.push_back(duration("audit.max_age", at(p.audit.max_age)));
  all.push_back(number<std::int64_t>("audit.max_bytes", at(p.audit.max_bytes)));
  return all;
}

Settings app_settings(AppOptions& app) {
  Settings all;
  all.push_back({.path = "mode",
                 .set = [&app](const Value& v) -> std::string {
                   if (v.items.at(0) == "singleton") {
                     app.mode = Singleton{};
                   } else if (v.items.at(0) == "spread") {
                     app.mode = Spread{};
                   } else {
                     return quoted(v.items.at(0)) + " is not one of singleton, spread";
                   }
                   return {};
                 },
                 .get = [&app]() -> std::optional<Value> {
                   return one(std::holds_alternative<Singleton>(app.mode) ? "singleton" : "spread");
                 }});
  all.push_back(duration("hook_timeout", at(app.hook_timeout)));
  const Place<Sqlite> sqlite = [&app](bool make) -> Sqlite* {
    return make || app.sqlite != Sqlite{} ? &app.sqlite : nullptr;
  };
  const auto file = [](const char* name) { return std::string("sqlite.") + name; };
  all.push_back(section<Sqlite>("sqlite", sqlite));
  all.push_back(text(file("path"), in(sqlite, &Sqlite::path)));
  all.push_back(text(file("replica"), in(sqlite, &Sqlite::replica)));
  all.push_back(choice<Commit>(file("commit"), in(sqlite, &Sqlite::commit),
                               {{"async", Commit::async}, {"replicated", Commit::replicated}}));
  all.push_back(duration(file("commit_timeout"), in(sqlite, &Sqlite::commit_timeout)));
  all.push_back(number<std::uint64_t>(file("wal_limit"), in(sqlite, &Sqlite::wal_limit)));
  all.push_back(duration(file("drain_timeout"), in(sqlite, &Sqlite::drain_timeout)));
  all.push_back(duration(file("snapshot_interval"), in(sqlite, &Sqlite::snapshot_interval)));
  all.push_back(duration(file("snapshot_retention"), in(sqlite, &Sqlite::snapshot_retention)));
  all.push_back(number<int>(file("snapshots_kept"), in(sqlite, &Sqlite::snapshots_kept)));
  all.push_back(
      duration(file("snapshot_merge_interval"), in(sqlite, &Sqlite::snapshot_merge_interval)));
  all.push_back(duration(file("stream_window"), in(sqlite, &Sqlite::stream_window)));
  all.push_back(duration_or_off(file("scrub_interval"), in(sqlite, &Sqlite::scrub_interval)));
  all.push_back(number<std::uint64_t>(file("scrub_rate"), in(sqlite, &Sqlite::scrub_rate)));
  all.push_back(section<HandlerOptions>("calls", at(app.calls)));
  all.push_back(number<int>("calls.concurrency", at(app.calls.concurrency)));
  all.push_back(section<KvOptions>("kv", at(app.kv)));
  all.push_back(number<int>("kv.history", at(app.kv.history)));
  all.push_back(number<std::int64_t>("kv.max_bytes", at(app.kv.max_bytes)));
  all.push_back(number<std::int32_t>("kv.max_value_size", at(app.kv.max_value_size)));
  const Place<Process> process = [&app](bool make) -> Process* {
    if (make && !std::holds_alternative<Process>(app.backend)) app.backend.emplace<Process>();
    return std::get_if<Process>(&app.backend);
  };
  const auto key = [](const char* name) { return std::string("process.") + name; };
  all.push_back(section<Process>("process", process));
  all.push_back(command_setting(in(process, &Process::command)));
  all.push_back(text(key("folder"), in(process, &Process::folder)));
  all.push_back(pairs(key("environment"), in(process, &Process::environment)));
  all.push_back(text(key("user"), in(process, &Process::user)));
  all.push_back(text(key("log_file"), in(process, &Process::log_file)));
  add_ready(all, in(process, &Process::ready));
  all.push_back(duration(key("ready_timeout"), in(process, &Process::ready_timeout)));
  all.push_back(duration(key("health_interval"), in(process, &Process::health_interval)));
  all.push_back(number<int>(key("health_failures"), in(process, &Process::health_failures)));
  all.push_back(duration(key("stop_timeout"), in(process, &Process::stop_timeout)));
  all.push_back(choice<Restart>(key("restart"), in(process, &Process::restart),
                                {{"always", Restart::always},
                                 {"on_failure", Restart::on_failure},
                                 {"never", Restart::never}}));
  all.push_back(duration(key("backoff_min"), in(process, &Process::backoff_min)));
  all.push_back(duration(key("backoff_max"), in(process, &Process::backoff_max)));
  all.push_back(number<int>(key("max_restarts"), in(process, &Process::max_restarts)));
  all.push_back(duration(key("restart_window"), in(process, &Process::restart_window)));
  return all;
}

const Setting* find_setting(const Settings& settings, const std::string& path) {
  for (const auto& setting : settings)
    if (setting.path == path) return &setting;
  return nullptr;
}

std::string environment_name(const std::string& path) {
  std::string name = "CPP_CLUSTER_";
  for (const char c : path) {
    if (c == '.')
      name += '_';
    else
      name += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return name;
}

}  // namespace cluster::cli
