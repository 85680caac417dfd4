// cpp-cluster event: publishes events, and shows them as they come.
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/following.h"
#include "cli/table.h"
#include "cluster/events.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "data/event_bus.h"
#include "nats/stored_message.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

struct EventArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string subject{}, payload{}, pattern{">"}, app{}, id{}, since{};
  bool all = false;
};

std::string time_of(const Event& event) { return nats::rfc3339_from(wall_ns_from(event.time)); }

std::string json_of(const Event& event) {
  Json headers = Json::array();
  for (const auto& [name, value] : event.headers) headers.push_back({name, value});
  Json json{{"v", 1},
            {"sequence", event.sequence},
            {"time", time_of(event)},
            {"app", event.app},
            {"subject", event.subject},
            {"id", event.id},
            {"headers", std::move(headers)}};
  json.emplace(json_bytes("payload", event.payload));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string text_of(const Event& event) {
  return time_of(event) + "  " + std::to_string(event.sequence) + "  " + event.app + "  " +
         event.subject + "  " + harmless(event.payload) + "\n";
}

EventsFrom from(const EventArguments& options) {
  if (options.all) return AllEvents{};
  if (options.since.empty()) return NewEvents{};
  return EventsFromTime{moment_of("--since", options.since)};
}

/// The events of a platform, while a command runs. A stream that is there keeps its limits.
class Bus {
 public:
  explicit Bus(const EventArguments& options)
      : client_(options.common),
        bus_(std::make_shared<EventBus>(
            client_.loop(), strands_, client_.jetstream().connection().exchange(),
            EventBus::Options{client_.platform(), client_.config().platform.events, false})) {
    bus_->open(client_.jetstream(), client_.replicas());
  }
  ~Bus() { bus_->close(); }
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  void use(const std::string& app, const std::function<void(Events&, std::stop_token)>& task) {
    std::stop_source stop;
    client_.work(
        [&] {
          Events events(bus_, app);
          task(events, stop.get_token());
        },
        stop);
  }
  /// What was done, once it is.
  void audit(const std::string& app, const std::string& action, AuditFields fields) {
    client_.audit("event", app, action, std::move(fields), "info");
  }

 private:
  StrandPool strands_;
  Client client_;
  std::shared_ptr<EventBus> bus_;
};

std::string source_of(const std::string& app, const std::string& otherwise) {
  const std::string source = app.empty() ? otherwise : app;
  if (const auto fault = event_source_fault(source); !fault.empty())
    throw CommandError(Exit::usage, "--app: \"" + app + "\": " + fault);
  return source;
}

Exit publish(const EventArguments& options) {
  const std::string payload = text_or_input(options.payload);
  const std::string app = source_of(options.app, "_");
  if (app == "*") throw CommandError(Exit::usage, "--app: an event is of one app");
  Bus bus(options);
  PublishedEvent done;
  bus.use(app, [&](Events& events, const std::stop_token&) {
    done = events.publish(options.subject, payload,
                          {.id = options.id, .timeout = options.common.timeout});
  });
  bus.audit(app == "_" ? "" : app, "published",
            {{"subject", options.subject}, {"sequence", std::to_string(done.sequence)}});
  if (options.output.json)
    print(
        Json{{"v", 1}, {"sequence", done.sequence}, {"duplicate", done.duplicate}, {"id", done.id}}
            .dump(2) +
        "\n");
  else
    print("event " + std::to_string(done.sequence) +
          (done.duplicate ? " (it was there already)" : "") + "\n");
  return Exit::ok;
}

Exit follow(const EventArguments& options) {
  SubscribeOptions wanted;
  wanted.app = source_of(options.app, "*");
  wanted.from = from(options);
  wanted.timeout = options.common.timeout;
  wanted.on_trouble = [](const Error& error) { complain(error.what()); };
  Bus bus(options);
  bus.use("_", [&](Events& events, const std::stop_token& stop) {
    Following following;
    const auto subscription = events.subscribe(
        options.pattern,
        [&](const Event& event) {
          following.take([&] { print(options.output.json ? json_of(event) : text_of(event)); });
        },
        wanted);
    following.wait(stop);
  });
  return Exit::ok;
}

CLI::App& add_one(CLI::App& group, const char* name, const char* help,
                  const std::shared_ptr<EventArguments>& options, Chosen& chosen,
                  Exit (*run)(const EventArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  add_output_flag(app, options->output);
  on_chosen(app, chosen, log::Level::off, [options, run] { return run(*options); });
  return app;
}

}  // namespace

void add_event(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("event", "Events of apps");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster event publish order.created 4711 --app shop\n"
      "  cpp-cluster event follow 'order.>' --since 10m");
  const auto options = std::make_shared<EventArguments>();

  CLI::App& one = add_one(group, "publish", "Publish an event", options, chosen, publish);
  one.add_option("SUBJECT", options->subject, "Its subject")->required();
  one.add_option("PAYLOAD", options->payload, "What it says; - reads standard input");
  one.add_option("--app", options->app, "As if this app published it; else the platform")
      ->type_name("APP");
  one.add_option("--id", options->id, "Two events with the same id soon after each other are one")
      ->type_name("ID");
  one.footer(
      "Exit status: 0 stored, 2 no such subject can be, 3 certainly not stored, 6 it may be.\n\n"
      "Examples:\n"
      "  cpp-cluster event publish order.created 4711 --app shop --id order-4711\n"
      "  cpp-cluster event publish report - < report.json");

  CLI::App& all = add_one(group, "follow", "Show events as they come", options, chosen, follow);
  all.add_option("PATTERN", options->pattern, "Subjects: * is any token, a last > any more")
      ->default_str(">");
  all.add_option("--app", options->app, "Only of this app; _ is the platform")->type_name("APP");
  CLI::Option* since =
      all.add_option("--since", options->since, "From 10m ago, or from this time on")
          ->type_name("TIME");
  all.add_flag("--all", options->all, "From the oldest one that is kept")->excludes(since);
  all.footer(
      "Until Ctrl-C. As JSON, one document a line.\n"
      "Exit status: 0 interrupted, 2 no such pattern or time can be, 3 no NATS.\n\n"
      "Examples:\n"
      "  cpp-cluster event follow\n"
      "  cpp-cluster event follow 'order.>' --app shop --since 2025-06-01T09:30:00Z\n"
      "  cpp-cluster event follow '_dead.>' --all --output json");
}

}  // namespace cluster::cli
