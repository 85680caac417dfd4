// cpp-cluster config: is a configuration right, and what comes out of file, environment and flags;
// and cpp-cluster version.
#include <memory>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cluster/version.h"

namespace cluster::cli {
namespace {

struct ConfigArguments {
  CommonFlags common{};
  OutputFlags output{};
};

std::string count(std::size_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

Exit check(const ConfigArguments& options) {
  const Config config = load_config(options.common.request(false));
  print(config.file + ": fine (platform " + config.platform.name + ", " +
        count(config.apps.size(), "app") + ")\n");
  return Exit::ok;
}

Exit show(const ConfigArguments& options) {
  const Config config = load_config(options.common.request(false));
  print("# " + (config.file.empty() ? "no file" : config.file) + ", environment and flags\n" +
        to_yaml(config, true));
  return Exit::ok;
}

}  // namespace

void add_config(CLI::App& root, Chosen& chosen) {
  CLI::App& config = *root.add_subcommand("config", "Check and show configurations");
  config.require_subcommand(1);
  config.footer(
      "Examples:\n  cpp-cluster config check node.yaml\n  cpp-cluster config show --config "
      "node.yaml");
  const auto options = std::make_shared<ConfigArguments>();

  CLI::App& checked = *config.add_subcommand("check", "Name everything that is wrong with a file");
  checked.add_option("FILE", options->common.config, "The file")->required();
  checked.footer(
      "Judges the file as `run` would, with this shell's environment above it.\n"
      "Exit status: 0 fine, 2 not fine; each fault on a line: FILE:LINE:COLUMN: KEY: WHAT.\n\n"
      "Example:\n  cpp-cluster config check /etc/cpp-cluster/config.yaml");
  checked.callback([options, &chosen] { chosen = [options] { return check(*options); }; });

  CLI::App& shown = *config.add_subcommand("show", "Show what a node would run with, in full");
  add_connection_flags(shown, options->common);
  add_node_flags(shown, options->common);
  shown.footer(
      "Defaults included, secrets as ***.\n\n"
      "Example:\n  cpp-cluster config show --config node.yaml --set timing.lease_ttl=20s");
  shown.callback([options, &chosen] { chosen = [options] { return show(*options); }; });
}

void add_version(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("version", "Show the version");
  const auto options = std::make_shared<ConfigArguments>();
  add_output_flag(app, options->output);
  app.footer("Example:\n  cpp-cluster version --output json");
  app.callback([options, &chosen] {
    chosen = [options] {
      print(options->output.json ? "{\"v\": 1, \"version\": \"" CLUSTER_VERSION "\"}\n"
                                 : "cpp-cluster " CLUSTER_VERSION "\n");
      return Exit::ok;
    };
  });
}

}  // namespace cluster::cli
