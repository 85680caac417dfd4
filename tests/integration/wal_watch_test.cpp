// The watch over a database's WAL, with a real one that another connection writes.
#include "sqlite/wal_watch.h"

#include <atomic>
#include <filesystem>
#include <thread>

#include "integration/sqlite_fixture.h"
#include "slowness.h"

namespace cluster::sqlite {
namespace {

using Woken = WalWatch::Woken;
using std::chrono::milliseconds;
using std::chrono::seconds;

class WalWatchTest : public SqliteTest {
 protected:
  /// Waits until it is woken for that.
  static bool woken_for(WalWatch& watch, Woken wanted) {
    const Time end = BootClock::now() + kLimit * slowness();
    while (BootClock::now() < end) {
      const auto woken = watch.wait(kLimit);
      if (woken == wanted) return true;
      if (woken == Woken::timeout) return false;
    }
    return false;
  }
  /// Waits until it has nothing to tell for so long.
  static void settle(WalWatch& watch, Duration quiet = Duration(0)) {
    const Time end = BootClock::now() + kLimit * slowness();
    while (watch.wait(quiet) != Woken::timeout)
      if (BootClock::now() >= end) {
        ADD_FAILURE() << "it is woken all the time, though nobody writes";
        return;
      }
  }
  static constexpr seconds kLimit{30};
};

TEST_F(WalWatchTest, WakesWhenTheWalIsWritten) {
  Handle db = create("a.db");
  WalWatch watch(path("a.db"));
  settle(watch);
  EXPECT_EQ(watch.wait(milliseconds(1)), Woken::timeout);
  std::thread writer([&] { db.exec("INSERT INTO t(v) VALUES(1)"); });
  EXPECT_EQ(watch.wait(seconds(30)), Woken::written);
  writer.join();
  Handle(path("a.db"), Handle::Access::read_only).number("SELECT count(*) FROM t");
  settle(watch);
  std::ofstream(path("other.db-wal")) << "of another database";
  EXPECT_EQ(watch.wait(milliseconds(1)), Woken::timeout);
}

// Then it is not told of each write; none is missed all the same, and it rests when nothing comes.
TEST_F(WalWatchTest, IsAwakeWhileTheWalIsWrittenAllTheTime) {
  Handle db = create("a.db");
  WalWatch watch(path("a.db"));
  for (int round = 0; round < 3; ++round) {
    settle(watch);
    std::atomic<bool> over{false};
    std::thread writer([&] {
      for (int i = 0; i < 5'000; ++i) db.exec("INSERT INTO t(v) VALUES(1)");
      over = true;
      watch.wake();  // who began to wait behind the last write is told of nothing else
    });
    while (!over) EXPECT_NE(watch.wait(seconds(30)), Woken::timeout);
    writer.join();
    settle(watch, milliseconds(100));
    std::thread last([&] { db.exec("INSERT INTO t(v) VALUES(1)"); });
    EXPECT_EQ(watch.wait(seconds(30)), Woken::written);
    last.join();
  }
}

TEST_F(WalWatchTest, SeesADatabaseThatComesLater) {
  WalWatch watch(path("a.db"));
  Handle db = create("a.db");
  EXPECT_TRUE(woken_for(watch, Woken::files));
  settle(watch);
  db.exec("INSERT INTO t(v) VALUES(1)");
  EXPECT_TRUE(woken_for(watch, Woken::written)) << "the WAL is watched since it came into being";
}

TEST_F(WalWatchTest, SeesADatabaseThatIsReplaced) {
  create("a.db").close();
  create("b.db").close();
  WalWatch watch(path("a.db"));
  settle(watch);
  std::filesystem::rename(path("b.db"), path("a.db"));
  EXPECT_EQ(watch.wait(seconds(30)), Woken::files);
}

TEST_F(WalWatchTest, WakesWhenItIsCalled) {
  WalWatch watch(path("a.db"));
  std::thread caller([&] { watch.wake(); });
  EXPECT_EQ(watch.wait(seconds(30)), Woken::called);
  caller.join();
  watch.wake();
  EXPECT_EQ(watch.wait(seconds(30)), Woken::called) << "also when nobody waited yet";
}

TEST_F(WalWatchTest, SaysWhichFolderIsMissing) {
  try {
    WalWatch watch(path("none/a.db"));
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path("none")), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace cluster::sqlite
