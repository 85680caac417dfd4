// cpp-cluster run: one node, for as long as it lives.
#include <memory>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cluster/platform.h"
#include "core/log.h"

namespace cluster::cli {
namespace {

Exit run(const CommonFlags& flags) {
  Config config = load_config(flags.request(false));
  log::configure(config.log_level, config.log_file);
  Platform platform(std::move(config.platform));
  for (auto& app : config.apps) platform.add_app(std::move(app));
  platform.run();
  return Exit::ok;
}

}  // namespace

void add_run(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("run", "Run a node until SIGINT or SIGTERM");
  const auto flags = std::make_shared<CommonFlags>();
  add_connection_flags(app, *flags);
  add_node_flags(app, *flags);
  app.footer(
      "Exit status: 0 stopped in order, 2 configuration, 3 NATS unreachable, 6 not stopped in "
      "order\nin time, 7 the name is taken, 8 what was committed to a database was not sent.\n\n"
      "Examples:\n"
      "  cpp-cluster run --config node.yaml\n"
      "  NODE_ID=node-2 cpp-cluster run --config node.yaml --http 127.0.0.1:8081\n"
      "  cpp-cluster run --platform shop --nats nats://10.0.0.1:4222 --label zone=a");
  app.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cluster::cli
