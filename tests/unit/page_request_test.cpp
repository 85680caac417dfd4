// A page that is asked of the node that leads, which may answer anything.
#include "sqlite/page_request.h"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "platform/peer_requests.h"
#include "sqlite/page_hash.h"

namespace cluster::sqlite {
namespace {

const std::string kContent = std::string(3'000, 'a') + std::string(1'096, 'b');
constexpr PageNumber kNumber = 17;

// Asks somebody who answers with what `answer` says of each request.
Result<std::string> fetched(const std::function<Result<std::string>(const PageRequest&)>& answer,
                            std::vector<PageRequest>* asked = nullptr) {
  std::optional<Result<std::string>> page;
  fetch_page(
      [&](const PageRequest& request, const Callback<std::string>& done) {
        if (asked != nullptr) asked->push_back(request);
        done(answer(request));
      },
      kNumber, page_hash(kNumber, kContent), 4'096,
      [&](Result<std::string> got) {
        EXPECT_FALSE(page) << "it is answered once";
        page = std::move(got);
      });
  EXPECT_TRUE(page);
  return std::move(*page);
}

TEST(PageRequestTest, APageThatFitsIntoNoMessageComesInParts) {
  std::vector<PageRequest> asked;
  const auto page =
      fetched([](const PageRequest& request) { return request.part_of(kContent).substr(0, 1'000); },
              &asked);
  ASSERT_TRUE(page) << page.error().what();
  EXPECT_EQ(page.value(), kContent);
  ASSERT_EQ(asked.size(), 5U);
  EXPECT_EQ(asked.back().offset, 4'000U);
  EXPECT_EQ(asked.back().size, 96U);
}

TEST(PageRequestTest, WhatIsNotThePageIsNotBelieved) {
  std::string other = kContent;
  other[100] = 'x';
  for (const std::string& answer : {other, std::string(), kContent.substr(1)}) {
    const auto page = fetched([&](const PageRequest& request) { return request.part_of(answer); });
    ASSERT_FALSE(page) << answer.size();
    EXPECT_EQ(page.error().errc(), Errc::corrupt);
  }
}

TEST(PageRequestTest, MoreThanWasAskedForIsRefused) {
  const auto page = fetched([&](const PageRequest&) { return kContent + "x"; });
  ASSERT_FALSE(page);
  EXPECT_EQ(page.error().errc(), Errc::corrupt);
}

TEST(PageRequestTest, WhoAnswersWithCrumbsIsGivenUp) {
  int parts = 0;
  const auto page = fetched([&](const PageRequest& request) {
    ++parts;
    return request.part_of(kContent).substr(0, 1);
  });
  EXPECT_FALSE(page);
  EXPECT_LE(parts, 65);
}

TEST(PageRequestTest, ARefusalIsPassedOn) {
  const auto page = fetched(
      [](const PageRequest&) -> Result<std::string> { return Error(Errc::not_found, "no"); });
  ASSERT_FALSE(page);
  EXPECT_EQ(page.error().errc(), Errc::not_found);
}

TEST(PeerRequestTest, IsReadAsItWasWritten) {
  PeerRequest request{PeerRequest::Op::page, {kNumber, 0xfedcba9876543210, 512, 4096}};
  const auto read = peer_request_from(text_of(request));
  ASSERT_TRUE(read) << read.error().what();
  EXPECT_EQ(read.value().op, PeerRequest::Op::page);
  EXPECT_EQ(read.value().page.page, kNumber);
  EXPECT_EQ(read.value().page.hash, 0xfedcba9876543210);
  EXPECT_EQ(read.value().page.offset, 512U);
  EXPECT_EQ(read.value().page.size, 4096U);
  const auto state = peer_request_from(text_of(PeerRequest{}));
  ASSERT_TRUE(state);
  EXPECT_EQ(state.value().op, PeerRequest::Op::state);
}

TEST(PeerRequestTest, WhatIsNoneIsRefused) {
  for (const char* text : {"", "[]", "{}", R"({"op":7})", R"({"op":"eat"})", R"({"op":"page"})",
                           R"({"op":"page","page":0,"hash":"01","size":1})",
                           R"({"op":"page","page":4294967296,"hash":"01","size":1})",
                           R"({"op":"page","page":1,"hash":"xyz","size":1})",
                           R"({"op":"page","page":1,"hash":"0","size":1})",
                           R"({"op":"page","page":1,"hash":"01","size":0})",
                           R"({"op":"page","page":1,"hash":"01","size":65537})",
                           R"({"op":"page","page":1,"hash":"01","offset":65536,"size":1})"}) {
    const auto refused = peer_request_from(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().errc(), Errc::invalid_argument);
  }
}

TEST(PeerRequestTest, TheSoundStandbyThatLacksTheLeastIsFound) {
  const std::map<std::string, std::string> answers{{"a", text_of(PeerState{true, 50})},
                                                   {"b", text_of(PeerState{true, 3})},
                                                   {"c", text_of(PeerState{false, 0})},
                                                   {"d", "nonsense"},
                                                   {"e", text_of(PeerState{true, 1'001})}};
  const auto found = [&](const std::vector<std::string>& nodes) {
    std::vector<std::string> told;
    find_sound_standby(
        [&](const std::string& node, const PeerRequest&, const Callback<std::string>& done) {
          if (const auto answer = answers.find(node); answer != answers.end())
            return done(answer->second);
          done(Error(Errc::timeout, "no answer"));
        },
        nodes, 1'000, [&](const std::string& node) { told.push_back(node); });
    EXPECT_EQ(told.size(), 1U);
    return told.front();
  };
  EXPECT_EQ(found({"a", "b", "c", "d", "e", "f"}), "b");
  EXPECT_EQ(found({"c", "d", "e", "f"}), "");
  EXPECT_EQ(found({}), "");
}

}  // namespace
}  // namespace cluster::sqlite
