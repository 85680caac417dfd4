// The file of a real database, read from the disk beside SQLite while programs, captures and
// replicas are at work on it, and compared with what it must be.
#include "sqlite/scrub_step.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "integration/sqlite_fixture.h"
#include "slowness.h"
#include "sqlite/disk_pages.h"
#include "sqlite/file.h"
#include "sqlite/page_hash.h"
#include "sqlite/replica.h"
#include "sqlite/restore.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kStep = 64 * 1024;

void flip_bit_in(const std::string& path, std::uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  char byte = 0;
  ASSERT_TRUE(file.get(byte)) << path << " is shorter than " << offset;
  file.seekp(static_cast<std::streamoff>(offset));
  ASSERT_TRUE(file.put(static_cast<char>(byte ^ 1)).flush());
}

class ScrubFileTest : public SqliteTest {
 protected:
  static constexpr std::size_t kWalLimit = 200'000;

  std::unique_ptr<Capture> capture(const std::string& name) {
    return std::make_unique<Capture>(CaptureOptions{.path = path(name), .wal_limit = kWalLimit},
                                     DatabaseState{}, false);
  }
  static CapturedFile next_file(Capture& capture) {
    capture.follow();
    return CapturedFile::of(capture);
  }

  /// A replica r.db of what a capture has, all of it in its file.
  std::unique_ptr<Replica> replica_of(Capture& capture) {
    const auto first = next_file(capture);
    LtxDecoder decoder(source_of(first.bytes));
    const auto state = write_database(path("new.db"), {&decoder});
    replace_database(path("new.db"), path("r.db"));
    log_.append({1, state.txid, 1, state.pages.database(), state.page_size});
    auto replica = std::make_unique<Replica>(path("r.db"), log_, hashes_, kWalLimit);
    EXPECT_TRUE(replica->position());
    replica->checkpoint();
    return replica;
  }
  static std::optional<std::string> apply(Replica& replica, const CapturedFile& file,
                                          std::uint64_t sequence) {
    LtxDecoder decoder(source_of(file.bytes));
    return replica.apply(decoder, {.epoch = 1, .sequence = sequence}, file.hashes);
  }

  static ExpectPages expected_of(Replica& replica) {
    return
        [&replica](PageNumber first, PageNumber count) { return replica.expected(first, count); };
  }
  static ExpectPages expected_of(Capture& capture) {
    return
        [&capture](PageNumber first, PageNumber count) { return capture.expected(first, count); };
  }

  /// All of the file.
  ScrubStep scrubbed(const std::string& name, const ExpectPages& expect) const {
    ScrubStep all{.next = 1};
    do {
      const auto step = scrub_some(path(name), all.next, kStep, expect, {});
      all.page_size = step.page_size;
      all.pages = step.pages;
      all.next = step.next;
      all.compared += step.compared;
      all.skipped += step.skipped;
      all.wrong.insert(all.wrong.end(), step.wrong.begin(), step.wrong.end());
    } while (all.next <= all.pages);
    return all;
  }
  std::string page_of(const std::string& name, PageNumber number, std::uint32_t page_size) const {
    return bytes_of(path(name)).substr(std::size_t{number - 1} * page_size, page_size);
  }

  PositionLog log_{path("r.db-cluster")};
  HashFile hashes_{hash_file_path(path("r.db"))};
};

std::vector<PageNumber> numbers_of(const std::vector<WrongPage>& wrong) {
  std::vector<PageNumber> numbers;
  for (const auto& page : wrong) numbers.push_back(page.number);
  return numbers;
}

// ---- reading

TEST_F(ScrubFileTest, ReadsWhatTheFileHoldsAndSaysWhereItEnds) {
  for (const std::uint32_t page_size : {512U, 4096U, 65536U}) {
    const std::string name = "p" + std::to_string(page_size);
    Handle db = create(name, "PRAGMA page_size=" + std::to_string(page_size));
    for (int i = 0; i < 50; ++i) db.exec("INSERT INTO t(v) VALUES(randomblob(9000))");
    db.number("PRAGMA wal_checkpoint(TRUNCATE)");
    const std::string bytes = bytes_of(path(name));
    const auto pages = static_cast<PageNumber>(bytes.size() / page_size);
    for (const PageNumber first : {PageNumber{1}, PageNumber{2}, pages - 1}) {
      const DiskPages read = read_from_disk(path(name), first, 3, page_size);
      EXPECT_EQ(read.inode, inode_of(path(name)));
      for (PageNumber n = first; n < first + 3; ++n) {
        EXPECT_EQ(read.error(n), n <= pages ? 0 : kBehindTheEnd);
        EXPECT_TRUE(read.page(n) == (n <= pages
                                         ? bytes.substr(std::size_t{n - 1} * page_size, page_size)
                                         : std::string(page_size, '\0')))
            << "page " << n << " of " << page_size;
      }
    }
  }
  EXPECT_EQ(read_from_disk(path("none"), 1, 1, 4096).inode, 0U);
}

// Another process gets a lock that this one has lost.
TEST_F(ScrubFileTest, ReadingDropsNoLockOfThisProcess) {
  Handle db(path("p.db"), Handle::Access::create);
  db.exec("CREATE TABLE t(v); BEGIN IMMEDIATE");
  const auto taken_by_another = [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      sqlite3* other = nullptr;
      const bool open = sqlite3_open(path("p.db").c_str(), &other) == SQLITE_OK;
      ::_exit(open && sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) == SQLITE_OK
                  ? 1
                  : 0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 1;
  };
  ASSERT_FALSE(taken_by_another());
  EXPECT_NE(read_from_disk(path("p.db"), 1, 1, 4096).inode, 0U);
  EXPECT_FALSE(taken_by_another());
}

// ---- a standby

class ScrubReplicaTest : public ScrubFileTest {
 protected:
  void SetUp() override {
    db_ = create("p.db");
    for (int i = 0; i < 100; ++i) db_.exec("INSERT INTO t(v) VALUES(randomblob(3000))");
    capture_ = capture("p.db");
    replica_ = replica_of(*capture_);
    ASSERT_EQ(scrubbed("r.db", expected_of(*replica_)).wrong.size(), 0U);
  }
  void commit_and_apply(const std::string& sql) {
    db_.exec(sql);
    ASSERT_EQ(apply(*replica_, next_file(*capture_), ++sequence_), std::nullopt);
  }
  std::string right_page(PageNumber number) const { return page_of("right.db", number, 4096); }

  Handle db_;
  std::unique_ptr<Capture> capture_;
  std::unique_ptr<Replica> replica_;
  std::uint64_t sequence_ = 1;
};

TEST_F(ScrubReplicaTest, FlippedBitsAreFoundAndRepairedWhereItStands) {
  std::filesystem::copy_file(path("r.db"), path("right.db"));
  const auto position = replica_->position();
  const auto hash = replica_->state().pages.database();
  const std::vector<PageNumber> flipped{1, 7, 8, 60};
  for (const auto n : flipped) flip_bit_in(path("r.db"), std::uint64_t{n - 1} * 4096 + 100);
  const auto found = scrubbed("r.db", expected_of(*replica_));
  EXPECT_EQ(numbers_of(found.wrong), flipped);
  EXPECT_EQ(found.compared, found.pages);
  for (const auto& page : found.wrong) {
    EXPECT_EQ(page.error, 0);
    EXPECT_EQ(page.hash, page_hash(page.number, right_page(page.number)));
    EXPECT_TRUE(replica_->repair(page.number, right_page(page.number)));
  }
  EXPECT_EQ(replica_->position()->txid, position->txid);
  EXPECT_EQ(replica_->position()->sequence, position->sequence);
  EXPECT_EQ(replica_->position()->hash, hash);
  EXPECT_EQ(replica_->state().pages.database(), hash);
  // Its readers see the right pages before anything is moved into the file.
  EXPECT_EQ(Handle(path("r.db"), Handle::Access::read_only).text("PRAGMA integrity_check"), "ok");
  const auto overlaid = scrubbed("r.db", expected_of(*replica_));
  EXPECT_TRUE(overlaid.wrong.empty());
  EXPECT_EQ(overlaid.skipped, flipped.size());
  EXPECT_TRUE(replica_->settle());
  EXPECT_TRUE(bytes_of(path("r.db")) == bytes_of(path("right.db")));
  // And it goes on from there.
  commit_and_apply("INSERT INTO t(v) VALUES('more')");
  EXPECT_EQ(replica_->position()->txid, position->txid + 1);
}

TEST_F(ScrubReplicaTest, StandsWhereItStoodWhenItIsOpenedAgainAfterARepair) {
  std::filesystem::copy_file(path("r.db"), path("right.db"));
  const auto position = *replica_->position();
  // Nobody's write tells of it: as a disk changes what it holds.
  ASSERT_TRUE(replica_->repair(7, right_page(7)));
  replica_.reset();
  replica_ = std::make_unique<Replica>(path("r.db"), log_, hashes_, kWalLimit);
  ASSERT_TRUE(replica_->position());
  EXPECT_EQ(replica_->position()->txid, position.txid);
  EXPECT_EQ(replica_->position()->sequence, position.sequence);
  EXPECT_FALSE(replica_->read_in_full());
  EXPECT_FALSE(replica_->has_rest());
  commit_and_apply("INSERT INTO t(v) VALUES('more')");
}

TEST_F(ScrubReplicaTest, WritesNoPageButTheOneThatBelongsThere) {
  std::filesystem::copy_file(path("r.db"), path("right.db"));
  std::string wrong = right_page(7);
  wrong[0] = static_cast<char>(wrong[0] ^ 1);
  EXPECT_FALSE(replica_->repair(7, wrong));
  EXPECT_FALSE(replica_->repair(7, right_page(8)));
  EXPECT_FALSE(replica_->repair(7, right_page(7).substr(1)));
  EXPECT_FALSE(replica_->repair(0, right_page(7)));
  EXPECT_FALSE(replica_->repair(10'000, right_page(7)));
  EXPECT_EQ(replica_->wal_bytes(), 0U);
}

TEST_F(ScrubReplicaTest, WhatTheWalHasANewerVersionOfIsNotLookedAt) {
  commit_and_apply("UPDATE t SET v=randomblob(3000) WHERE id=1");
  const auto before = scrubbed("r.db", expected_of(*replica_));
  EXPECT_GT(before.skipped, 0U);
  EXPECT_TRUE(before.wrong.empty());
  PageNumber overlaid = 0;
  for (PageNumber n = 2; overlaid == 0; ++n)
    if (replica_->expected(n, 1)->hashes.front() == 0) overlaid = n;
  flip_bit_in(path("r.db"), std::uint64_t{overlaid - 1} * 4096);
  EXPECT_TRUE(scrubbed("r.db", expected_of(*replica_)).wrong.empty());
}

TEST_F(ScrubReplicaTest, AFileThatWasCutOffLacksPages) {
  const auto pages = scrubbed("r.db", expected_of(*replica_)).pages;
  std::filesystem::resize_file(path("r.db"), std::uint64_t{pages - 1} * 4096 - 10);
  const auto found = scrubbed("r.db", expected_of(*replica_));
  EXPECT_EQ(numbers_of(found.wrong), (std::vector<PageNumber>{pages - 1, pages}));
  EXPECT_EQ(to_text(found.wrong.front()), "the file ends before it");
}

TEST_F(ScrubReplicaTest, AnotherFileInItsPlaceIsNotTakenForIt) {
  std::filesystem::copy_file(path("r.db"), path("right.db"));
  std::filesystem::rename(path("right.db"), path("r.db"));
  try {
    scrubbed("r.db", expected_of(*replica_));
    FAIL() << "it was looked at";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::unavailable);
  }
}

// ---- while all is at work

// What a program may do to its database, at random.
class RandomProgram {
 public:
  RandomProgram(const std::string& path, unsigned seed, bool vacuums = true)
      : db_(path, Handle::Access::read_write), random_(seed), vacuums_(vacuums) {
    db_.exec("PRAGMA synchronous=OFF; PRAGMA busy_timeout=60000");
  }
  void act() {
    switch (pick(12)) {
      case 0: db_.exec("DELETE FROM t WHERE id % 3 = " + std::to_string(pick(3))); break;
      case 1:
        if (vacuums_) db_.exec("VACUUM");
        break;
      case 2: checkpoint("PASSIVE"); break;
      case 3: checkpoint("TRUNCATE"); break;
      case 4: checkpoint("FULL"); break;
      default:
        db_.exec("BEGIN");
        for (int i = pick(20); i >= 0; --i)
          db_.exec("INSERT OR REPLACE INTO t VALUES(" + std::to_string(pick(200)) +
                   ", randomblob(" + std::to_string(pick(5'000)) + "))");
        db_.exec("COMMIT");
    }
  }

 private:
  int pick(int below) { return std::uniform_int_distribution<int>(0, below - 1)(random_); }
  // Those that wait for readers wait for a mark of the node, which may move only after this.
  void checkpoint(const std::string& mode) {
    db_.exec("PRAGMA busy_timeout=10");
    db_.number("PRAGMA wal_checkpoint(" + mode + ")");
    db_.exec("PRAGMA busy_timeout=60000");
  }
  Handle db_;
  std::mt19937 random_;
  const bool vacuums_;
};

constexpr int kScrubs = 150;
constexpr std::uint64_t kEnough = 1'000;  // pages
// So often at least, and until much was compared: threads that never rest may leave little time.
bool scrubs_go_on(int done, std::uint64_t compared, Time begun) {
  return done < kScrubs ||
         (compared <= kEnough && BootClock::now() < begun + std::chrono::seconds(60) * slowness());
}

// The leader's side: program, capture, its checkpoints, and scrubs.
TEST_F(ScrubFileTest, NothingIsWrongWhileAProgramWritesAndCheckpoints) {
  for (const char* page_size : {"512", "4096"}) {
    const std::string name = std::string("p") + page_size;
    create(name, std::string("PRAGMA page_size=") + page_size);
    auto capturing = capture(name);
    std::atomic<bool> over{false};
    std::thread program([&] {
      // Without VACUUM: a page that is cut off and comes back without being written holds what
      // nobody has defined, and a scrub may tell of it.
      RandomProgram acts(path(name), 7, false);
      while (!over) acts.act();
    });
    std::thread follows([&] {
      while (!over) {
        next_file(*capturing);
        capturing->acknowledged(capturing->written());
      }
    });
    std::thread checkpoints([&] {
      while (!over) {
        try {
          capturing->checkpoint();
        } catch (const Error& error) {
          EXPECT_EQ(error.errc(), Errc::unavailable) << error.what();
        }
        std::this_thread::yield();
      }
    });
    std::uint64_t compared = 0;
    const Time begun = BootClock::now();
    for (int i = 0; scrubs_go_on(i, compared, begun); ++i) {
      const auto found = scrubbed(name, expected_of(*capturing));
      compared += found.compared;
      EXPECT_EQ(numbers_of(found.wrong), std::vector<PageNumber>{}) << "scrub " << i;
    }
    over = true;
    program.join();
    follows.join();
    checkpoints.join();
    EXPECT_GT(compared, kEnough);
    // And what is wrong then is found.
    next_file(*capturing);
    Handle db(path(name), Handle::Access::read_write);
    const Time end = BootClock::now() + std::chrono::seconds(30) * slowness();
    while (capturing->expected(2, 1)->hashes.front() == 0 && BootClock::now() < end) {
      capturing->acknowledged(capturing->written());
      db.number("PRAGMA wal_checkpoint(PASSIVE)");
      next_file(*capturing);
    }
    flip_bit_in(path(name), capturing->page_size() + 5);
    EXPECT_EQ(numbers_of(scrubbed(name, expected_of(*capturing)).wrong),
              std::vector<PageNumber>{2});
  }
}

TEST_F(ScrubFileTest, NothingIsWrongWhileAReplicaAppliesAndCheckpoints) {
  create("p.db");
  auto capturing = capture("p.db");
  auto replica = replica_of(*capturing);
  std::atomic<bool> over{false};
  std::thread applies([&] {
    RandomProgram program(path("p.db"), 11);
    for (std::uint64_t sequence = 2; !over; ++sequence) {
      program.act();
      const auto file = next_file(*capturing);
      capturing->acknowledged(capturing->written());
      if (!file.bytes.empty() && apply(*replica, file, sequence)) {
        ADD_FAILURE() << "it does not follow";
        return;
      }
    }
  });
  std::thread checkpoints([&] {
    while (!over) {
      replica->settle();
      std::this_thread::yield();
    }
  });
  std::uint64_t compared = 0;
  const Time begun = BootClock::now();
  for (int i = 0; scrubs_go_on(i, compared, begun); ++i) {
    const auto found = scrubbed("r.db", expected_of(*replica));
    compared += found.compared;
    EXPECT_EQ(numbers_of(found.wrong), std::vector<PageNumber>{}) << "scrub " << i;
  }
  over = true;
  applies.join();
  checkpoints.join();
  EXPECT_GT(compared, kEnough);
}

}  // namespace
}  // namespace cluster::sqlite
