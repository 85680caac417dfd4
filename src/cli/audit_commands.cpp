// cpp-cluster audit: shows what has happened to a platform, and what happens.
#include <chrono>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/following.h"
#include "cli/table.h"
#include "cluster/audit.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "nats/stored_message.h"
#include "ops/audit_trail.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

struct AuditArguments {
  CommonFlags common{};
  OutputFlags output{};
  AuditFilter filter{};
  std::string since{}, until{};
};

Json json_of(const AuditEntry& entry) {
  Json fields = Json::object();
  for (const auto& [name, value] : entry.fields) fields[name] = value;
  return {{"sequence", entry.sequence}, {"time", nats::rfc3339_from(wall_ns_from(entry.time))},
          {"node", entry.node},         {"app", entry.app},
          {"category", entry.category}, {"action", entry.action},
          {"level", entry.level},       {"fields", std::move(fields)}};
}

std::string entry_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string fields_of(const AuditEntry& entry) {
  std::string text;
  for (const auto& [name, value] : entry.fields) {
    const bool plain = !value.empty() && value.find_first_of(" \"=") == std::string::npos;
    text += (text.empty() ? "" : " ") + name + "=" +
            (plain ? value : Json(value).dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return text;
}

Cell what_of(const AuditEntry& entry) {
  return {entry.category + "." + entry.action, entry.level == "error"  ? Colour::bad
                                               : entry.level == "warn" ? Colour::bold
                                                                       : Colour::none};
}

std::string line_of(const AuditEntry& entry) {
  const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : harmless(text); };
  const Cell what = what_of(entry);
  return time_text(wall_ns_from(entry.time) / 1'000'000) + "  " + or_dash(entry.node) + "  " +
         or_dash(entry.app) + "  " + paint(harmless(what.text), what.colour, use_colour()) + "  " +
         harmless(fields_of(entry)) + "\n";
}

/// The log of a platform, while a command runs. What is there is kept as it is.
class Trail {
 public:
  explicit Trail(const AuditArguments& options)
      : client_(options.common),
        trail_(std::make_shared<AuditTrail>(client_.loop(), strands_,
                                            client_.jetstream().connection().exchange(),
                                            client_.platform(), client_.config().platform.audit)) {
    trail_->open(client_.jetstream(), client_.replicas());
  }
  ~Trail() { trail_->close(); }
  Trail(const Trail&) = delete;
  Trail& operator=(const Trail&) = delete;

  void use(const std::function<void(const Audit&, std::stop_token)>& task) {
    std::stop_source stop;
    client_.work([&] { task(Audit(trail_, "_"), stop.get_token()); }, stop);
  }

 private:
  StrandPool strands_;
  Client client_;
  std::shared_ptr<AuditTrail> trail_;
};

AuditFilter filter_of(const AuditArguments& options) {
  AuditFilter filter = options.filter;
  if (!options.since.empty()) filter.since = moment_of("--since", options.since);
  if (!options.until.empty()) filter.until = moment_of("--until", options.until);
  return filter;
}

Exit list(const AuditArguments& options) {
  const AuditFilter filter = filter_of(options);
  Trail trail(options);
  std::vector<AuditEntry> entries;
  trail.use([&](const Audit& audit, const std::stop_token&) {
    entries = audit.query(filter, options.common.timeout);
  });
  if (options.output.json) {
    Json all = Json::array();
    for (const auto& entry : entries) all.push_back(json_of(entry));
    print(entry_text({{"v", 1}, {"entries", std::move(all)}}, 2));
    return Exit::ok;
  }
  Table table({"TIME", "NODE", "APP", "WHAT", "FIELDS"});
  for (const auto& entry : entries)
    table.add({time_text(wall_ns_from(entry.time) / 1'000'000), entry.node, entry.app,
               what_of(entry), fields_of(entry)});
  print(table.empty() ? "no entries\n" : table.text(use_colour()));
  return Exit::ok;
}

Exit follow(const AuditArguments& options) {
  const AuditFilter filter = filter_of(options);
  Trail trail(options);
  trail.use([&](const Audit& audit, const std::stop_token& stop) {
    Following following;
    const auto subscription =
        audit.follow(filter,
                     [&](const AuditEntry& entry) {
                       following.take([&] {
                         Json json = json_of(entry);
                         json["v"] = 1;
                         print(options.output.json ? entry_text(json, -1) : line_of(entry));
                       });
                     },
                     {.timeout = options.common.timeout,
                      .on_trouble = [](const Error& error) { complain(error.what()); }});
    following.wait(stop);
  });
  return Exit::ok;
}

CLI::App& add_one(CLI::App& group, const char* name, const char* help,
                  const std::shared_ptr<AuditArguments>& options, Chosen& chosen,
                  Exit (*run)(const AuditArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  AuditFilter& filter = options->filter;
  app.add_option("--category", filter.category, "Of what: lease, backend, database, user, …")
      ->type_name("NAME");
  app.add_option("--action", filter.action, "What happened: taken, failed, …")->type_name("NAME");
  app.add_option("--app", filter.app, "Only of this app; _ is the platform itself")
      ->type_name("APP");
  // --node would be the node to run as, elsewhere; here it is whose entries are shown.
  app.add_option("--node", filter.node, "Only what this node tells")->type_name("NODE");
  app.add_option("--since", options->since, "From 10m ago, or from this time on")
      ->type_name("TIME");
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  add_output_flag(app, options->output);
  on_chosen(app, chosen, log::Level::off, [options, run] { return run(*options); });
  return app;
}

}  // namespace

void add_audit(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("audit", "What has happened to a platform");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster audit list --since 1h\n"
      "  cpp-cluster audit follow --app shop");
  const auto options = std::make_shared<AuditArguments>();

  CLI::App& all = add_one(group, "list", "List the newest entries", options, chosen, list);
  all.add_option("--until", options->until, "Up to 10m ago, or to this time")->type_name("TIME");
  all.add_option("--limit", options->filter.limit, "As many as this at most, 1 to 10000")
      ->type_name("N")
      ->capture_default_str();
  all.footer(
      "The newest comes last. The order is that in which they were stored.\n"
      "Exit status: 0 listed, also when there are none, 2 a filter that can't be, 3 no NATS, 6 "
      "not read in time.\n\n"
      "Examples:\n"
      "  cpp-cluster audit list --since 1h\n"
      "  cpp-cluster audit list --category lease --app shop --limit 20\n"
      "  cpp-cluster audit list --node node-2 --since 2025-06-01T09:30:00Z --until "
      "2025-06-01T09:40:00Z -o json");

  CLI::App& live = add_one(group, "follow", "Show entries as they come", options, chosen, follow);
  live.footer(
      "Until Ctrl-C, across restarts of NATS. As JSON, one document a line.\n"
      "Exit status: 0 interrupted, 2 a filter that can't be, 3 no NATS.\n\n"
      "Examples:\n"
      "  cpp-cluster audit follow\n"
      "  cpp-cluster audit follow --category member --since 10m\n"
      "  cpp-cluster audit follow --category user --app shop -o json");
}

}  // namespace cluster::cli
