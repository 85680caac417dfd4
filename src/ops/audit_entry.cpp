#include "ops/audit_entry.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "core/names.h"
#include "core/wall_time.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using std::chrono::nanoseconds;
using std::chrono::system_clock;

constexpr std::size_t kLongestName = 64;
constexpr std::size_t kMostFields = 64;
constexpr std::size_t kMostBytes = 16 * 1024;
constexpr std::size_t kMostWanted = 10'000;
constexpr nanoseconds kServerDuplicateWindow = std::chrono::minutes(2);  // its default
constexpr auto kClocksDiffer = std::chrono::minutes(1);

std::string token_fault(std::string_view token) {
  if (token.size() <= kLongestName && is_plain_token(token)) return {};
  return "\"" + std::string(token) + "\" is not 1 to 64 of A-Z a-z 0-9 _ -";
}

}  // namespace

std::string audit_stream_name(const std::string& platform) { return platform + "_audit"; }

nats::StreamConfig audit_stream(const std::string& platform, const AuditOptions& options,
                                int replicas) {
  nats::StreamConfig config;
  config.name = audit_stream_name(platform);
  config.description = "cpp-cluster: what happened to platform " + platform;
  config.subjects = {platform + "._.audit.>"};
  config.replicas = std::max(1, replicas);
  config.max_age = options.max_age;
  config.max_bytes = options.max_bytes == 0 ? -1 : options.max_bytes;
  return config;
}

std::optional<std::string> audit_limits_update(const std::string& info,
                                               const AuditOptions& options) {
  const auto json = Json::parse(info, nullptr, false);
  if (!json.is_object() || !json.contains("config") || !json["config"].is_object())
    return std::nullopt;
  Json config = json["config"];
  config["max_age"] = nanoseconds(options.max_age).count();
  config["max_bytes"] = options.max_bytes == 0 ? -1 : options.max_bytes;
  // The server refuses a window that is longer than max_age.
  const nanoseconds age = options.max_age;
  config["duplicate_window"] =
      (age.count() == 0 ? kServerDuplicateWindow : std::min(age, kServerDuplicateWindow)).count();
  if (config == json["config"]) return std::nullopt;
  return config.dump();
}

nats::Message audit_message(const std::string& platform, AuditEntry entry) {
  if (entry.time == system_clock::time_point()) entry.time = system_clock::now();
  Json fields = Json::object();
  for (auto& [key, value] : entry.fields) fields[key] = std::move(value);
  const Json json{{"v", 1},
                  {"time", nats::rfc3339_from(wall_ns_from(entry.time))},
                  {"node", entry.node},
                  {"app", entry.app},
                  {"category", entry.category},
                  {"action", entry.action},
                  {"level", entry.level},
                  {"fields", std::move(fields)}};
  nats::Message message;
  message.subject = platform + "._.audit." + entry.category + "." + entry.action;
  message.data = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return message;
}

std::optional<AuditEntry> audit_entry_from(const nats::StoredMessage& message) {
  const auto json = Json::parse(message.data, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  AuditEntry entry;
  entry.category = text_in(json, "category");
  entry.action = text_in(json, "action");
  if (entry.category.empty() || entry.action.empty()) return std::nullopt;
  entry.app = text_in(json, "app");
  entry.level = text_in(json, "level");
  entry.node = text_in(json, "node");
  entry.time = wall_time_from(
      nanoseconds(nats::time_ns_from(text_in(json, "time")).value_or(message.time_ns)));
  entry.sequence = message.sequence;
  if (const auto fields = json.find("fields"); fields != json.end() && fields->is_object())
    for (const auto& [key, value] : fields->items())
      entry.fields.emplace_back(
          key, value.is_string() ? value.get<std::string>()
                                 : value.dump(-1, ' ', false, Json::error_handler_t::replace));
  return entry;
}

std::string audit_record_fault(std::string_view action, const AuditFields& fields) {
  if (auto fault = token_fault(action); !fault.empty()) return "action " + fault;
  if (fields.size() > kMostFields)
    return std::to_string(fields.size()) + " fields are more than " + std::to_string(kMostFields);
  std::size_t bytes = 0;
  for (const auto& [name, value] : fields) {
    if (name.empty() || name.size() > kLongestName)
      return "field \"" + name + "\": its name is not 1 to 64 bytes long";
    bytes += name.size() + value.size();
  }
  if (bytes > kMostBytes)
    return "its fields have " + std::to_string(bytes) + " bytes, more than " +
           std::to_string(kMostBytes);
  return {};
}

std::string audit_filter_fault(const AuditFilter& filter) {
  for (const auto& [what, token] :
       {std::pair("category", &filter.category), std::pair("action", &filter.action)})
    if (!token->empty())
      if (auto fault = token_fault(*token); !fault.empty()) return std::string(what) + " " + fault;
  if (!filter.app.empty() && filter.app != "_" && filter.app != "*")
    if (auto fault = app_name_fault(filter.app); !fault.empty())
      return "app \"" + filter.app + "\": " + fault;
  if (!filter.node.empty())
    if (auto fault = node_name_fault(filter.node); !fault.empty())
      return "node \"" + filter.node + "\": " + fault;
  if (filter.since && filter.until && *filter.since > *filter.until)
    return "since is later than until";
  if (filter.limit < 1 || filter.limit > kMostWanted)
    return "limit " + std::to_string(filter.limit) + " is not from 1 to " +
           std::to_string(kMostWanted);
  return {};
}

std::string audit_subject(const std::string& platform, const AuditFilter& filter) {
  const auto token = [](const std::string& text) { return text.empty() ? "*" : text; };
  return platform + "._.audit." + token(filter.category) + "." + token(filter.action);
}

bool fits(const AuditEntry& entry, const AuditFilter& filter) {
  const auto is = [](const std::string& wanted, const std::string& there) {
    return wanted.empty() || wanted == there;
  };
  const bool of_app = filter.app == "*" || is(filter.app, entry.app.empty() ? "_" : entry.app);
  return of_app && is(filter.node, entry.node) && is(filter.category, entry.category) &&
         is(filter.action, entry.action) && (!filter.since || entry.time >= *filter.since) &&
         (!filter.until || entry.time <= *filter.until);
}

std::int64_t stored_since_ns(system_clock::time_point since) {
  return std::max<std::int64_t>(0, wall_ns_from(since) - nanoseconds(kClocksDiffer).count());
}

}  // namespace cluster
