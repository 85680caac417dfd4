// Databases that are put aside: which are kept, under which names, and what a crash at any instant
// leaves; and what is made of them for people.
#include "sqlite/quarantine.h"

#include <chrono>
#include <filesystem>

#include <sys/stat.h>
#include <unistd.h>

#include "integration/sqlite_fixture.h"
#include "sqlite/database_builder.h"
#include "sqlite/set_aside.h"

namespace cluster::sqlite {
namespace {

namespace fs = std::filesystem;

class QuarantineTest : public SqliteTest {
 protected:
  /// A database with so many rows, as if it were of that epoch.
  std::string put(QuarantineKind kind, std::uint64_t epoch, int rows = 1) const {
    {
      Handle db = create("a.db");
      for (int i = 0; i < rows; ++i) db.exec("INSERT INTO t(v) VALUES(1)");
    }
    QuarantineNote note;
    note.epoch = epoch;
    note.why = "a test";
    return set_aside(path("a.db"), kind, note);
  }
  std::size_t count(QuarantineKind kind) const {
    return summary_of(in_quarantine({path("a.db")})).of(kind).count;
  }
  static std::int64_t rows_in(const std::string& file) {
    Handle db(file, Handle::Access::read_write);
    EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok") << file;
    return db.number("SELECT count(*) FROM t");
  }
  bool exists(const std::string& name) const { return fs::exists(path(name)); }

  /// "a.db" with two rows, the second of which only its WAL has: as a program that was killed has
  /// left it.
  void leave_with_wal() const {
    Handle db = create("open.db");
    db.exec("PRAGMA wal_autocheckpoint=0; INSERT INTO t(v) VALUES(1)");
    ASSERT_EQ(db.number("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    db.exec("INSERT INTO t(v) VALUES(2)");
    for (const char* suffix : {"", "-wal", "-shm"})
      fs::copy_file(path("open.db") + suffix, path("a.db") + suffix);
  }
};

TEST_F(QuarantineTest, ThoseThatDivergedAreKeptForEverAndOfTheOthersTheNewestThree) {
  const std::string first = put(QuarantineKind::diverged, 1, 5);
  for (std::uint64_t i = 2; i <= 6; ++i)
    for (const auto kind : kQuarantineKinds) put(kind, i);
  EXPECT_EQ(count(QuarantineKind::diverged), 6U);
  EXPECT_EQ(count(QuarantineKind::foreign), kMostSetAside);
  EXPECT_EQ(count(QuarantineKind::damaged), kMostSetAside);
  EXPECT_EQ(rows_in(first), 5);
  for (const char* kept : {"a.db.foreign-4", "a.db.foreign-6", "a.db.damaged-4"})
    EXPECT_TRUE(exists(kept)) << kept;
  for (const char* gone : {"a.db.foreign-3", "a.db.foreign-3.json", "a.db.damaged-2"})
    EXPECT_FALSE(exists(gone)) << gone;
}

TEST_F(QuarantineTest, NamesAreGivenOnceAndTheOrderIsNoClocks) {
  EXPECT_EQ(put(QuarantineKind::foreign, 4), path("a.db.foreign-4"));
  // As if the clock had been a year ahead then.
  fs::last_write_time(path("a.db.foreign-4"),
                      fs::file_time_type::clock::now() + std::chrono::hours(24 * 365));
  EXPECT_EQ(put(QuarantineKind::foreign, 4), path("a.db.foreign-4.2"));
  // What belongs to one that somebody has taken away by hand is not given to another.
  fs::rename(path("a.db.foreign-4.2"), path("elsewhere"));
  ASSERT_TRUE(exists("a.db.foreign-4.2.json"));
  EXPECT_EQ(put(QuarantineKind::foreign, 4), path("a.db.foreign-4.3"));
  EXPECT_EQ(put(QuarantineKind::foreign, 4), path("a.db.foreign-4.4"));
  EXPECT_EQ(those_set_aside(path("a.db")).front(), path("a.db.foreign-4.4"));
  EXPECT_EQ(put(QuarantineKind::foreign, 4), path("a.db.foreign-4.5"));
  EXPECT_FALSE(exists("a.db.foreign-4")) << "the oldest, whatever its time says";
  EXPECT_TRUE(exists("a.db.foreign-4.5"));
}

TEST_F(QuarantineTest, TheWalOfADatabaseThatIsInUseIsKeptWithIt) {
  leave_with_wal();
  {
    // It keeps the WAL from being moved into the file.
    Handle reader(path("a.db"), Handle::Access::read_only);
    reader.exec("BEGIN");
    ASSERT_EQ(reader.number("SELECT count(*) FROM t"), 2);
    set_aside(path("a.db"), QuarantineKind::diverged, {});
  }
  EXPECT_FALSE(exists("a.db-wal"));
  EXPECT_FALSE(exists("a.db"));
  ASSERT_TRUE(exists("a.db.diverged-0-wal"));
  EXPECT_EQ(rows_in(path("a.db.diverged-0")), 2);
}

TEST_F(QuarantineTest, TheFilesOfADamagedOneAreLeftAsTheyAre) {
  leave_with_wal();
  const std::string database = bytes_of(path("a.db")), wal = bytes_of(path("a.db-wal"));
  std::ofstream(path("a.db-journal")) << "of a transaction that was cut short";
  set_aside(path("a.db"), QuarantineKind::damaged, {}, false);
  EXPECT_TRUE(bytes_of(path("a.db.damaged-0")) == database);
  EXPECT_TRUE(bytes_of(path("a.db.damaged-0-wal")) == wal);
  EXPECT_TRUE(exists("a.db.damaged-0-journal"));
  EXPECT_FALSE(exists("a.db-journal")) << "the next database would be rolled back with it";
}

// A node that is killed between its renames leaves one of these.
TEST_F(QuarantineTest, WhatACrashHasCutShortIsCompletedWithTheWal) {
  const std::string name = path("a.db.diverged-3"), moving = name + "-moving";
  for (int renamed = 1; renamed <= 4; ++renamed) {
    leave_with_wal();
    fs::rename(path("a.db"), moving);
    if (renamed >= 2) fs::rename(path("a.db-wal"), name + "-wal");
    if (renamed >= 3) fs::rename(path("a.db-shm"), name + "-shm");
    if (renamed >= 4) fs::rename(moving, name);
    QuarantineNote note;
    note.why = "killed";
    const auto finished = finish_set_aside(path("a.db"), note);
    EXPECT_EQ(finished.size(), renamed < 4 ? 1U : 0U);
    for (const char* left : {"a.db", "a.db-wal", "a.db-shm", "a.db.diverged-3-moving"})
      EXPECT_FALSE(exists(left)) << left << " after " << renamed;
    ASSERT_EQ(those_set_aside(path("a.db")), std::vector<std::string>{name});
    if (renamed < 4) {
      EXPECT_EQ(read_note(name).value_or(QuarantineNote{}).why, "killed");
    }
    EXPECT_EQ(rows_in(name), 2) << "the second is in its WAL; after " << renamed;
    // The next database has nothing of it.
    create("a.db").exec("INSERT INTO t(v) VALUES(7)");
    EXPECT_EQ(rows_in(path("a.db")), 1);
    for (const char* file : {"a.db", "open.db"})
      for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(path(file) + suffix);
    remove_set_aside(name);
  }
}

TEST_F(QuarantineTest, TheWalOfADatabaseThatIsThereIsNotTakenForTheOtherOnes) {
  leave_with_wal();
  fs::copy_file(path("a.db"), path("a.db.foreign-2-moving"));
  finish_set_aside(path("a.db"), {});
  EXPECT_EQ(rows_in(path("a.db")), 2);
  EXPECT_TRUE(exists("a.db.foreign-2"));
  EXPECT_FALSE(exists("a.db.foreign-2-wal"));
}

TEST_F(QuarantineTest, OwnerAndModeStayAndTheNoteHasThem) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may give files away";
  create("a.db").exec("INSERT INTO t(v) VALUES(1)");
  ASSERT_EQ(::chown(path("a.db").c_str(), 1234, 2345), 0);
  ASSERT_EQ(::chmod(path("a.db").c_str(), 0660), 0);
  const std::string name = set_aside(path("a.db"), QuarantineKind::diverged, {});
  for (const auto& file : {name, note_path(name)}) {
    struct stat info{};
    ASSERT_EQ(::stat(file.c_str(), &info), 0) << file;
    EXPECT_EQ(info.st_uid, 1234U) << file;
    EXPECT_EQ(info.st_gid, 2345U) << file;
    EXPECT_EQ(info.st_mode & 0777, 0660U) << file;
  }
  const auto all = in_quarantine({path("a.db"), path("a.db")});
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].uid, 1234U);
  EXPECT_EQ(all[0].mode, 0660U);
}

// As on a disk that is full: there is no room for another file, and a rename needs none.
TEST_F(QuarantineTest, WithoutItsNoteADatabaseIsKeptAllTheSame) {
  create("a.db").exec("INSERT INTO t(v) VALUES(1)");
  fs::create_directories(path("a.db.foreign-0.json-new/in-the-way"));
  const std::string name = set_aside(path("a.db"), QuarantineKind::foreign, {});
  EXPECT_EQ(name, path("a.db.foreign-0"));
  EXPECT_FALSE(exists("a.db.foreign-0.json"));
  EXPECT_EQ(rows_in(name), 1);
  const Quarantined found = find_quarantined({path("a.db")}, "a.db.foreign-0");
  EXPECT_FALSE(found.note);
  EXPECT_GT(found.since_ms, 0);
}

TEST_F(QuarantineTest, OnlyWhatIsListedIsFound) {
  put(QuarantineKind::diverged, 3);
  create("b.db.diverged-3");
  std::ofstream(path("secret")) << "not for others";
  fs::create_symlink(path("secret"), path("a.db.diverged-9"));
  fs::create_directory(path("a.db.diverged-8"));
  EXPECT_EQ(those_set_aside(path("a.db")), std::vector<std::string>{path("a.db.diverged-3")});
  EXPECT_EQ(find_quarantined({path("a.db")}, "a.db.diverged-3").path, path("a.db.diverged-3"));
  for (const char* name :
       {"", "a.db", "a.db.diverged-9", "a.db.diverged-8", "b.db.diverged-3", "secret", "../secret",
        "./a.db.diverged-3", "a.db.diverged-3.json", "a.db.diverged-3-moving"})
    EXPECT_THROW(find_quarantined({path("a.db")}, name), Error) << name;
  // A file that becomes a link while it is read.
  Quarantined link = find_quarantined({path("a.db")}, "a.db.diverged-3");
  link.path = path("a.db.diverged-9");
  EXPECT_THROW(read_quarantined(link, "", 0, 100), Error);
}

TEST_F(QuarantineTest, IsReadInParts) {
  const std::string name = put(QuarantineKind::diverged, 3);
  const std::string all = bytes_of(name);
  const Quarantined one = find_quarantined({path("a.db")}, "a.db.diverged-3");
  EXPECT_EQ(one.bytes, all.size());
  std::string read;
  while (read.size() < all.size()) read += read_quarantined(one, "", read.size(), 1'000);
  EXPECT_TRUE(read == all);
  EXPECT_EQ(read_quarantined(one, "", all.size(), 1'000), "");
  EXPECT_EQ(read_quarantined(one, "", ~std::uint64_t{0}, 1'000), "");
  EXPECT_THROW(read_quarantined(one, "-wal", 0, 1'000), Error) << "it has none";
}

TEST_F(QuarantineTest, IsMadeASingleFileWithWhatItsWalHas) {
  leave_with_wal();
  make_single_file(path("a.db"));
  EXPECT_FALSE(exists("a.db-wal"));
  EXPECT_FALSE(exists("a.db-shm"));
  ASSERT_EQ(integrity_of(path("a.db")), std::nullopt);
  {
    Handle db(path("a.db"), Handle::Access::read_only);
    EXPECT_EQ(db.number("SELECT count(*) FROM t"), 2);
    EXPECT_EQ(db.text("PRAGMA journal_mode"), "delete");
    EXPECT_FALSE(exists("a.db-shm")) << "who opens it needs no file beside it";
  }
  make_single_file(path("a.db"));  // it is one already
  EXPECT_EQ(rows_in(path("a.db")), 2);
}

TEST_F(QuarantineTest, IsMadeASingleFileWhateverItsSchemaSays) {
  {
    Handle db = create("a.db");
    db.exec(
        "INSERT INTO t(v) VALUES(1); PRAGMA writable_schema=ON;"
        "INSERT INTO sqlite_schema VALUES('table','later','later',0,'CREATE NEWTHING later()')");
  }
  EXPECT_THROW(Handle(path("a.db"), Handle::Access::read_only).number("SELECT count(*) FROM t"),
               Error);
  make_single_file(path("a.db"));
  EXPECT_FALSE(exists("a.db-wal"));
  EXPECT_EQ(bytes_of(path("a.db")).substr(18, 2), "\1\1");
}

}  // namespace
}  // namespace cluster::sqlite
