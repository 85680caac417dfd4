// What a node takes for a request about its quarantined databases.
#include "platform/quarantine_requests.h"

#include <string>

#include <gtest/gtest.h>

#include "cluster/error.h"

namespace cluster {
namespace {

TEST(QuarantineRequestTest, TakesNamesOfFilesOnly) {
  const auto read = quarantine_request_from(
      R"({"v":1,"app":"a","op":"read","name":"a.db.diverged-3","suffix":"-wal","offset":5,"size":7})");
  ASSERT_TRUE(read) << read.error().what();
  EXPECT_EQ(read.value().op, QuarantineRequest::Op::read);
  EXPECT_EQ(read.value().suffix, "-wal");
  EXPECT_EQ(read.value().offset, 5U);
  EXPECT_EQ(read.value().size, 7U);
  EXPECT_TRUE(quarantine_request_from(R"({"app":"a","op":"list"})"));
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string(R"({"op":"list"})"),
        std::string(R"({"app":"a"})"), std::string(R"({"app":"a","op":"eat","name":"x"})"),
        std::string(R"({"app":"a","op":"read"})"), std::string(R"({"app":"a","op":"delete"})"),
        std::string(R"({"app":"a","op":"delete","name":"../x"})"),
        std::string(R"({"app":"a","op":"list","name":"/etc/passwd"})"),
        std::string(R"({"app":"a","op":"read","name":"x\u0000y"})"),
        R"({"app":"a","op":"read","name":")" + std::string(300, 'x') + "\"}",
        std::string(R"({"app":"a","op":"read","name":"x","suffix":"/../y"})")}) {
    const auto refused = quarantine_request_from(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().errc(), Errc::invalid_argument);
  }
}

}  // namespace
}  // namespace cluster
