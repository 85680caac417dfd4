// Completion scripts for shells, written from a description of the commands. Pure.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cluster::cli {

/// What may stand behind a flag, or as an argument.
struct Completion {
  enum class Kind { nothing, words, files, folders, nodes, apps };
  Kind kind = Kind::nothing;
  std::vector<std::string> words{};
};

struct FlagSpec {
  std::vector<std::string> names{};  ///< "-o", "--output"
  std::string help{};
  bool takes_value = false;
  Completion value{};
};

struct CommandSpec {
  std::string name{};
  std::string help{};
  std::vector<FlagSpec> flags{};
  Completion argument{};
  std::vector<CommandSpec> commands{};
};

CommandSpec describe(const CLI::App& app);

std::string bash_completion(const CommandSpec& root);
std::string zsh_completion(const CommandSpec& root);
std::string fish_completion(const CommandSpec& root);

}  // namespace cluster::cli
