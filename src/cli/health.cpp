// cpp-cluster health: is a node fine? For people, scripts and containers' health checks.
#include <memory>

#include <httplib.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "core/duration.h"
#include "platform/validate.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;

struct HealthArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string node{};
  std::string address{};
  bool ready = false;
};

struct Finding {
  bool healthy = false;
  std::string who{};
  std::string detail{};
};

std::string local_host(const std::string& host) {
  if (host == "0.0.0.0") return "127.0.0.1";
  return host == "::" ? "::1" : host;
}

Finding ask_http(const HealthArguments& options) {
  std::string address = options.address;
  if (address.empty()) {
    const Config config = load_config(options.common.request(true));
    address = config.platform.http;
    if (address.empty())
      throw CommandError(Exit::usage,
                         "the configuration has no http address: ask with --node NAME");
  }
  HostPort place;
  if (const auto why = split_host_port(address, place); !why.empty())
    throw CommandError(Exit::usage, "--http: \"" + address + "\" " + why);
  if (place.port == 0)
    throw CommandError(Exit::usage, "the http address has port 0: name the real one with --http");
  const std::string path = options.ready ? "/ready" : "/health";
  httplib::Client client(local_host(place.host), place.port);
  client.set_connection_timeout(options.common.timeout);
  client.set_read_timeout(options.common.timeout);
  Finding finding{.who = "http://" + address + path};
  const auto answer = client.Get(path);
  if (!answer) {
    finding.detail = "no answer: " + httplib::to_string(answer.error());
    return finding;
  }
  finding.healthy = answer->status == 200;
  finding.detail = answer->body.substr(0, 2'000);
  while (!finding.detail.empty() && finding.detail.back() == '\n') finding.detail.pop_back();
  if (finding.detail.empty()) finding.detail = "status " + std::to_string(answer->status);
  return finding;
}

Finding ask_nats(const HealthArguments& options) {
  Client client(options.common);
  Finding finding{.who = options.node};
  std::string text;
  try {
    text = client.request(options.node, "status", "", options.common.timeout);
  } catch (const CommandError& error) {
    if (error.exit() != Exit::timeout) throw;
    finding.detail = error.what();
    return finding;
  }
  const auto status = nlohmann::json::parse(text, nullptr, false);
  if (!status.is_object()) {
    finding.detail = "its answer can't be read";
    return finding;
  }
  const std::string state = status.value("state", nlohmann::json()).is_string()
                                ? status["state"].get<std::string>()
                                : "unknown";
  const auto session = status.value("session", nlohmann::json::object());
  const bool in_force = session.is_object() && session.contains("in_force") &&
                        session["in_force"].is_boolean() && session["in_force"].get<bool>();
  finding.healthy = state == "running" && in_force;
  finding.detail = state + (in_force ? ", session in force" : ", session not in force");
  return finding;
}

Exit health(const HealthArguments& options) {
  const Finding finding = options.node.empty() ? ask_http(options) : ask_nats(options);
  if (options.output.json) {
    const nlohmann::json out{
        {"v", 1}, {"asked", finding.who}, {"healthy", finding.healthy}, {"detail", finding.detail}};
    print(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } else {
    print(finding.who + ": " + (finding.healthy ? "healthy" : "not healthy") + " (" +
          finding.detail + ")\n");
  }
  return finding.healthy ? Exit::ok : Exit::unhealthy;
}

}  // namespace

void add_health(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("health", "Tell by the exit status whether a node is fine");
  const auto options = std::make_shared<HealthArguments>();
  options->common.timeout = milliseconds(2'000);
  app.add_option("--node", options->node, "Ask this node over NATS, not the local one over HTTP")
      ->type_name("NODE");
  app.add_option("--http", options->address, "Where the node serves HTTP; else the configuration's")
      ->type_name("HOST:PORT")
      ->excludes("--node");
  app.add_flag("--ready", options->ready, "Ask /ready, not /health")->excludes("--node");
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "No answer within this counts as not healthy");
  add_output_flag(app, options->output);
  app.footer(
      "Exit status: 0 healthy, 5 not healthy or no answer, 2 usage, 3 NATS unreachable "
      "(--node).\n\n"
      "Examples:\n"
      "  cpp-cluster health\n"
      "  cpp-cluster health --http 127.0.0.1:8081 --ready\n"
      "  cpp-cluster health --node node-2");
  app.callback([options, &chosen] { chosen = [options] { return health(*options); }; });
}

}  // namespace cluster::cli
