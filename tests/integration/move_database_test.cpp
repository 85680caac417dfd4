// A database that gets another name, with and without programs that have it open.
#include "sqlite/move_database.h"

#include <sys/stat.h>
#include <unistd.h>

#include "integration/sqlite_fixture.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

class MoveDatabaseTest : public SqliteTest {
 protected:
  void SetUp() override {
    create("a.db").exec("INSERT INTO t(v) VALUES(1); INSERT INTO t(v) VALUES(2)");
  }

  std::int64_t rows(const std::string& name) const {
    Handle db(path(name), Handle::Access::read_write);
    EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok");
    return db.number("SELECT count(*) FROM t");
  }
};

TEST_F(MoveDatabaseTest, IsRenamedWhenNobodyHasItOpen) {
  const auto inode = inode_of(path("a.db"));
  move_database(path("a.db"), path("b.db"));
  EXPECT_EQ(inode_of(path("b.db")), inode);
  EXPECT_EQ(rows("b.db"), 2);
  for (const char* left : {"a.db", "a.db-wal", "a.db-shm"})
    EXPECT_FALSE(std::filesystem::exists(path(left))) << left;
}

// With one file under two names each side would have a WAL of its own, and damage the other's.
TEST_F(MoveDatabaseTest, IsCopiedBesideAProgramThatHasItOpen) {
  Handle idle(path("a.db"), Handle::Access::read_only);
  ASSERT_EQ(idle.number("SELECT count(*) FROM t"), 2);
  Handle reading(path("a.db"), Handle::Access::read_only);
  reading.exec("BEGIN");
  ASSERT_EQ(reading.number("SELECT count(*) FROM t"), 2);
  {
    Handle writer(path("a.db"), Handle::Access::read_write);
    writer.exec("INSERT INTO t(v) VALUES(3)");
  }
  const auto inode = inode_of(path("a.db"));
  move_database(path("a.db"), path("b.db"));
  EXPECT_NE(inode_of(path("b.db")), inode);
  EXPECT_FALSE(std::filesystem::exists(path("a.db")));
  EXPECT_FALSE(std::filesystem::exists(path("b.db-moving")));
  Handle writer(path("b.db"), Handle::Access::read_write);
  writer.exec("INSERT INTO t(v) VALUES(4)");
  EXPECT_EQ(rows("b.db"), 4);
  // What they see is whole, and old.
  EXPECT_EQ(reading.number("SELECT count(*) FROM t"), 2);
  EXPECT_EQ(idle.number("SELECT count(*) FROM t"), 3);
  EXPECT_EQ(idle.text("PRAGMA integrity_check"), "ok");
}

TEST_F(MoveDatabaseTest, KeepsTheOwnerAndTheMode) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may give files away";
  ASSERT_EQ(::chown(path("a.db").c_str(), 1234, 2345), 0);
  ASSERT_EQ(::chmod(path("a.db").c_str(), 0660), 0);
  const Handle open(path("a.db"), Handle::Access::read_only);
  open.database_file();
  Handle(path("a.db"), Handle::Access::read_only).number("SELECT count(*) FROM t");
  move_database(path("a.db"), path("b.db"));
  struct stat file{};
  ASSERT_EQ(::stat(path("b.db").c_str(), &file), 0);
  EXPECT_EQ(file.st_uid, 1234U);
  EXPECT_EQ(file.st_gid, 2345U);
  EXPECT_EQ(file.st_mode & 0777, 0660U);
  // A copy that has come from elsewhere belongs to whom the folder belongs.
  ASSERT_EQ(::chown(path("").c_str(), 1234, 2345), 0);
  std::filesystem::copy_file(path("b.db"), path("c.db"));
  take_access(path("c.db"), path("not-there.db"));
  ASSERT_EQ(::stat(path("c.db").c_str(), &file), 0);
  EXPECT_EQ(file.st_uid, 1234U);
}

TEST_F(MoveDatabaseTest, APathIsResolvedAsSqliteDoes) {
  std::filesystem::create_directory(path("there"));
  std::filesystem::create_symlink("there/a.db", path("link.db"));
  const auto there = std::filesystem::canonical(path("there")).string() + "/a.db";
  EXPECT_EQ(real_path(path("link.db")), there) << "to a file that is not there yet";
  create("there/a.db");
  EXPECT_EQ(real_path(path("link.db")), there);
  Handle db(path("link.db"), Handle::Access::read_write);
  EXPECT_EQ(db.text("SELECT file FROM pragma_database_list"), there);
}

}  // namespace
}  // namespace cluster::sqlite
