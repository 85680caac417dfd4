#include "cli/completion.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cluster::cli {
namespace {

using Kind = Completion::Kind;

CommandSpec commands() {
  const FlagSpec help{.names = {"-h", "--help"}, .help = "Don't ask"};
  return {.name = "cpp-cluster",
          .flags = {help},
          .commands = {
              {.name = "status",
               .help = "Show: all",
               .flags = {help,
                         {.names = {"-o", "--output"},
                          .takes_value = true,
                          .value = {Kind::words, {"table", "json"}}},
                         {.names = {"--config"}, .takes_value = true, .value = {Kind::files}}}},
              {.name = "stepdown",
               .flags = {help, {.names = {"--to"}, .takes_value = true, .value = {Kind::nodes}}},
               .argument = {Kind::apps}},
              {.name = "node",
               .flags = {help},
               .commands = {{.name = "list", .flags = {help}},
                            {.name = "status", .flags = {help}, .argument = {Kind::nodes}}}}}};
}

class Completions : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "completion_test_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    // Answers `names nodes` and `names apps` as the program would.
    std::ofstream(folder_ + "/cpp-cluster")
        << "#!/bin/sh\n[ \"$2\" = nodes ] && echo node-1 node-2 || echo database\n";
    std::filesystem::permissions(folder_ + "/cpp-cluster", std::filesystem::perms::owner_all);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static bool has(const std::string& program) {
    return std::system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
  }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }
  std::string output_of(const std::string& command) {
    FILE* pipe = popen(command.c_str(), "r");
    std::string text;
    std::array<char, 4096> buffer{};
    while (const auto n = fread(buffer.data(), 1, buffer.size(), pipe))
      text.append(buffer.data(), n);
    EXPECT_EQ(pclose(pipe), 0) << command;
    return text;
  }
  // What bash offers for the words, the last of which is being typed.
  std::string bash(const std::vector<std::string>& words) {
    std::string line = folder_ + "/cpp-cluster";
    for (const auto& word : words) line += " '" + word + "'";
    const std::string script = write("bash", bash_completion(commands())) + "; COMP_WORDS=(" +
                               line + "); COMP_CWORD=" + std::to_string(words.size()) +
                               "; compopt() { :; }; _cpp_cluster; echo \"${COMPREPLY[*]}\"";
    std::string text = output_of("bash -c \"source " + std::string() + [&] {
      std::string quoted;
      for (const char c : script)
        quoted += c == '"' || c == '$' ? std::string("\\") + c : std::string(1, c);
      return quoted;
    }() + "\"");
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }

  std::string folder_;
};

TEST_F(Completions, BashOffersCommandsFlagsAndNames) {
  EXPECT_EQ(bash({""}), "status stepdown node -h --help");
  EXPECT_EQ(bash({"st"}), "status stepdown");
  EXPECT_EQ(bash({"status", "--o"}), "--output");
  EXPECT_EQ(bash({"status", "--output", "j"}), "json");
  EXPECT_EQ(bash({"status", "-o", ""}), "table json");
  EXPECT_EQ(bash({"node", ""}), "list status -h --help");
  EXPECT_EQ(bash({"node", "status", ""}), "node-1 node-2");
  EXPECT_EQ(bash({"stepdown", ""}), "database");
  EXPECT_EQ(bash({"stepdown", "--"}), "--help --to");
  EXPECT_EQ(bash({"stepdown", "database", "--to", "node-2"}), "node-2");
  EXPECT_EQ(bash({"status", "--config", folder_ + "/cpp"}), folder_ + "/cpp-cluster");
}

TEST_F(Completions, ZshReadsItsScript) {
  if (!has("zsh")) GTEST_SKIP() << "there is no zsh here";
  output_of("zsh -n " + write("zsh", zsh_completion(commands())));
}

TEST_F(Completions, FishOffersCommandsAndFlags) {
  if (!has("fish")) GTEST_SKIP() << "there is no fish here";
  const std::string script = write("fish", fish_completion(commands()));
  const auto offers = [&](const std::string& line) {
    return output_of("PATH=" + folder_ + ":$PATH fish --no-config -c 'source " + script +
                     "; complete -C \"cpp-cluster " + line + "\"'");
  };
  EXPECT_NE(offers("st").find("stepdown"), std::string::npos);
  EXPECT_NE(offers("node ").find("list"), std::string::npos);
  EXPECT_EQ(offers("node ").find("stepdown"), std::string::npos);
  EXPECT_NE(offers("status --output ").find("json"), std::string::npos);
}

TEST_F(Completions, EveryShellKnowsEveryFlag) {
  for (const auto& script :
       {bash_completion(commands()), zsh_completion(commands()), fish_completion(commands())})
    for (const char* flag : {"output", "config", "to", "help"})
      EXPECT_NE(script.find(flag), std::string::npos) << script;
}

}  // namespace
}  // namespace cluster::cli
