// What App::database() and App::snapshots() promise, with nodes in this process and a real server.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <optional>
#include <set>
#include <string>

#include <pwd.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/cluster.h"
#include "integration/platform_fixture.h"
#include "slowness.h"
#include "sqlite/commit_place.h"
#include "sqlite/handle.h"

namespace cluster {
namespace {

using namespace std::chrono_literals;
using sqlite::Handle;
using testing::DatabaseNode;
using testing::eventually;
using testing::kSoon;

constexpr auto kShort = 300ms;  // what a test waits for in vain

/// The code of what `call` throws; nothing when it returns.
std::optional<Errc> thrown(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()), "");
    return error.errc();
  }
  return std::nullopt;
}

std::int64_t rows(const DatabaseConnection& db) {
  std::int64_t count = -1;
  EXPECT_EQ(sqlite3_exec(
                db.get(), "SELECT count(*) FROM t",
                [](void* into, int, char** values, char**) {
                  *static_cast<std::int64_t*>(into) = std::stoll(values[0]);
                  return 0;
                },
                &count, nullptr),
            SQLITE_OK)
      << sqlite3_errmsg(db.get());
  return count;
}

/// Two nodes, of which the first leads.
class DatabaseApi : public ::testing::Test {
 protected:
  void start(Sqlite options = {}) {
    first.emplace(servers, folder.path(), "node-1", options, patience);
    first->run();
    ASSERT_TRUE(first->app->election().wait_for_leadership(kSoon));
    second.emplace(servers, folder.path(), "node-2", options, patience);
    second->run();
    db.emplace(first->database().open());
    commit("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    const auto position = first->database().sync(kSoon);
    // Its database is there once its session is.
    ASSERT_TRUE(eventually([&] {
      return thrown([&] { second->database().wait_for(position, kSoon); }) == std::nullopt;
    }));
  }
  void insert(int count = 1) {
    for (int i = 0; i < count; ++i) commit("INSERT INTO t(v) VALUES(randomblob(100))");
  }
  /// A commit is rolled back when its node stands still and does not greet in time: then again.
  void commit(const std::string& sql) {
    for (int tries = 1;; ++tries) {
      try {
        return db->exec(sql);
      } catch (const Error& error) {
        const bool unanswered =
            error.errc() == Errc::not_leader &&
            std::string(error.what()).find("the node does not answer") != std::string::npos;
        if (!unanswered || tries == 20) throw;
      }
    }
  }
  /// What blocks for a second at most, again when the node stood still for so long.
  template <typename Ask>
  static auto ask(Ask question) {
    for (int tries = 1;; ++tries) {
      try {
        return question();
      } catch (const Error& error) {
        if (error.errc() != Errc::timeout || tries == 20) throw;
      }
    }
  }
  static DatabasePosition position_of(const DatabaseNode& node) {
    return ask([&] { return node.database().position(); });
  }
  static DatabaseLag lag_of(const DatabaseNode& node) {
    return ask([&] { return node.database().lag(); });
  }
  /// NATS answers nobody, and no connection is lost.
  void freeze() { testing::freeze(servers[0].pid()); }
  void thaw() { testing::thaw(servers[0].pid()); }
  void TearDown() override {
    thaw();
    db.reset();
  }

  testing::TemporaryFolder folder;
  testing::NatsServers servers;
  Loop loop;
  /// The lead is to last, also when the machine stands still for a second or two.
  std::chrono::milliseconds patience = testing::patience() + 1500ms;
  std::optional<DatabaseNode> first, second;
  std::optional<DatabaseConnection> db;
};

/// A NATS server that is stopped for a while ends no session.
class DatabaseWithoutNats : public DatabaseApi {
 protected:
  DatabaseWithoutNats() { patience = std::min(5s * slowness(), 12s); }

  /// The code of what `call` throws while NATS answers nobody, again when the connection to it was
  /// given up meanwhile.
  std::optional<Errc> thrown_without_nats(const std::function<void()>& call) {
    for (int tries = 1;; ++tries) {
      freeze();
      const auto error = thrown(call);
      if (error != Errc::unavailable || tries == 5) return error;
      thaw();
      EXPECT_TRUE(eventually([&] { return !thrown([&] { second->snapshots().list(kSoon); }); }));
    }
  }
};

TEST_F(DatabaseApi, OnlyTheNodeThatLeadsGivesConnectionsThatWrite) {
  start();
  insert();
  EXPECT_EQ(thrown([&] { second->database().open(); }), Errc::not_leader);
  EXPECT_EQ(thrown([&] { second->database().sync(kSoon); }), Errc::not_leader);
  second->database().wait_for(first->database().sync(kSoon), kSoon);
  auto reader = second->database().open_reader();
  EXPECT_EQ(rows(reader), 1);
  EXPECT_TRUE(thrown([&] { reader.exec("INSERT INTO t(v) VALUES(1)"); }));
  EXPECT_EQ(first->database().path(), first->path);
}

TEST_F(DatabaseApi, TheNextLeaderWritesAndTheLastOneNoMore) {
  start({.commit = Commit::replicated, .commit_timeout = kSoon});
  insert();
  first->app->election().step_down("node-2");
  ASSERT_TRUE(second->app->election().wait_for_leadership(kSoon));
  EXPECT_EQ(thrown([&] { insert(); }), Errc::not_leader) << "by a connection that was open";
  EXPECT_EQ(thrown([&] { first->database().open(); }), Errc::not_leader);
  auto writer = second->database().open();
  db.emplace(std::move(writer));
  commit("INSERT INTO t(v) VALUES(1)");
  EXPECT_EQ(rows(*db), 2) << "what was refused is nowhere";
}

TEST_F(DatabaseApi, AReplicaHasAFileOfItsOwnUntilItsNodeLeads) {
  Sqlite options;
  options.replica = folder / "replica.db";
  DatabaseNode node(servers, folder.path(), "node-1", options);
  EXPECT_EQ(node.database().path(), options.replica);
  EXPECT_EQ(thrown([&] { node.database().open_reader(); }), Errc::not_found) << "no copy yet";
  node.run();
  ASSERT_TRUE(node.app->election().wait_for_leadership(kSoon));
  EXPECT_EQ(node.database().path(), node.path);
}

TEST_F(DatabaseApi, WhatWasWrittenIsReadOnAStandbyOnceItHasComeToThatPosition) {
  start();
  auto reader = second->database().open_reader();
  for (int i = 1; i <= 30; ++i) {
    insert();
    const DatabasePosition position = first->database().sync(kSoon);
    second->database().wait_for(position, kSoon);
    ASSERT_EQ(rows(reader), i);
    ASSERT_GE(position_of(*second).txid, position.txid);
  }
  DatabasePosition never = position_of(*first);
  never.sequence = 0;
  ++never.txid;
  EXPECT_EQ(thrown([&] { second->database().wait_for(never, kShort); }), Errc::timeout);
}

TEST_F(DatabaseApi, ACommitThatWaitsReturnsOnceJetStreamHasIt) {
  start({.commit = Commit::replicated, .commit_timeout = kSoon});
  nats::Connection client(loop, servers.options());
  ASSERT_TRUE(testing::connect(client));
  nats::JetStream js(client, kSoon);
  for (int i = 0; i < 20; ++i) {
    insert();
    const DatabasePosition position = position_of(*first);
    EXPECT_EQ(lag_of(*first).transactions, 0U);
    const auto stream = nats::await<nats::StreamState>(
        loop, kSoon, [&](auto done) { js.stream("test_db_wal", done); });
    ASSERT_TRUE(stream);
    EXPECT_EQ(stream.value().last_seq, position.sequence);
  }
}

TEST_F(DatabaseWithoutNats, ACommitThatIsNotAcknowledgedInTimeFailsAndIsInTheLeadersFileAlone) {
  start({.commit = Commit::replicated, .commit_timeout = kSoon});
  insert();
  second->database().wait_for(first->database().sync(kSoon), kSoon);
  const auto before = rows(*db);
  db->exec("SELECT cluster_commit_timeout(300)");
  freeze();
  EXPECT_EQ(thrown([&] { insert(); }), Errc::timeout);
  EXPECT_EQ(rows(first->database().open_reader()), before + 1) << "it is not taken back";
  EXPECT_EQ(rows(second->database().open_reader()), before);
  EXPECT_GE(lag_of(*first).transactions, 1U);
  thaw();
  second->database().wait_for(first->database().sync(kSoon), kSoon);
  EXPECT_EQ(rows(second->database().open_reader()), before + 1) << "it was sent all the same";
}

TEST_F(DatabaseWithoutNats, TheLagIsWhatJetStreamHasNotAcknowledged) {
  start();
  insert();
  first->database().sync(kSoon);
  EXPECT_EQ(lag_of(*first).transactions, 0U);
  freeze();
  insert(10);
  EXPECT_TRUE(eventually([&] { return lag_of(*first).transactions > 0; }));
  EXPECT_GT(lag_of(*first).bytes, 0U);
  EXPECT_EQ(thrown([&] { first->database().sync(kShort); }), Errc::timeout);
  thaw();
  second->database().wait_for(first->database().sync(kSoon), kSoon);
  EXPECT_EQ(lag_of(*first).transactions, 0U);
  EXPECT_EQ(lag_of(*first).bytes, 0U);
  EXPECT_EQ(lag_of(*second).transactions, 0U);
  EXPECT_EQ(rows(second->database().open_reader()), 11);
}

TEST_F(DatabaseApi, BeforeAndAfterItsPlatformRunsNothingBlocks) {
  DatabaseNode node(servers, folder.path(), "node-1");
  EXPECT_EQ(thrown([&] { node.database().position(); }), Errc::invalid_argument);
  EXPECT_EQ(thrown([&] { node.snapshots().list(); }), Errc::invalid_argument);
  node.run();
  ASSERT_TRUE(node.app->election().wait_for_leadership(kSoon));
  node.snapshots().list();
  node.stop();
  const auto begin = BootClock::now();
  EXPECT_EQ(thrown([&] { node.database().position(); }), Errc::shutting_down);
  EXPECT_EQ(thrown([&] { node.database().sync(kSoon); }), Errc::shutting_down);
  EXPECT_EQ(thrown([&] { node.snapshots().list(kSoon); }), Errc::shutting_down);
  EXPECT_EQ(thrown([&] { node.snapshots().create(kSoon); }), Errc::shutting_down);
  EXPECT_LT(BootClock::now() - begin, kSoon);
}

TEST_F(DatabaseApi, AnAppWithoutADatabaseHasNeither) {
  testing::Node node(servers, folder.path());
  App& app = node.platform->add_app({.name = "plain"});
  EXPECT_EQ(thrown([&] { app.database(); }), Errc::invalid_argument);
  EXPECT_EQ(thrown([&] { app.snapshots(); }), Errc::invalid_argument);
}

// ---- snapshots

TEST_F(DatabaseApi, AnyNodeHasASnapshotTakenAndRestoresIt) {
  start();
  insert(10);
  const auto position = first->database().sync(kSoon);
  const DatabaseSnapshot taken = second->snapshots().create(kSoon);
  EXPECT_EQ(taken.txid, position.txid);
  EXPECT_EQ(taken.epoch, 1U);
  EXPECT_GT(taken.bytes, 0U);
  EXPECT_EQ(first->snapshots().create(kSoon).object, taken.object) << "nothing has changed";
  for (auto* node : {&*first, &*second}) {
    const auto all = node->snapshots().list();
    ASSERT_FALSE(all.empty());
    EXPECT_EQ(all.back().object, taken.object);
    EXPECT_EQ(all.back().txid, taken.txid);
    EXPECT_EQ(all.back().time, taken.time);
  }
  insert(5);
  const auto later = first->database().sync(kSoon);

  std::set<RestoreProgress::Phase> phases;
  const auto newest = second->snapshots().restore({
      .to = folder / "newest.db",
      .progress =
          [&](const RestoreProgress& p) {
            phases.insert(p.phase);
            EXPECT_LE(p.done, p.of);
          },
  });
  EXPECT_EQ(newest.txid, later.txid);
  EXPECT_EQ(newest.bytes, std::filesystem::file_size(folder / "newest.db"));
  EXPECT_TRUE(newest.passed_over.empty());
  EXPECT_EQ(phases.size(), 3U) << "files, stream, check";
  EXPECT_EQ(
      Handle(folder / "newest.db", Handle::Access::read_only).number("SELECT count(*) FROM t"), 15);
  const auto earlier = first->snapshots().restore({.to = folder / "at.db", .txid = taken.txid});
  EXPECT_EQ(earlier.txid, taken.txid);
  EXPECT_EQ(earlier.time, taken.time);
  EXPECT_EQ(Handle(folder / "at.db", Handle::Access::read_only).number("SELECT count(*) FROM t"),
            10);
}

TEST_F(DatabaseApi, WhatIsInTheWayOrNotKeptIsNotRestored) {
  start();
  insert();
  first->database().sync(kSoon);
  Snapshots& snapshots = second->snapshots();
  snapshots.create(kSoon);
  snapshots.restore({.to = folder / "r.db"});
  insert();
  first->database().sync(kSoon);
  EXPECT_EQ(thrown([&] { snapshots.restore({.to = ""}); }), Errc::invalid_argument);
  EXPECT_EQ(thrown([&] { snapshots.restore({.to = folder / "r.db"}); }), Errc::invalid_argument);
  EXPECT_EQ(Handle(folder / "r.db", Handle::Access::read_only).number("SELECT count(*) FROM t"), 1);
  snapshots.restore({.to = folder / "r.db", .force = true});
  EXPECT_EQ(Handle(folder / "r.db", Handle::Access::read_only).number("SELECT count(*) FROM t"), 2);
  for (const auto& node : {&*first, &*second})
    EXPECT_EQ(thrown([&] { snapshots.restore({.to = node->path, .force = true}); }),
              Errc::lock_held)
        << "a node uses it";
  EXPECT_EQ(thrown([&] {
              snapshots.restore(
                  {.to = folder / "old.db", .time = std::chrono::system_clock::time_point(1s)});
            }),
            Errc::not_found);
  EXPECT_FALSE(std::filesystem::exists(folder / "old.db"));
}

TEST_F(DatabaseApi, TheNewestSnapshotIsRemovedOnDemandOnly) {
  start();
  insert();
  first->database().sync(kSoon);
  const auto one = first->snapshots().create(kSoon);
  insert();
  first->database().sync(kSoon);
  const auto two = first->snapshots().create(kSoon);
  Snapshots& snapshots = second->snapshots();
  EXPECT_EQ(thrown([&] { snapshots.remove(two.txid); }), Errc::invalid_argument);
  snapshots.remove(one.txid);
  EXPECT_EQ(thrown([&] { snapshots.remove(one.txid); }), Errc::not_found);
  ASSERT_FALSE(snapshots.list().empty());
  EXPECT_EQ(snapshots.list().back().txid, two.txid);
  snapshots.remove(two.txid, true);
  for (const auto& left : snapshots.list()) EXPECT_LT(left.txid, one.txid);
}

// The program runs in a folder of its own, and this process changes its folder.
TEST_F(DatabaseApi, ARelativePathIsThatOfTheFolderInWhichTheAppWasAdded) {
  namespace fs = std::filesystem;
  const fs::path here = folder / "here", there = folder / "there";
  fs::create_directories(here / "data");
  fs::create_directories(there);
  const fs::path before = fs::current_path();
  fs::current_path(here);
  testing::Node node(servers, folder.path());
  App& app = node.platform->add_app(
      {.name = "db",
       .sqlite = {.path = "data/../data/app.db"},
       .backend =
           Process{.command = {"/bin/sh", "-c",
                               "printf %s \"$CPP_CLUSTER_DATABASE\" > told; exec sleep 1000"},
                   .folder = there}});
  fs::current_path(there);
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  const std::string wanted = here / "data/app.db";
  EXPECT_EQ(app.database().path(), wanted);
  {
    app.database().open().exec("CREATE TABLE t(v)");
  }
  EXPECT_TRUE(fs::exists(wanted));
  const auto told = [&] {
    std::string text;
    std::getline(std::ifstream(there / "told"), text);
    return text;
  };
  EXPECT_TRUE(eventually([&] { return told() == wanted; })) << told();
  node.stop();
  fs::current_path(before);
}

/// A node whose database's folder is not there yet.
class DatabaseFolder : public DatabaseApi {
 protected:
  /// `told`: what its program was told.
  App& add(testing::Node& node, const Sqlite& sqlite, const std::string& user = "") {
    return node.platform->add_app(
        {.name = "db",
         .sqlite = sqlite,
         .backend = Process{.command = {"/bin/sh", "-c",
                                        "cd /; printf %s \"$CPP_CLUSTER_COMMIT_FOLDER\" > "
                                        "\"$CPP_CLUSTER_DATABASE.told\"; exec sleep 1000"},
                            .user = user}});
  }
  static std::string first_line(const std::string& file) {
    std::string text;
    std::getline(std::ifstream(file), text);
    return text;
  }
};

TEST_F(DatabaseFolder, IsMadeAndItsProgramIsToldWhereTheSocketIs) {
  testing::Node node(servers, folder.path());
  App& app = add(node, {.path = folder / "a/b/app.db", .replica = folder / "c/replica.db"});
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  struct stat found{};
  for (const std::string name : {"a", "a/b", "c"}) {
    ASSERT_EQ(::stat((folder / name).c_str(), &found), 0) << name;
    EXPECT_EQ(found.st_mode & 07777U, 0750U) << name;
    EXPECT_EQ(found.st_uid, ::geteuid());
  }
  app.database().open().exec("CREATE TABLE t(v)");
  std::string told;
  ASSERT_TRUE(eventually([&] { return !(told = first_line(folder / "a/b/app.db.told")).empty(); }));
  EXPECT_TRUE(
      std::filesystem::is_socket(told + "/" + sqlite::commit_socket_name(folder / "a/b/app.db")))
      << told;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "a/b"))
    EXPECT_TRUE(entry.is_regular_file()) << entry.path();
}

TEST_F(DatabaseFolder, BelongsToTheUserAsWhomTheProgramRuns) {
  const passwd* nobody = ::getpwnam("nobody");
  if (::geteuid() != 0 || nobody == nullptr) GTEST_SKIP() << "needs root and a user called nobody";
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  testing::Node node(servers, folder.path());
  App& app = add(node, {.path = folder / "a/b/app.db"}, "nobody");
  node.run();
  ASSERT_TRUE(app.election().wait_for_leadership(kSoon));
  struct stat found{};
  for (const std::string name : {"a", "a/b"}) {
    ASSERT_EQ(::stat((folder / name).c_str(), &found), 0) << name;
    EXPECT_EQ(found.st_uid, nobody->pw_uid) << name;
    EXPECT_EQ(found.st_gid, nobody->pw_gid) << name;
    EXPECT_EQ(found.st_mode & 07777U, 0750U) << name;
  }
  EXPECT_TRUE(eventually([&] { return !first_line(folder / "a/b/app.db.told").empty(); }))
      << "its program can write there";
}

TEST_F(DatabaseFolder, ThatCantBeMadeIsSaidAndIsMadeOnceItCanBe) {
  std::ofstream(folder / "a") << "a file";
  testing::Node node(servers, folder.path());
  App& app = add(node, {.path = folder / "a/b/app.db"});
  node.run();
  const std::string why = "the database's folder " + (folder / "a/b") +
                          " is not there and can't be made: Not a directory";
  EXPECT_TRUE(eventually([&] {
    return testing::status_of(*node.platform).find(why) != std::string::npos;
  })) << testing::status_of(*node.platform);
  EXPECT_FALSE(app.election().is_leader());
  std::filesystem::remove(folder / "a");
  EXPECT_TRUE(app.election().wait_for_leadership(kSoon));
}

TEST_F(DatabaseWithoutNats, CallsThatWaitForNatsEndWithTheirTimeOrWithThePlatform) {
  start();
  insert();
  first->snapshots().create(kSoon);
  Snapshots& snapshots = second->snapshots();
  EXPECT_EQ(thrown_without_nats([&] { snapshots.list(kShort); }), Errc::timeout);
  EXPECT_EQ(thrown_without_nats([&] { snapshots.create(kShort); }), Errc::timeout);
  EXPECT_EQ(
      thrown_without_nats([&] { snapshots.restore({.to = folder / "r.db", .timeout = kShort}); }),
      Errc::timeout);
  // Again and again, for NATS is given up sooner than the platform may take to stop.
  const auto last_error = [](const std::function<void()>& call) {
    const Time end = BootClock::now() + kSoon * slowness();
    std::optional<Errc> error;
    do error = thrown(call);
    while (error == Errc::unavailable && BootClock::now() < end);
    return error;
  };
  auto listing =
      std::async(std::launch::async, [&] { return last_error([&] { snapshots.list(kSoon); }); });
  auto restoring = std::async(std::launch::async, [&] {
    return last_error([&] { snapshots.restore({.to = folder / "r.db", .timeout = kSoon}); });
  });
  second->platform->stop();
  EXPECT_EQ(listing.get(), Errc::shutting_down);
  EXPECT_EQ(restoring.get(), Errc::shutting_down);
  thaw();
  second->stop();
  EXPECT_FALSE(std::filesystem::exists(folder / "r.db"));
}

}  // namespace
}  // namespace cluster
