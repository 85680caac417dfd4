#include "cli/completion.h"

#include <functional>
#include <map>

namespace cluster::cli {
namespace {

using Kind = Completion::Kind;

std::string words_of(const std::vector<std::string>& words) {
  std::string all;
  for (const auto& word : words) all += (all.empty() ? "" : " ") + word;
  return all;
}

std::vector<std::string> candidates(const CommandSpec& command) {
  std::vector<std::string> all;
  for (const auto& sub : command.commands) all.push_back(sub.name);
  for (const auto& flag : command.flags)
    all.insert(all.end(), flag.names.begin(), flag.names.end());
  return all;
}

// Calls `visit` for each command with its path, " node list"; the root's is empty.
void walk(const CommandSpec& command, const std::string& path,
          const std::function<void(const CommandSpec&, const std::string&)>& visit) {
  visit(command, path);
  for (const auto& sub : command.commands) walk(sub, path + " " + sub.name, visit);
}

std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

std::string single_quoted(const std::string& text) {
  return "'" + replace_all(text, "'", "'\\''") + "'";
}

std::string bash_values(const Completion& value) {
  switch (value.kind) {
    case Kind::words:
      return "COMPREPLY=($(compgen -W '" + words_of(value.words) + "' -- \"$cur\"))";
    case Kind::files: return "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))";
    case Kind::folders: return "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"))";
    case Kind::nodes: return "_cpp_cluster_names nodes";
    case Kind::apps: return "_cpp_cluster_names apps";
    case Kind::nothing: return "COMPREPLY=()";
  }
  return {};
}

// Flags that wait for a value, by how it is completed: the same name means the same everywhere.
std::map<std::string, std::string> value_flags(
    const CommandSpec& root, const std::function<std::string(const Completion&)>& render) {
  std::map<std::string, std::string> flags;
  walk(root, "", [&](const CommandSpec& command, const std::string& path) {
    for (const auto& flag : command.flags)
      if (flag.takes_value)
        for (const auto& name : flag.names) flags[path + "@" + name] = render(flag.value);
  });
  return flags;
}

// The loop that finds, among the words before the cursor, which command they name.
std::string case_of_paths(const CommandSpec& root) {
  std::string patterns;
  walk(root, "", [&](const CommandSpec&, const std::string& path) {
    if (!path.empty()) patterns += (patterns.empty() ? "" : "|") + ("\"" + path + "\"");
  });
  return patterns;
}

std::string zsh_values(const Completion& value) {
  switch (value.kind) {
    case Kind::words: return "compadd -- " + words_of(value.words);
    case Kind::files: return "_files";
    case Kind::folders: return "_files -/";
    case Kind::nodes: return "_cpp_cluster_names nodes";
    case Kind::apps: return "_cpp_cluster_names apps";
    case Kind::nothing: return "_message value";
  }
  return {};
}

std::string zsh_described(const std::string& name, const std::string& help) {
  return single_quoted(replace_all(name, ":", "\\:") + ":" + help);
}

std::string fish_values(const Completion& value) {
  switch (value.kind) {
    case Kind::words: return " -x -a " + single_quoted(words_of(value.words));
    case Kind::files: return " -r -F";
    case Kind::folders: return " -x -a '(__fish_complete_directories)'";
    case Kind::nodes: return " -x -a '(cpp-cluster names nodes 2>/dev/null)'";
    case Kind::apps: return " -x -a '(cpp-cluster names apps 2>/dev/null)'";
    case Kind::nothing: return " -x";
  }
  return {};
}

}  // namespace

std::string bash_completion(const CommandSpec& root) {
  std::string script =
      "# bash completion for cpp-cluster\n"
      "_cpp_cluster_names() {\n"
      "  COMPREPLY=($(compgen -W \"$(\"${COMP_WORDS[0]}\" names \"$1\" 2>/dev/null)\" -- "
      "\"$cur\"))\n"
      "}\n"
      "_cpp_cluster() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$path ${COMP_WORDS[i]}\" in\n"
      "      " +
      case_of_paths(root) +
      ") path=\"$path ${COMP_WORDS[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$path@$prev\" in\n";
  for (const auto& [name, action] : value_flags(root, bash_values))
    script += "    \"" + name + "\") " + action + "; return ;;\n";
  script += "  esac\n  case \"$path\" in\n";
  walk(root, "", [&](const CommandSpec& command, const std::string& path) {
    script += "    \"" + path + "\")\n";
    if (command.argument.kind != Kind::nothing)
      script +=
          "      if [[ $cur != -* ]]; then " + bash_values(command.argument) + "; return; fi\n";
    script +=
        "      COMPREPLY=($(compgen -W '" + words_of(candidates(command)) + "' -- \"$cur\")) ;;\n";
  });
  return script + "  esac\n}\ncomplete -F _cpp_cluster cpp-cluster\n";
}

std::string zsh_completion(const CommandSpec& root) {
  std::string script =
      "#compdef cpp-cluster\n"
      "_cpp_cluster_names() {\n"
      "  compadd -- ${(f)\"$(\"${words[1]}\" names \"$1\" 2>/dev/null)\"}\n"
      "}\n"
      "_cpp_cluster() {\n"
      "  local where= i\n"
      "  local -a found\n"
      "  for ((i = 2; i < CURRENT; i++)); do\n"
      "    case \"$where ${words[i]}\" in\n"
      "      " +
      case_of_paths(root) +
      ") where=\"$where ${words[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$where@${words[CURRENT-1]}\" in\n";
  for (const auto& [name, action] : value_flags(root, zsh_values))
    script += "    \"" + name + "\") " + action + "; return ;;\n";
  script += "  esac\n  case \"$where\" in\n";
  walk(root, "", [&](const CommandSpec& command, const std::string& path) {
    script += "    \"" + path + "\")\n";
    if (command.argument.kind != Kind::nothing)
      script += "      if [[ ${words[CURRENT]} != -* ]]; then " + zsh_values(command.argument) +
                "; return; fi\n";
    script += "      found=(";
    for (const auto& sub : command.commands)
      script += "\n        " + zsh_described(sub.name, sub.help);
    for (const auto& flag : command.flags)
      for (const auto& name : flag.names) script += "\n        " + zsh_described(name, flag.help);
    script += ")\n      _describe cpp-cluster found ;;\n";
  });
  return script +
         "  esac\n}\n"
         "# Sourced or autoloaded: both work.\n"
         "if [ \"$funcstack[1]\" = \"_cpp-cluster\" ]; then _cpp_cluster \"$@\"; else compdef "
         "_cpp_cluster cpp-cluster; fi\n";
}

std::string fish_completion(const CommandSpec& root) {
  std::string script =
      "# fish completion for cpp-cluster\n"
      "function __cpp_cluster_at\n"
      "  set -l path\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    switch \"$path $word\"\n"
      "      case " +
      replace_all(case_of_paths(root), "|", " ") +
      "\n"
      "        set path \"$path $word\"\n"
      "    end\n"
      "  end\n"
      "  test \"$path\" = \"$argv[1]\"\n"
      "end\n"
      "complete -c cpp-cluster -f\n";
  walk(root, "", [&](const CommandSpec& command, const std::string& path) {
    const std::string here = "complete -c cpp-cluster -n '__cpp_cluster_at \"" + path + "\"'";
    for (const auto& sub : command.commands)
      script += here + " -a " + sub.name + " -d " + single_quoted(sub.help) + "\n";
    if (command.argument.kind != Kind::nothing)
      script += here +
                replace_all(replace_all(fish_values(command.argument), " -x", ""), " -r", "") +
                "\n";
    for (const auto& flag : command.flags) {
      script += here;
      for (const auto& name : flag.names)
        script += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
      script += (flag.takes_value ? fish_values(flag.value) : "") + " -d " +
                single_quoted(flag.help) + "\n";
    }
  });
  return script;
}

}  // namespace cluster::cli
