// What stands beside a quarantined database: read back as written, and never believed too much.
#include "sqlite/quarantine_note.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/error.h"
#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

QuarantineNote example() {
  QuarantineNote note;
  note.app = "notes";
  note.node = "node-1";
  note.history = 0x0123456789abcdef;
  note.epoch = 3;
  note.first = 11;
  note.last = 13;
  note.held = LeftOver{3, true};
  note.since_ms = 1'748'770'200'000;
  note.bytes = 40'960;
  note.why = "it holds transactions up to 13, the stream goes on behind 10";
  return note;
}

class QuarantineNoteTest : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(database_) << "a database"; }
  void write(const std::string& text) const { std::ofstream(note_path(database_)) << text; }

  const testing::TemporaryFolder folder_;
  const std::string database_ = folder_ / "a.db.diverged-3";
};

TEST_F(QuarantineNoteTest, IsReadAsItWasWritten) {
  ASSERT_EQ(::chmod(database_.c_str(), 0640), 0);
  write_note(database_, example(), QuarantineKind::diverged);
  const auto read = read_note(database_);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->app, "notes");
  EXPECT_EQ(read->node, "node-1");
  EXPECT_EQ(read->history, example().history);
  EXPECT_EQ(read->epoch, 3U);
  EXPECT_EQ(read->first, 11U);
  EXPECT_EQ(read->last, 13U);
  ASSERT_TRUE(read->held);
  EXPECT_EQ(to_text(*read->held), "at least 3");
  EXPECT_EQ(read->since_ms, example().since_ms);
  EXPECT_EQ(read->bytes, 40'960U);
  EXPECT_EQ(read->why, example().why);
  struct stat info{};
  ASSERT_EQ(::stat(note_path(database_).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640U) << "as the database's";
  // Again, over one that is there and one that a crash has left.
  std::ofstream(note_path(database_) + "-new") << "half of";
  QuarantineNote unknown;
  unknown.why = std::string(100'000, 'x') + "\xff";
  write_note(database_, unknown, QuarantineKind::foreign);
  const auto again = read_note(database_);
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->held);
  EXPECT_EQ(again->first, 0U);
  EXPECT_EQ(again->history, 0U);
  EXPECT_LT(again->why.size(), 10'000U);
  EXPECT_FALSE(std::filesystem::exists(note_path(database_) + "-new"));
}

TEST_F(QuarantineNoteTest, WhatCanNotBeUnderstoodIsAsIfItWereNotThere) {
  EXPECT_FALSE(read_note(database_)) << "there is none";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[1]"), std::string("null"),
        std::string("{\"v\":2}"), std::string("{\"v\":\"1\"}"), std::string(1'000'000, '['),
        "{\"v\":1,\"why\":\"" + std::string(20'000, 'x') + "\"}", std::string("\xff\xfe\0{", 4)}) {
    write(text);
    EXPECT_FALSE(read_note(database_)) << text.substr(0, 40);
  }
  write(R"({"v":1,"epoch":-1,"first":"x","last":1e9,"transactions":3,"counted":"perhaps",)"
        R"("history":"zz","since":"yesterday","why":[],"app":7})");
  const auto read = read_note(database_);
  ASSERT_TRUE(read) << "each field is unknown by itself";
  EXPECT_EQ(read->epoch, 0U);
  EXPECT_EQ(read->first, 0U);
  EXPECT_EQ(read->last, 0U);
  EXPECT_FALSE(read->held);
  EXPECT_EQ(read->since_ms, 0);
  EXPECT_EQ(read->why, "");
}

TEST_F(QuarantineNoteTest, WhatIsNoFileIsNeitherReadNorWrittenThrough) {
  const std::string secret = folder_ / "secret";
  std::ofstream(secret) << note_text(example(), QuarantineKind::diverged);
  std::filesystem::create_symlink(secret, note_path(database_));
  EXPECT_FALSE(read_note(database_)) << "a link to elsewhere";
  std::filesystem::create_symlink(secret, note_path(database_) + "-new");
  write_note(database_, {}, QuarantineKind::diverged);
  EXPECT_TRUE(note_from(note_text(example(), QuarantineKind::diverged)));
  std::ifstream in(secret);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(text, note_text(example(), QuarantineKind::diverged)) << "it is as it was";
  EXPECT_TRUE(read_note(database_));
  std::filesystem::remove(note_path(database_));
  ASSERT_EQ(::mkfifo(note_path(database_).c_str(), 0600), 0);
  EXPECT_FALSE(read_note(database_)) << "nobody writes to that pipe: it must not be waited for";
}

}  // namespace
}  // namespace cluster::sqlite
