#include "cli/command.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>
#include <vector>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "cluster/version.h"
#include "core/duration.h"
#include "core/key_text.h"
#include "core/names.h"
#include "core/wall_time.h"
#include "nats/object_info.h"
#include "nats/stored_message.h"

namespace cluster::cli {
namespace {

constexpr const char* kExitCodes =
    "Exit status:\n"
    "  0 fine   1 failed   2 usage or configuration   3 NATS unreachable   4 not found\n"
    "  5 unhealthy, or no leader   6 no answer in time   7 the node's name is taken\n"
    "  8 what was committed to a database is not in JetStream\n\n"
    "Configuration: ./cpp-cluster.yaml, ~/.config/cpp-cluster/config.yaml or\n"
    "/etc/cpp-cluster/config.yaml; CPP_CLUSTER_*, NATS_URL, NODE_ID and PLATFORM beat it, flags "
    "beat\n"
    "them.\n\n"
    "Examples:\n"
    "  cpp-cluster dev                        a cluster on this machine to play with\n"
    "  cpp-cluster run --config node.yaml     a node\n"
    "  cpp-cluster status --watch             who leads what";

void override_flag(CLI::App& app, CommonFlags& flags, const std::string& name,
                   const std::string& path, const std::string& type, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [&flags, path, origin = name.substr(0, name.find(','))](const std::string& value) {
           flags.overrides.push_back({path, value, origin});
         },
         help)
      ->type_name(type);
}

}  // namespace

Exit exit_for(const Error& error) {
  switch (error.errc()) {
    case Errc::unavailable: return Exit::unreachable;
    case Errc::invalid_argument: return Exit::usage;
    case Errc::app_not_found:
    case Errc::node_not_found:
    case Errc::not_found: return Exit::not_found;
    case Errc::no_leader:
    case Errc::not_leader: return Exit::unhealthy;
    case Errc::timeout:
    case Errc::unknown_outcome:
    case Errc::no_responders: return Exit::timeout;
    case Errc::node_already_present: return Exit::name_taken;
    case Errc::not_replicated: return Exit::not_replicated;
    default: return Exit::failed;
  }
}

ConfigRequest CommonFlags::request(bool client) const {
  const Environment environment = process_environment();
  ConfigRequest request{.file = config,
                        .places = default_places(environment),
                        .flags = overrides,
                        .environment = environment,
                        .client = client};
  if (request.file.empty())
    if (const auto named = environment("CPP_CLUSTER_CONFIG")) request.file = *named;
  return request;
}

void add_connection_flags(CLI::App& app, CommonFlags& flags) {
  app.add_option("-c,--config", flags.config, "Configuration file")->type_name("FILE");
  override_flag(app, flags, "--nats", "nats.url", "URL", "NATS servers, separated by commas");
  override_flag(app, flags, "--platform", "platform", "NAME", "The platform");
  override_flag(app, flags, "--creds", "nats.creds", "FILE", "Log in with this credentials file");
  override_flag(app, flags, "--nkey", "nats.nkey", "FILE",
                "Log in with the NKey seed in this file");
  override_flag(app, flags, "--user", "nats.user", "NAME",
                "Log in as this user; the password is in CPP_CLUSTER_NATS_PASSWORD");
  override_flag(app, flags, "--tls-ca", "nats.tls.ca", "FILE", "Trust these authorities");
  override_flag(app, flags, "--tls-cert", "nats.tls.cert", "FILE", "Show this certificate");
  override_flag(app, flags, "--tls-key", "nats.tls.key", "FILE", "The certificate's key");
}

void add_duration_flag(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                       const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [&value, name](const std::string& text) {
           const auto parsed = parse_duration(text);
           if (!parsed.ok()) throw CLI::ValidationError(name, parsed.error().what());
           value = parsed.value();
         },
         help)
      ->type_name("DURATION")
      ->default_str(format_duration(value));
}

void on_chosen(CLI::App& app, Chosen& chosen, log::Level level, std::function<Exit()> run) {
  app.callback([&chosen, level, run = std::move(run)] {
    chosen = [level, run] {
      log::configure(level);
      return run();
    };
  });
}

void add_timeout_flag(CLI::App& app, CommonFlags& flags, const std::string& what) {
  add_duration_flag(app, "--timeout", flags.timeout, what);
}

void add_node_flags(CLI::App& app, CommonFlags& flags) {
  override_flag(app, flags, "--node", "node", "NAME", "This node's name");
  override_flag(app, flags, "--folder", "folder", "FOLDER", "What the node keeps on disk");
  override_flag(app, flags, "--http", "http", "HOST:PORT",
                "Serve /health, /ready and /status there; \"\" for nowhere");
  override_flag(app, flags, "--log-level", "log.level", "LEVEL",
                "trace, debug, info, warn, error or off");
  override_flag(app, flags, "--log-file", "log.file", "FILE", "Log there, not to standard error");
  override_flag(app, flags, "--guardian", "guardian", "FILE", "The guardian program");
  app.add_option_function<std::vector<std::string>>(
         "--label",
         [&flags](const std::vector<std::string>& labels) {
           for (const auto& label : labels) flags.overrides.push_back({"labels", label, "--label"});
         },
         "A label of this node; may be repeated")
      ->type_name("NAME=VALUE")
      ->expected(1)
      ->take_all();
  app.add_option_function<std::vector<std::string>>(
         "--set",
         [&flags](const std::vector<std::string>& settings) {
           for (const auto& setting : settings) {
             const auto equals = setting.find('=');
             if (equals == std::string::npos)
               throw CLI::ValidationError("--set",
                                          "\"" + setting + "\" has no \"=\": write KEY=VALUE");
             const std::string path = setting.substr(0, equals);
             flags.overrides.push_back({path, setting.substr(equals + 1), "--set"});
           }
         },
         "Any key of the configuration, for example timing.lease_ttl=20s; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
}

std::chrono::system_clock::time_point moment_of(const std::string& flag, const std::string& text) {
  if (const auto ago = parse_duration(text); ago.ok())
    return std::chrono::system_clock::now() - ago.value();
  if (const auto time = nats::time_ns_from(text))
    return wall_time_from(std::chrono::nanoseconds(*time));
  throw CommandError(Exit::usage, flag + ": \"" + text +
                                      "\" is neither a duration like 10m nor a time in UTC like "
                                      "2025-06-01T09:30:00Z");
}

void add_output_flag(CLI::App& app, OutputFlags& flags) {
  app.add_option_function<std::string>(
         "-o,--output", [&flags](const std::string& form) { flags.json = form == "json"; },
         "table for people, json for programs")
      ->type_name("FORM")
      ->check(CLI::IsMember({"table", "json"}))
      ->default_str("table");
}

void add_watch_flag(CLI::App& app, OutputFlags& flags) {
  app.add_option_function<std::string>(
         "-w,--watch",
         [&flags](const std::string& text) {
           flags.watch = true;
           if (text.empty()) return;
           const auto parsed = parse_duration(text);
           if (!parsed.ok()) throw CLI::ValidationError("--watch", parsed.error().what());
           if (parsed.value() < std::chrono::milliseconds(100))
             throw CLI::ValidationError("--watch", "at least 100ms");
           flags.interval = parsed.value();
         },
         "Show it again at this interval (2s), until Ctrl-C")
      ->type_name("[DURATION]")
      ->expected(0, 1);
}

bool use_colour() {
  const char* plain = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && (plain == nullptr || *plain == '\0') &&
         !(terminal != nullptr && std::string(terminal) == "dumb");
}

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw CommandError(Exit::failed, "standard output can't be written");
}

std::pair<std::string, std::string> json_bytes(const std::string& name, const std::string& bytes) {
  if (is_utf8(bytes)) return {name, bytes};
  return {name + "_base64url", nats::to_base64url(bytes)};
}

std::string text_or_input(const std::string& argument) {
  if (argument != "-") return argument;
  std::ostringstream all;
  all << std::cin.rdbuf();
  return all.str();
}

bool confirmed(const std::string& question) {
  std::cerr << question << " [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "yes";
}

void complain(const std::string& text) { std::cerr << "cpp-cluster: " << text << std::endl; }

std::unique_ptr<CLI::App> make_commands(Chosen& chosen) {
  auto app = std::make_unique<CLI::App>("Makes programs highly available on NATS JetStream.",
                                        "cpp-cluster");
  app->require_subcommand(1);
  app->footer(kExitCodes);
  app->get_formatter()->column_width(34);
  app->set_version_flag("-V,--version", "cpp-cluster " CLUSTER_VERSION);
  add_run(*app, chosen);
  add_dev(*app, chosen);
  add_status(*app, chosen);
  add_health(*app, chosen);
  add_stepdown(*app, chosen);
  add_snapshot(*app, chosen);
  add_db(*app, chosen);
  add_kv(*app, chosen);
  add_lock(*app, chosen);
  add_event(*app, chosen);
  add_call(*app, chosen);
  add_audit(*app, chosen);
  add_nats(*app, chosen);
  add_node(*app, chosen);
  add_config(*app, chosen);
  add_version(*app, chosen);
  add_completion(*app, chosen);
  return app;
}

// What to say of a first word that names no command; empty when it does.
std::string unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return {};
  const std::string word = argv[1];
  std::vector<std::string> known;
  for (const auto* command : app.get_subcommands([](const CLI::App*) { return true; }))
    known.push_back(command->get_name());
  if (std::find(known.begin(), known.end(), word) != known.end()) return {};
  const std::string near = nearest_name(word, known);
  return "unknown command \"" + word + "\"" +
         (near.empty() ? "" : "; did you mean \"" + near + "\"?") +
         " (cpp-cluster --help lists them)";
}

int run_program(int argc, char** argv) {
  Exit code = Exit::failed;
  try {
    Chosen chosen;
    const auto app = make_commands(chosen);
    try {
      app->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (const std::string fault = unknown_command(*app, argc, argv); !fault.empty())
        throw CommandError(Exit::usage, fault);
      return app->exit(error) == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    code = chosen();
  } catch (const CommandError& error) {
    complain(error.what());
    code = error.exit();
  } catch (const ConfigError& error) {
    for (const auto& line : error.faults()) complain(line);
    code = Exit::usage;
  } catch (const Error& error) {
    complain(error.what());
    code = exit_for(error);
  } catch (const std::exception& error) {
    complain(error.what());
  }
  return static_cast<int>(code);
}

}  // namespace cluster::cli
