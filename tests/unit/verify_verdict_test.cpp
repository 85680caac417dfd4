// What is said of a database's copies after all nodes have verified theirs.
#include "cli/verify_verdict.h"

#include <gtest/gtest.h>

namespace cluster::cli {
namespace {

CheckedCopy leader(const std::string& hash = "aaaa") {
  return {.node = "node-1",
          .role = "primary",
          .found = CopyFound{.txid = 10, .sequence = 7, .hash = hash, .noted = hash}};
}

// At transaction 12 when it was read; `at` is what it had noted of transaction 10.
CheckedCopy standby(const std::string& node, const std::string& at = "aaaa") {
  return {.node = node,
          .role = "standby",
          .found = CopyFound{
              .txid = 12, .sequence = 9, .hash = "cccc", .noted = "cccc", .noted_at = at}};
}

std::optional<std::string> stream(std::uint64_t sequence, std::uint64_t txid) {
  if (sequence == 7 && txid == 10) return "aaaa";
  if (sequence == 9 && txid == 12) return "cccc";
  return std::nullopt;
}

std::optional<std::string> trimmed(std::uint64_t, std::uint64_t) { return std::nullopt; }

TEST(VerifyVerdict, CopiesAreComparedAtTheLeadersTransactionWhereverTheyStand) {
  std::vector<CheckedCopy> copies{leader(), standby("node-2"), standby("node-3")};
  judge(copies, 0, stream);
  for (const auto& copy : copies) {
    EXPECT_EQ(copy.wrong, "") << copy.node;
    EXPECT_EQ(copy.not_compared, "") << copy.node;
    EXPECT_TRUE(copy.with_others) << copy.node;
    EXPECT_TRUE(copy.with_stream) << copy.node;
  }
}

TEST(VerifyVerdict, AStandbyThatHadAnotherContentThereIsWrong) {
  for (const auto& word : {StreamHash(stream), StreamHash(trimmed)}) {
    std::vector<CheckedCopy> copies{leader(), standby("node-2"), standby("node-3", "bbbb")};
    judge(copies, 0, word);
    EXPECT_EQ(copies[0].wrong, "");
    EXPECT_EQ(copies[1].wrong, "");
    EXPECT_EQ(copies[2].wrong,
              "its content at transaction 10 is not that of node-1: bbbb, that has aaaa");
  }
}

TEST(VerifyVerdict, ALeaderThatHasWhatTheStreamHasNotIsWrongAndNotThoseThatHave) {
  std::vector<CheckedCopy> copies{leader("bbbb"), standby("node-2"), standby("node-3")};
  judge(copies, 0, stream);
  EXPECT_EQ(copies[0].wrong, "its content is not the stream's: bbbb, the stream has aaaa");
  EXPECT_EQ(copies[1].wrong, "");
  EXPECT_EQ(copies[2].wrong, "");
}

TEST(VerifyVerdict, NamesThePagesThatAreNotAsWritten) {
  std::vector<CheckedCopy> copies{leader(), standby("node-2")};
  copies[0].found->hash = "dddd";
  copies[0].found->wrong = 1;
  copies[0].found->pages = {42};
  copies[1].found->wrong = 10;
  copies[1].found->pages = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  judge(copies, 0, stream);
  EXPECT_EQ(copies[0].wrong, "1 page is not as written: 42");
  EXPECT_EQ(copies[1].wrong, "10 pages are not as written: 1, 2, 3, 4, 5, 6, 7, 8, …");
  EXPECT_TRUE(copies[1].with_others) << "what was noted is compared all the same";
}

TEST(VerifyVerdict, ACopyWithoutANoteOfThatTransactionIsNotCompared) {
  std::vector<CheckedCopy> copies{leader(), standby("node-2", ""), standby("node-3")};
  judge(copies, 0, stream);
  EXPECT_EQ(copies[1].not_compared, "it has no note of its content at transaction 10");
  EXPECT_EQ(copies[1].wrong, "");
  EXPECT_FALSE(copies[1].with_others);
  EXPECT_TRUE(copies[2].with_others);
}

TEST(VerifyVerdict, WithoutTheLeadersWordNothingIsComparedAndWhatIsWrongStaysSo) {
  CheckedCopy silent{.node = "node-1", .role = "", .problem = "no answer"};
  CheckedCopy damaged = leader();
  damaged.found->damage = "its WAL is damaged";
  for (const auto& first : {silent, damaged}) {
    std::vector<CheckedCopy> copies{first, standby("node-2")};
    copies[1].found->noted = "eeee";
    copies[1].found->hash = "eeee";
    judge(copies, 0, stream);
    EXPECT_NE(copies[1].not_compared, "");
    EXPECT_NE(copies[1].wrong, "");
  }
}

}  // namespace
}  // namespace cluster::cli
