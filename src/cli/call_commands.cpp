// cpp-cluster call: calls a method of an app.
#include <algorithm>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/table.h"
#include "core/log.h"
#include "data/call_client.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;

struct CallArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{}, method{}, payload{}, route{"automatic"}, node{}, key{};
  std::vector<std::string> headers{};
  bool idempotent = false;
  int retries = 3;
};

CallOptions call_options(const CallArguments& options, std::stop_token stop) {
  CallOptions o;
  for (const Route route : {Route::leader, Route::any, Route::node, Route::key})
    if (options.route == route_name(route)) o.route = route;
  o.node = options.node;
  o.key = options.key;
  o.timeout = options.common.timeout;
  o.idempotent = options.idempotent;
  o.retries = options.retries;
  o.stop = std::move(stop);
  for (const auto& text : options.headers) {
    const auto colon = text.find(':');
    if (colon == 0 || colon == std::string::npos)
      throw CommandError(Exit::usage, "--header: \"" + text + "\" is not NAME:VALUE");
    const auto value = text.find_first_not_of(' ', colon + 1);
    o.headers.emplace_back(text.substr(0, colon),
                           value == std::string::npos ? "" : text.substr(value));
  }
  return o;
}

std::vector<std::string> nodes_with(Client& client, const std::string& app) {
  std::vector<std::string> nodes;
  for (const auto& member : client.read().members) {
    if (!member.record || !member.record->live() || !member.record->facts) continue;
    const auto& apps = member.record->facts->apps;
    if (std::find(apps.begin(), apps.end(), app) != apps.end()) nodes.push_back(member.node);
  }
  return nodes;
}

Json json_of(const CallReply& reply) {
  Json headers = Json::array();
  for (const auto& [name, value] : reply.headers) headers.push_back({name, value});
  Json json{{"node", reply.node}, {"epoch", reply.epoch}, {"headers", std::move(headers)}};
  json.emplace(json_bytes("payload", reply.payload));
  return json;
}

std::string dumped(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// As it is, so that it can be piped on; a line's end only where a person looks.
std::string plain(const std::string& payload) {
  return payload.empty() || payload.back() == '\n' ? payload : payload + "\n";
}

Exit one(const CallArguments& options, const std::string& payload) {
  Client client(options.common);
  CallClient calls(client.loop(), client.jetstream().connection().exchange(),
                   {client.platform(), {}, {}, {}});
  CallReply reply;
  std::stop_source stop;
  client.work(
      [&] {
        reply = calls.call("_", options.app, options.method, payload,
                           call_options(options, stop.get_token()));
      },
      stop);
  if (options.output.json) {
    Json json = json_of(reply);
    json["v"] = 1;
    print(dumped(json));
  } else {
    print(plain(reply.payload));
  }
  return Exit::ok;
}

Exit all(const CallArguments& options, const std::string& payload) {
  Client client(options.common);
  const auto nodes = nodes_with(client, options.app);
  CallClient calls(client.loop(), client.jetstream().connection().exchange(),
                   {client.platform(), {}, {}, [&](const std::string&) { return nodes; }});
  std::vector<CallAnswer> answers;
  std::stop_source stop;
  client.work(
      [&] {
        answers = calls.call_all("_", options.app, options.method, payload,
                                 call_options(options, stop.get_token()));
      },
      stop);
  Exit exit = Exit::ok;
  Json json{{"v", 1}, {"answers", Json::array()}};
  for (const auto& answer : answers) {
    if (answer.error) exit = Exit::failed;
    if (!options.output.json) {
      print(answer.node + ": " +
            plain(answer.error ? std::string("error: ") + answer.error->what()
                               : harmless(answer.reply.payload)));
      continue;
    }
    Json each = answer.error ? Json{{"error", answer.error->name()}, {"why", answer.error->what()}}
                             : json_of(answer.reply);
    each["node"] = answer.node;
    json["answers"].push_back(std::move(each));
  }
  if (options.output.json) print(dumped(json));
  return exit;
}

Exit run(const CallArguments& options) {
  const std::string payload = text_or_input(options.payload);
  return options.route == "all" ? all(options, payload) : one(options, payload);
}

}  // namespace

void add_call(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("call", "Call a method of an app");
  const auto options = std::make_shared<CallArguments>();
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on the call, with all its tries, after this");
  add_output_flag(app, options->output);
  app.add_option("APP", options->app, "The app")->required();
  app.add_option("METHOD", options->method, "Its method")->required();
  app.add_option("PAYLOAD", options->payload, "What it gets; - reads standard input");
  app.add_option("--route", options->route,
                 "Who is to answer: the leader, any node, one node, whoever has the key (a "
                 "singleton's leader, any node of a spread app), or all nodes")
      ->check(CLI::IsMember({"automatic", "leader", "any", "node", "key", "all"}))
      ->default_str("node with --node, else key");
  app.add_option("--node", options->node, "This node")->type_name("NODE");
  app.add_option("--key", options->key, "The node that is responsible for this key")
      ->type_name("KEY");
  app.add_option("--header", options->headers, "Goes with it; may be given several times")
      ->type_name("NAME:VALUE");
  app.add_flag("--idempotent", options->idempotent,
               "It may be carried out twice: try again what may have been");
  app.add_option("--retries", options->retries, "Further tries of what was not carried out")
      ->default_str("3");
  app.footer(
      "Exit status: 0 answered, 1 answered with an error, 2 no such call can be, 3 no NATS, 4 no\n"
      "such method, 5 nobody leads the app, 6 nobody is there, or whether it was carried out is "
      "unknown.\n\n"
      "Examples:\n"
      "  cpp-cluster call shop stock 4711\n"
      "  cpp-cluster call shop rebuild --route leader --timeout 60s\n"
      "  cpp-cluster call shop version --route all --output json");
  on_chosen(app, chosen, log::Level::off, [options] { return run(*options); });
}

}  // namespace cluster::cli
