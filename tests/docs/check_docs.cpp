// Checks what README.md and docs/*.md show, and that links to files lead to some:
//   check-docs SOURCE_FOLDER CPP_CLUSTER_PROGRAM COMPILER
// cpp is compiled, yaml goes through `config check`, json is parsed, sh and console are parsed and
// name only commands and options of ours that exist, text is left alone. A comment before a block
// says more:
//   <!-- check: body -->       cpp: statements that have a `platform` and an `app`
//   <!-- check: part -->       yaml: some keys of a file
//   <!-- check: app -->        yaml: what stands below an app's name
//   <!-- check: run -->        sh, console: run it, in the source folder; it must end with 0
//   <!-- check: file PATH -->  the block is that file, but for comments at its top
//   <!-- check: in PATH -->    the block is a part of that file

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <nlohmann/json.hpp>

#include "shell.h"

namespace fs = std::filesystem;
using cluster::shell_quoted;

namespace {

struct Block {
  std::string file{};  // relative to the source folder
  int line = 0;        // of its first line of text
  std::string language{};
  std::string check{};     // <!-- check: body -->
  std::string argument{};  // <!-- check: file examples/basic/basic.cpp -->
  std::string text{};

  std::string place() const { return file + ":" + std::to_string(line); }
};

struct Outcome {
  bool ok = false;
  std::string output{};
};

std::string read(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(("timeout 60 " + command + " 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) return {.ok = false, .output = "can't start " + command};
  char buffer[4096];
  while (const std::size_t got = fread(buffer, 1, sizeof buffer, pipe))
    outcome.output.append(buffer, got);
  outcome.ok = pclose(pipe) == 0;
  return outcome;
}

class Docs {
 public:
  Docs(fs::path source, std::string program, std::string compiler)
      : source_(std::move(source)), program_(std::move(program)), compiler_(std::move(compiler)) {
    std::string name = (fs::temp_directory_path() / "check-docs.XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder: " + name);
    scratch_ = name;
  }
  ~Docs() {
    std::error_code ignored;  // a temporary folder that stays is no fault of the documents
    fs::remove_all(scratch_, ignored);
  }
  Docs(const Docs&) = delete;
  Docs& operator=(const Docs&) = delete;

  // Returns how many faults there are; each is printed.
  int check();

 private:
  void fault(const std::string& place, const std::string& what) {
    std::cout << place << ": " << what << "\n";
    ++faults_;
  }
  void read_blocks(const std::string& file);
  void check_links(const std::string& file, int line, const std::string& text);
  static std::set<std::string> anchors(const fs::path& path);
  void check_block(const Block& block);
  void check_same(const Block& block);
  void check_cpp(const Block& block);
  void check_bodies();
  void check_yaml(const Block& block);
  void check_shell(const Block& block);
  void check_command(const Block& block, std::vector<std::string> words);
  void compile(const std::string& place, const std::string& text);
  fs::path write(const std::string& suffix, const std::string& text);
  const std::string& help(const std::string& subcommands);

  const fs::path source_;
  const std::string program_;
  const std::string compiler_;
  fs::path scratch_;
  int written_ = 0;
  int faults_ = 0;
  std::vector<Block> blocks_;
  std::map<std::string, std::string> helps_;
};

int Docs::check() {
  std::vector<std::string> files{"README.md"};
  for (const auto& entry : fs::directory_iterator(source_ / "docs"))
    if (entry.path().extension() == ".md")
      files.push_back("docs/" + entry.path().filename().string());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) read_blocks(file);
  for (const auto& block : blocks_) check_block(block);
  check_bodies();
  std::cout << blocks_.size() << " code blocks in " << files.size() << " documents, " << faults_
            << " faults\n";
  return faults_;
}

void Docs::read_blocks(const std::string& file) {
  static const std::regex kCheck(R"(<!-- check: (\w+)(?: (\S+))? -->)");
  static const std::regex kFence(R"((\s*)```(.*))");
  const auto lines = lines_of(read(source_ / file));
  Block next;
  bool inside = false;
  std::string indent;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const int number = static_cast<int>(i) + 1;
    const std::string& line = lines[i];
    std::smatch match;
    if (std::regex_match(line, match, kFence)) {
      if (inside) {
        blocks_.push_back(std::exchange(next, {}));
      } else {
        indent = match[1];
        next.file = file;
        next.line = number + 1;
        next.language = match[2];
      }
      inside = !inside;
    } else if (inside) {
      next.text += (line.starts_with(indent) ? line.substr(indent.size()) : line) + "\n";
    } else if (std::regex_match(line, match, kCheck)) {
      next.check = match[1];
      next.argument = match[2];
    } else if (!line.empty()) {
      if (!next.check.empty())
        fault(file + ":" + std::to_string(number), "no block follows its check");
      next = {};
      check_links(file, number, line);
    }
  }
  if (inside) fault(next.place(), "the block is not closed");
}

void Docs::check_links(const std::string& file, int line, const std::string& text) {
  static const std::regex kLink(R"(\]\(([^)#\s]*)(?:#([^)\s]+))?\))");
  for (std::sregex_iterator link(text.begin(), text.end(), kLink), end; link != end; ++link) {
    const std::string target = (*link)[1];
    const std::string anchor = (*link)[2];
    if (target.find("://") != std::string::npos) continue;
    const fs::path path = target.empty() ? source_ / file : (source_ / file).parent_path() / target;
    if (!fs::exists(path))
      fault(file + ":" + std::to_string(line), "there is no " + target);
    else if (!anchor.empty() && !anchors(path).contains(anchor))
      fault(file + ":" + std::to_string(line),
            "there is no heading #" + anchor + " in " + path.filename().string());
  }
}

// Headings as links name them: small letters, digits, - and _, with - for blanks.
std::set<std::string> Docs::anchors(const fs::path& path) {
  std::set<std::string> all;
  for (const auto& line : lines_of(read(path))) {
    if (!line.starts_with("#")) continue;
    std::string anchor;
    for (const char c : line.substr(std::min(line.find(' ') + 1, line.size()))) {
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_')
        anchor += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      else if (c == ' ')
        anchor += '-';
    }
    all.insert(anchor);
  }
  return all;
}

void Docs::check_block(const Block& block) {
  if (block.check == "file" || block.check == "in") return check_same(block);
  if (block.language == "cpp") return check_cpp(block);
  if (block.language == "yaml") return check_yaml(block);
  if (block.language == "sh" || block.language == "console") return check_shell(block);
  if (block.language == "json") {
    if (!nlohmann::json::accept(block.text)) fault(block.place(), "it is no JSON");
  } else if (block.language != "text") {
    fault(block.place(),
          "nothing is known that checks a block of \"" + block.language +
              "\"; say cpp, yaml, json, sh, console or text, or compare it with a file");
  }
}

// The block is a file of the project, or a part of one, which other tests build and run.
void Docs::check_same(const Block& block) {
  const fs::path path = source_ / block.argument;
  if (block.argument.empty() || !fs::is_regular_file(path))
    return fault(block.place(), "there is no file \"" + block.argument + "\"");
  const std::string content = read(path);
  const bool same = block.check == "file" ? content.ends_with(block.text)
                                          : content.find(block.text) != std::string::npos;
  // A comment at the file's top may be left out.
  const std::string rest = same ? content.substr(0, content.size() - block.text.size()) : "";
  const bool only_comments =
      block.check == "in" ||
      std::all_of(rest.begin(), rest.end(), [&, start = true, comment = false](char c) mutable {
        if (start) comment = c == '/' || c == '#';
        start = c == '\n';
        return comment || start;
      });
  if (!same || !only_comments) fault(block.place(), "it differs from " + block.argument);
}

void Docs::check_cpp(const Block& block) {
  if (block.check == "body") return;  // check_bodies()
  if (!block.check.empty()) return fault(block.place(), "unknown check \"" + block.check + "\"");
  compile(block.place(), block.text);
}

// Statements out of a program, all at once: each in a function that has a platform and an app.
void Docs::check_bodies() {
  std::string text =
      "#include <fstream>\n#include <iostream>\n#include <mutex>\n#include <thread>\n"
      "#include <cluster/cluster.h>\nusing namespace std::chrono_literals;\n";
  int count = 0;
  for (const auto& block : blocks_) {
    if (block.language != "cpp" || block.check != "body") continue;
    text += "void body_" + std::to_string(++count) +
            "([[maybe_unused]] cluster::Platform& platform, [[maybe_unused]] cluster::App& app) "
            "{\n#line " +
            std::to_string(block.line) + " \"" + block.file + "\"\n" + block.text + "}\n";
  }
  if (count > 0) compile("parts of programs", text);
}

void Docs::compile(const std::string& place, const std::string& text) {
  const auto outcome =
      run(compiler_ + " -std=c++20 -fsyntax-only -Wall -Wextra -Werror -Wno-unused-variable -I " +
          shell_quoted((source_ / "include").string()) + " " +
          shell_quoted(write(".cpp", text).string()));
  if (!outcome.ok) fault(place, "it does not compile:\n" + outcome.output);
}

// A file; with `part` some keys of one, with `app` what stands below an app's name.
void Docs::check_yaml(const Block& block) {
  std::string text = block.text;
  if (block.check == "app") {
    std::string indented;
    for (const auto& line : lines_of(text)) indented += "    " + line + "\n";
    text = "apps:\n  docs:\n" + indented;
  } else if (!block.check.empty() && block.check != "part") {
    return fault(block.place(), "unknown check \"" + block.check + "\"");
  }
  if (!block.check.empty()) {
    text = "\n" + text;
    if (text.find("\nplatform:") == std::string::npos) text += "platform: docs\n";
    if (text.find("\nnats:") == std::string::npos) text += "nats:\n  url: nats://127.0.0.1:4222\n";
  }
  const auto outcome =
      run(shell_quoted(program_) + " config check " + shell_quoted(write(".yaml", text).string()));
  if (!outcome.ok) fault(block.place(), "config check refuses it:\n" + outcome.output);
}

void Docs::check_shell(const Block& block) {
  std::string script;
  for (const auto& line : lines_of(block.text)) {
    // Of a console's lines, those behind the prompt were typed; the rest was answered.
    if (block.language == "sh")
      script += line + "\n";
    else if (line.starts_with("$ "))
      script += line.substr(2) + "\n";
  }
  const std::string file = shell_quoted(write(".sh", script).string());
  const auto parsed = run("bash -n " + file);
  if (!parsed.ok) return fault(block.place(), "bash can't read it:\n" + parsed.output);

  std::string joined = std::regex_replace(script, std::regex("\\\\\n"), " ");
  for (const auto& line : lines_of(joined)) {
    std::istringstream stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word && !word.starts_with("#");) {
      const bool ends = word == "&" || word == "|" || word == "&&" || word == ";" || word == "||";
      if (!ends) words.push_back(word);
      if (ends) check_command(block, std::exchange(words, {}));
    }
    check_command(block, std::move(words));
  }

  if (block.check == "run") {
    const fs::path home = scratch_ / "home";
    fs::create_directories(home);
    const auto outcome = run("env HOME=" + shell_quoted(home.string()) +
                             " PATH=" + shell_quoted(fs::path(program_).parent_path().string()) +
                             ":\"$PATH\" bash -euc " +
                             shell_quoted("cd " + shell_quoted(source_.string()) + "; . " + file));
    if (!outcome.ok) fault(block.place(), "it fails:\n" + outcome.output);
  } else if (!block.check.empty()) {
    fault(block.place(), "unknown check \"" + block.check + "\"");
  }
}

// Of our own program: are there such a subcommand and such options?
void Docs::check_command(const Block& block, std::vector<std::string> words) {
  while (!words.empty() &&
         (words.front() == "sudo" || words.front().find('=') != std::string::npos))
    words.erase(words.begin());
  if (words.empty() || fs::path(words.front()).filename() != "cpp-cluster") return;
  if (help("").find("\nSubcommands:") == std::string::npos)
    return fault(block.place(), program_ + " --help lists no subcommands");
  std::string subcommands;
  std::size_t next = 1;
  while (next < words.size() && help(subcommands).find("\nSubcommands:") != std::string::npos &&
         !words[next].starts_with("-")) {
    const std::regex listed("\\n  " + words[next] + "\\b");
    if (!std::regex_search(help(subcommands), listed))
      return fault(block.place(),
                   "cpp-cluster" + subcommands + " has no subcommand " + words[next]);
    subcommands += " " + words[next++];
  }
  for (; next < words.size(); ++next) {
    if (!words[next].starts_with("--")) continue;
    const std::string option = words[next].substr(0, words[next].find('='));
    if (!std::regex_search(help(subcommands), std::regex("[ ,]" + option + "\\b")))
      fault(block.place(), "cpp-cluster" + subcommands + " has no option " + option);
  }
}

const std::string& Docs::help(const std::string& subcommands) {
  auto known = helps_.find(subcommands);
  if (known == helps_.end())
    known =
        helps_.emplace(subcommands, run(shell_quoted(program_) + subcommands + " --help").output)
            .first;
  return known->second;
}

fs::path Docs::write(const std::string& suffix, const std::string& text) {
  const fs::path path = scratch_ / (std::to_string(++written_) + suffix);
  std::ofstream(path) << text;
  return path;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: check-docs SOURCE_FOLDER CPP_CLUSTER_PROGRAM COMPILER\n";
    return 2;
  }
  try {
    return Docs(fs::absolute(argv[1]), argv[2], argv[3]).check() == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "check-docs: " << error.what() << "\n";
    return 1;
  }
}
