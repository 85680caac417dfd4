// cpp-cluster completion: describes the tree of commands for the writers of completion.h.
#include <memory>

#include <CLI/CLI.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/completion.h"

namespace cluster::cli {
namespace {

using Kind = Completion::Kind;

// The parser knows a value's type only as text for people, so what completes it stands here.
Completion completion_for(const std::string& name, const std::string& type) {
  if (name == "--output") return {Kind::words, {"table", "json"}};
  if (name == "--log-level")
    return {Kind::words, {"trace", "debug", "info", "warn", "error", "off"}};
  if (name == "--sync") return {Kind::words, {"always", "default"}};
  if (name == "SHELL") return {Kind::words, {"bash", "zsh", "fish"}};
  if (name == "APP") return {Kind::apps, {}};
  if (name == "NODE" || type == "NODE") return {Kind::nodes, {}};
  if (name == "FILE" || type == "FILE") return {Kind::files, {}};
  if (type == "FOLDER") return {Kind::folders, {}};
  return {};
}

FlagSpec flag_of(const CLI::Option& option) {
  FlagSpec flag{.help = option.get_description(), .takes_value = option.get_type_size_max() > 0};
  for (const auto& name : option.get_snames()) flag.names.push_back("-" + name);
  for (const auto& name : option.get_lnames()) flag.names.push_back("--" + name);
  // One that may stand alone is not waiting for a value.
  if (option.get_expected_min() == 0) flag.takes_value = false;
  if (flag.takes_value) flag.value = completion_for(flag.names.back(), option.get_type_name());
  return flag;
}

// For a shell that is waiting: quick, and silent when there is nothing to say.
Exit names(const std::string& what, const CommonFlags& flags) {
  try {
    Client client(flags);
    const Snapshot snapshot = client.read();
    if (what == "nodes")
      for (const auto& member : snapshot.members) print(member.node + "\n");
    else
      for (const auto& lease : snapshot.leases)
        if (lease.app.rfind('_', 0) != 0) print(lease.app + "\n");
  } catch (const CommandError& error) {
    return error.exit();
  }
  return Exit::ok;
}

}  // namespace

CommandSpec describe(const CLI::App& app) {
  CommandSpec command{.name = app.get_name(), .help = app.get_description()};
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) {
      command.flags.push_back(flag_of(*option));
      continue;
    }
    // Of several the first one that can be completed.
    if (command.argument.kind == Kind::nothing)
      command.argument = completion_for(option->get_name(true), option->get_type_name());
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    if (!sub->get_group().empty()) command.commands.push_back(describe(*sub));
  return command;
}

void add_completion(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("completion", "Print a completion script for a shell");
  const auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  app.footer(
      "Examples:\n"
      "  source <(cpp-cluster completion bash)\n"
      "  cpp-cluster completion zsh > ~/.zfunc/_cpp-cluster\n"
      "  cpp-cluster completion fish > ~/.config/fish/completions/cpp-cluster.fish");
  app.callback([shell, &chosen, &root] {
    chosen = [shell, &root] {
      const CommandSpec spec = describe(root);
      print(*shell == "bash"  ? bash_completion(spec)
            : *shell == "zsh" ? zsh_completion(spec)
                              : fish_completion(spec));
      return Exit::ok;
    };
  });

  CLI::App& hidden = *root.add_subcommand("names", "Names of nodes or apps, for completion");
  hidden.group("");
  const auto what = std::make_shared<std::string>();
  const auto flags = std::make_shared<CommonFlags>();
  flags->timeout = std::chrono::milliseconds(1'000);
  hidden.add_option("WHAT", *what)->required()->check(CLI::IsMember({"nodes", "apps"}));
  add_connection_flags(hidden, *flags);
  hidden.callback(
      [what, flags, &chosen] { chosen = [what, flags] { return names(*what, *flags); }; });
}

}  // namespace cluster::cli
