// The examples of examples/talk, as they are built, against a real server.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "built.h"
#include "integration/nats_fixture.h"
#include "shell.h"
#include "slowness.h"
#include "temporary_folder.h"

namespace cluster {
namespace {

class ExamplesTest : public ::testing::Test {
 protected:
  /// What it prints, by lines; fails when it does not end well.
  std::vector<std::string> lines_of(const std::string& name) {
    const std::string program = std::string(built::kExamplesFolder) + "/talk_" + name;
    if (access(program.c_str(), X_OK) != 0) return {};
    const std::string command =
        "cd " + shell_quoted(folder.path()) + " && HOME=" + shell_quoted(folder.path()) +
        " NATS_URL=" + servers[0].url() +
        " CPP_CLUSTER_GUARDIAN=" + shell_quoted(built::kGuardian) + " timeout -k 10 " +
        std::to_string(120 * slowness()) + " " + shell_quoted(program) + " 2>log";
    std::FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return {};
    std::string text;
    std::array<char, 4096> part{};
    while (const auto size = std::fread(part.data(), 1, part.size(), pipe))
      text.append(part.data(), size);
    const int status = pclose(pipe);
    EXPECT_EQ(status, 0) << "talk_" << name << " did not end well, or not in time: " << text;
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
      const auto end = text.find('\n', at);
      lines.push_back(text.substr(at, end - at));
      at = end == std::string::npos ? text.size() : end + 1;
    }
    return lines;
  }
  void SetUp() override {
    if (access((std::string(built::kExamplesFolder) + "/talk_keys").c_str(), X_OK) != 0)
      GTEST_SKIP() << "the examples are not built";
  }

  testing::NatsServers servers;
  testing::TemporaryFolder folder;
};

using Lines = std::vector<std::string>;

TEST_F(ExamplesTest, Keys) {
  // A watch with one value of history may pass over what was overwritten before it was read.
  Lines lines = lines_of("keys");
  const auto has = [&](const char* line) {
    return std::find(lines.begin(), lines.end(), line) != lines.end();
  };
  EXPECT_TRUE(has("counter = 3"));
  // So it may over the visitor, who stays for half a second, where it is held up for as long.
  for (int tries = 0; !has("visitor = Ada") && tries < 5 && !HasFailure(); ++tries)
    lines = lines_of("keys");
  EXPECT_TRUE(has("visitor = Ada"));
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back(), "visitor is gone");
}

TEST_F(ExamplesTest, Locks) {
  Lines lines = lines_of("locks");
  ASSERT_EQ(lines.size(), 5U);
  EXPECT_EQ(lines[0], "migrated by locks");
  EXPECT_EQ(lines[1], "it was not migrated yet");
  std::sort(lines.begin() + 2, lines.end());
  EXPECT_EQ(Lines(lines.begin() + 2, lines.end()),
            (Lines{"clerk 1 writes", "clerk 2 writes", "clerk 3 writes"}));
  EXPECT_EQ(lines_of("locks").at(0), "it was migrated already");
}

TEST_F(ExamplesTest, Events) {
  EXPECT_EQ(lines_of("events"), (Lines{"booked 4711", "given up: poison"}));
}

TEST_F(ExamplesTest, Calls) {
  EXPECT_EQ(lines_of("calls"),
            (Lines{"tea: 2.50 EUR, says calls",
                   "no_article: call to \"shop.price\": node \"calls\" answers: there is only "
                   "tea (no_article)",
                   "calls: 2.50 EUR"}));
}

}  // namespace
}  // namespace cluster
