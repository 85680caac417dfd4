// cpp-cluster node: the nodes of the platform, and one of them closely.
#include <memory>

#include <CLI/CLI.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "core/ids.h"

namespace cluster::cli {
namespace {

struct NodeArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string node{};
};

Exit list(const NodeArguments& options) {
  Client client(options.common);
  return client.show(options.output, [&] {
    const Snapshot snapshot = client.read();
    return options.output.json ? nodes_json(snapshot, options.output.watch)
                               : nodes_text(snapshot, use_colour());
  });
}

Exit status(const NodeArguments& options) {
  Client client(options.common);
  std::string node = options.node;
  if (node.empty()) node = client.config().platform.node;
  if (node.empty()) node = short_host_name();
  Exit exit = Exit::ok;
  client.show(options.output, [&] {
    Snapshot snapshot = client.read();
    const SeenMember& member = member_or_fail(snapshot, node);
    client.ask(snapshot, node);
    const auto answer = snapshot.answers.find(node);
    if (answer == snapshot.answers.end())
      exit = Exit::unhealthy;
    else if (!answer->second.problem.empty())
      exit = Exit::timeout;
    return options.output.json ? node_json(snapshot, member, options.output.watch)
                               : node_text(snapshot, member, use_colour());
  });
  return exit;
}

}  // namespace

void add_node(CLI::App& root, Chosen& chosen) {
  CLI::App& node = *root.add_subcommand("node", "Look at nodes");
  node.require_subcommand(1);
  node.footer("Examples:\n  cpp-cluster node list --watch\n  cpp-cluster node status node-1");
  const auto options = std::make_shared<NodeArguments>();

  CLI::App& all = *node.add_subcommand("list", "List the nodes by their records");
  add_connection_flags(all, options->common);
  add_timeout_flag(all, options->common, "Give up on NATS after this");
  add_output_flag(all, options->output);
  add_watch_flag(all, options->output);
  all.footer(
      "Asks no node, so it is quick; also shows those that have left or died.\n\n"
      "Examples:\n"
      "  cpp-cluster node list\n"
      "  cpp-cluster node list --output json | jq -r '.nodes[] | select(.state == \"live\").node'");
  all.callback([options, &chosen] { chosen = [options] { return list(*options); }; });

  CLI::App& one = *node.add_subcommand("status", "Show what one node says of itself");
  one.add_option("NODE", options->node, "The node; without it, the configuration's or this host's");
  add_connection_flags(one, options->common);
  add_timeout_flag(one, options->common, "Give up on NATS after this");
  add_output_flag(one, options->output);
  add_watch_flag(one, options->output);
  one.footer(
      "Exit status: 0 it answers, 4 no such node, 5 it is not live, 6 it does not answer.\n\n"
      "Examples:\n"
      "  cpp-cluster node status node-1\n"
      "  cpp-cluster node status node-1 --output json | jq .status.session");
  one.callback([options, &chosen] { chosen = [options] { return status(*options); }; });
}

}  // namespace cluster::cli
