// The watch over a database's WAL, with a real one that another connection writes.
#include "sqlite/wal_watch.h"

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

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

// ---- many databases, one inotify instance

int inotify_instances() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    count += std::filesystem::read_symlink(entry.path(), gone) == "anon_inode:inotify" ? 1 : 0;
  }
  return count;
}

/// A database whose watch is waited for on a thread of its own, as a node does.
struct Watched {
  Handle db;
  WalWatch watch;
  std::atomic<int> written{0}, files{0};
  std::atomic<bool> over{false};
  std::thread thread;

  Watched(Handle handle, const std::string& path, Inotify& inotify)
      : db(std::move(handle)), watch(path, inotify) {
    thread = std::thread([this] {
      while (!over) {
        const auto woken = watch.wait(seconds(60));
        if (woken == Woken::written) ++written;
        if (woken == Woken::files) ++files;
      }
    });
  }
  ~Watched() {
    over = true;
    watch.wake();
    thread.join();
  }
};

class SharedInotify : public WalWatchTest {
 protected:
  void add() {
    const std::string name = std::to_string(watched_.size()) + ".db";
    watched_.push_back(std::make_unique<Watched>(create(name), path(name), inotify_));
  }
  template <typename Done>
  static bool within(Done done) {
    const Time end = BootClock::now() + kLimit * slowness();
    while (!done()) {
      if (BootClock::now() >= end) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }
  Inotify inotify_;
  std::vector<std::unique_ptr<Watched>> watched_;
};

// A user may have 128 instances.
TEST_F(SharedInotify, EachOfManyDatabasesWakesItsOwnThreadOnly) {
  const int before = inotify_instances();
  for (int i = 0; i < 150; ++i) add();
  EXPECT_EQ(inotify_instances(), before + 1);
  for (int round = 0; round < 2; ++round)
    for (auto& w : watched_) {
      const int seen = w->written;
      w->db.exec("INSERT INTO t(v) VALUES(1)");
      ASSERT_TRUE(within([&] { return w->written > seen; })) << "it was not woken within seconds";
    }
  // One write may be several events, and wake twice.
  const auto woken = [&] {
    int all = 0;
    for (auto& w : watched_) all += w->written;
    return all - watched_[7]->written;
  };
  const int others = woken();
  for (int i = 0; i < 200; ++i) {
    const int seen = watched_[7]->written;
    watched_[7]->db.exec("INSERT INTO t(v) VALUES(1)");
    ASSERT_TRUE(within([&] { return watched_[7]->written > seen; }));
  }
  EXPECT_LE(woken(), others + 150) << "others were woken for this one";
}

// Also while those who read the events for others come and go.
TEST_F(SharedInotify, NoWriteIsMissedWhileDatabasesComeAndGo) {
  for (int i = 0; i < 12; ++i) add();
  std::atomic<bool> over{false};
  std::thread others([&] {
    for (int i = 0; !over; ++i) {
      WalWatch passing(path(std::to_string(i % 12) + ".db"), inotify_);
      passing.wait(milliseconds(i % 3));
    }
  });
  for (int round = 0; round < 300; ++round) {
    auto& w = *watched_[static_cast<std::size_t>(round * 7 % 12)];
    const int seen = w.written;
    w.db.exec("INSERT INTO t(v) VALUES(1)");
    ASSERT_TRUE(within([&] { return w.written > seen; })) << "round " << round;
  }
  over = true;
  others.join();
}

TEST_F(SharedInotify, TheSameDatabaseMayBeWatchedTwice) {
  Handle db = create("a.db");
  WalWatch first(path("a.db"), inotify_);
  {
    WalWatch second(path("a.db"), inotify_);
    settle(first);
    settle(second);
    db.exec("INSERT INTO t(v) VALUES(1)");
    EXPECT_EQ(first.wait(seconds(30)), Woken::written);
    EXPECT_EQ(second.wait(seconds(30)), Woken::written);
  }
  settle(first);
  db.exec("INSERT INTO t(v) VALUES(1)");
  EXPECT_EQ(first.wait(seconds(30)), Woken::written) << "the other one took the watch with it";
}

// ---- nothing can be watched

class PolledWal : public WalWatchTest {
 protected:
  Inotify none_{true};
};

TEST_F(PolledWal, IsFoundWritten) {
  Handle db = create("a.db");
  WalWatch watch(path("a.db"), none_);
  settle(watch);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(watch.wait(milliseconds(0)), Woken::timeout);
    db.exec("INSERT INTO t(v) VALUES(1)");
    ASSERT_EQ(watch.wait(seconds(30)), Woken::written);
    // The checkpoint has the next ones written over what is there: the file grows no more.
    if (i == 10) db.exec("PRAGMA wal_checkpoint(FULL)");
    settle(watch, milliseconds(40));
  }
}

TEST_F(PolledWal, IsFoundMadeAndReplaced) {
  create("b.db").close();
  WalWatch watch(path("a.db"), none_);
  settle(watch);
  Handle db = create("a.db");
  EXPECT_EQ(watch.wait(seconds(30)), Woken::files);
  settle(watch, milliseconds(40));
  std::filesystem::rename(path("b.db"), path("a.db"));
  EXPECT_TRUE(woken_for(watch, Woken::files));
}

TEST_F(PolledWal, IsWokenWhenItIsCalled) {
  WalWatch watch(path("a.db"), none_);
  settle(watch);
  std::thread caller([&] { watch.wake(); });
  EXPECT_EQ(watch.wait(seconds(30)), Woken::called);
  caller.join();
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
