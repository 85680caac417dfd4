// How texts become keys, and back.
#include "core/key_text.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace cluster {
namespace {

// As NATS wants them: `[-/_=.a-zA-Z0-9]+`, no dot at the ends or beside another.
bool fits(const std::string& key) {
  for (std::size_t i = 0; i < key.size(); ++i) {
    const char c = key[i];
    const bool dot = c == '.';
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '/' && c != '_' &&
        c != '=' && !dot)
      return false;
    if (dot && (i == 0 || i + 1 == key.size() || key[i - 1] == '.')) return false;
  }
  return !key.empty();
}

TEST(KeyText, EscapesWhatABucketDoesNotTake) {
  EXPECT_EQ(escaped_key("user/1.name_x-Y"), "user/1.name_x-Y");
  EXPECT_EQ(escaped_key("a b"), "a=20b");
  EXPECT_EQ(escaped_key("a=b"), "a=3Db");
  EXPECT_EQ(escaped_key("ä"), "=C3=A4");
  EXPECT_EQ(escaped_key("."), "=2E");
  EXPECT_EQ(escaped_key(".a."), "=2Ea=2E");
  EXPECT_EQ(escaped_key("a..b"), "a.=2Eb");
  EXPECT_EQ(escaped_key("*"), "=2A");
}

TEST(KeyText, LeavesOthersKeysAsTheyAre) {
  EXPECT_EQ(unescaped_key("a=b"), "a=b");
  EXPECT_EQ(unescaped_key("a=3"), "a=3");
  EXPECT_EQ(unescaped_key("="), "=");
  EXPECT_EQ(unescaped_key("a=3d"), "a=3d") << "ours are capital";
}

TEST(KeyText, RefusesWhatIsNoText) {
  EXPECT_NE(key_text_fault(""), "");
  EXPECT_NE(key_text_fault("\xff"), "");
  EXPECT_NE(key_text_fault("\xc0\xaf"), "") << "an overlong form";
  EXPECT_NE(key_text_fault("\xed\xa0\x80"), "") << "a surrogate";
  EXPECT_NE(key_text_fault("\xf4\x90\x80\x80"), "") << "past the last character";
  EXPECT_NE(key_text_fault("\xe2\x82"), "") << "cut off";
  EXPECT_EQ(key_text_fault("\xe2\x82\xac \xf0\x9f\x98\x80"), "");
  EXPECT_EQ(key_text_fault(std::string(512, 'a')), "");
  EXPECT_NE(key_text_fault(std::string(513, 'a')), "");
  EXPECT_NE(key_text_fault(std::string(171, ' ')), "");
}

// Few letters, so that dots and escapes meet.
rc::Gen<std::string> texts() {
  return rc::gen::nonEmpty(
      rc::gen::container<std::string>(rc::gen::elementOf(std::string("..ab= \xc3/2E"))));
}

RC_GTEST_PROP(KeyText, ComesBackAsItWas, ()) {
  const auto text = *texts();
  const auto key = escaped_key(text);
  RC_ASSERT(fits(key));
  RC_ASSERT(unescaped_key(key) == text);
}

bool matches(const std::string& pattern, const std::string& key) {
  if (pattern == ">") return true;
  return key.starts_with(pattern.substr(0, pattern.size() - 1)) && key.size() >= pattern.size();
}

RC_GTEST_PROP(KeyText, AFilterLetsThroughEveryKeyWithThatPrefix, ()) {
  const auto text = *texts();
  const auto size = *rc::gen::inRange<std::size_t>(0, text.size() + 1);
  const auto filter = keys_filter(text.substr(0, size));
  RC_ASSERT(matches(filter, escaped_key(text)));
  RC_ASSERT(filter == ">" || fits(filter.substr(0, filter.size() - 2)));
}

}  // namespace
}  // namespace cluster
