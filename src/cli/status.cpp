// cpp-cluster status: the whole platform at a glance.
#include <memory>

#include <CLI/CLI.hpp>

#include "cli/client.h"
#include "cli/command.h"

namespace cluster::cli {
namespace {

struct StatusArguments {
  CommonFlags common{};
  OutputFlags output{};
};

Exit status(const StatusArguments& options) {
  Client client(options.common);
  return client.show(options.output, [&] {
    Snapshot snapshot = client.read();
    client.ask(snapshot);
    return options.output.json ? status_json(snapshot, options.output.watch)
                               : status_text(snapshot, use_colour());
  });
}

}  // namespace

void add_status(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("status", "Show nodes and apps, and who leads");
  const auto options = std::make_shared<StatusArguments>();
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  add_output_flag(app, options->output);
  add_watch_flag(app, options->output);
  app.footer(
      "Reads the platform's records, then asks each live node; works without any node.\n"
      "Without --platform it takes the only platform on these servers.\n"
      "Exit status: 0 shown, 3 NATS unreachable, 4 no such platform.\n\n"
      "Examples:\n"
      "  cpp-cluster status\n"
      "  cpp-cluster status --nats nats://10.0.0.1:4222 --platform shop --watch 1s\n"
      "  cpp-cluster status --output json | jq -r '.apps[] | .app + \" \" + .leader'");
  app.callback([options, &chosen] { chosen = [options] { return status(*options); }; });
}

}  // namespace cluster::cli
