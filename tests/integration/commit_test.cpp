// Commits that return once JetStream has acknowledged them: the socket of a leader's database, the
// hooks of connections, the extension in programs of others.
#include "sqlite/commit_hook.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>

#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "built.h"
#include "integration/snapshot_fixture.h"
#include "shell.h"
#include "sqlite/commit_client.h"
#include "sqlite/commit_place.h"
#include "sqlite/commit_protocol.h"
#include "sqlite/commit_service.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;
using testing::kSoon;

class CommitTest : public SnapshotFixture {
 protected:
  void SetUp() override {
    SnapshotFixture::SetUp();
    ::setenv(kCommitFolderVariable, path("run").c_str(), 1);
    db = create("p.db");
    lead = std::make_unique<Lead>(*this, "p.db", 1);
  }
  void TearDown() override {
    ::unsetenv(kCommitFolderVariable);
    testing::thaw(servers[0].pid());
  }

  /// The socket is there, or is in trouble, when this returns.
  std::unique_ptr<CommitService> serve(const std::string& name = "p.db") {
    bool opened = false;
    auto service = std::make_unique<CommitService>(
        loop, files, CommitService::Options{path(name), 1, milliseconds(20)},
        [this](Duration limit, Callback<CommitService::Stored> done) {
          lead->primary->sync(limit, [done = std::move(done)](const Result<Txid>& txid) {
            if (!txid) return done(txid.error());
            done(CommitService::Stored{1, txid.value(), 0});
          });
        },
        [&opened] { opened = true; });
    EXPECT_TRUE(loop.run_until([&] { return opened; }, kSoon));
    return service;
  }
  void wait(Handle& handle, milliseconds limit = kSoon) {
    std::string why;
    ASSERT_EQ(install_commit_hook(handle.get(), limit, why), SQLITE_OK) << why;
  }
  /// Commits a row, on any thread but the loop's. A loop that stands still for longer than the
  /// greeting may take has the commit rolled back: then it is tried again.
  static int commit_row(Handle& handle) {
    for (int tries = 1;; ++tries) {
      const int result =
          sqlite3_exec(handle.get(), "INSERT INTO t(v) VALUES('row')", nullptr, nullptr, nullptr);
      if (tries == kTries || result != SQLITE_CONSTRAINT_COMMITHOOK || !unanswered(handle))
        return result;
    }
  }
  int insert(Handle& handle) {
    return blocking([&] { return commit_row(handle); });
  }
  static std::string commit_error(Handle& handle) {
    return handle.text("SELECT cluster_commit_error()");
  }
  /// The node's loop stood still: not even the reason for a failure came from it.
  static bool unanswered(Handle& handle) {
    return commit_error(handle).find("the node does not answer") != std::string::npos;
  }
  static constexpr int kTries = 20;
  std::int64_t count() { return db.number("SELECT count(*) FROM t"); }
  std::string socket_name() const { return commit_socket_name(path("p.db")); }
  std::string socket() const { return path("run/") + socket_name(); }
  /// What is in the folder of sockets.
  std::set<std::string> sockets() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path("run")))
      names.insert(entry.path().filename());
    return names;
  }
  bool eventually(const std::function<bool()>& condition) {
    return loop.run_until(condition, kSoon);
  }

  std::shared_ptr<Strand> files = pool.strand();
  Handle db;
  std::unique_ptr<Lead> lead;
};

TEST_F(CommitTest, ReturnsOnceJetStreamHasIt) {
  const auto service = serve();
  wait(db);
  for (int i = 1; i <= 20; ++i) {
    ASSERT_EQ(insert(db), SQLITE_OK) << commit_error(db);
    const auto at = lead->primary->status();
    EXPECT_EQ(at.stored, at.committed);
    EXPECT_EQ(stream().last, static_cast<std::uint64_t>(i + 2)) << "behind the fence and table";
  }
  EXPECT_EQ(commit_error(db), "");
  EXPECT_EQ(db.text("SELECT cluster_position()"),
            "{\"epoch\":1,\"txid\":" + std::to_string(lead->primary->status().stored) +
                ",\"sequence\":0}");
}

TEST_F(CommitTest, ManyCommittersShareRoundTrips) {
  const auto service = serve();
  constexpr int kCommitters = 16;
  const auto before = stream().last;
  testing::freeze(servers[0].pid());
  std::atomic<int> acknowledged{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kCommitters; ++i)
    threads.emplace_back([&] {
      Handle own(path("p.db"), Handle::Access::read_write);
      sqlite3_busy_timeout(own.get(), 60'000);
      std::string why;
      if (install_commit_hook(own.get(), kSoon, why) == SQLITE_OK && commit_row(own) == SQLITE_OK)
        ++acknowledged;
    });
  EXPECT_TRUE(loop.run_until([&] { return service->waiting() == kCommitters; }, kSoon));
  EXPECT_EQ(acknowledged, 0);
  testing::thaw(servers[0].pid());
  blocking([&] {
    for (auto& thread : threads) thread.join();
    return true;
  });
  EXPECT_EQ(acknowledged, kCommitters);
  EXPECT_EQ(count(), kCommitters);
  // The first goes at once, all that came meanwhile together.
  EXPECT_LE(stream().last - before, 3U);
}

TEST_F(CommitTest, FailsButStandsWhenJetStreamDoesNotAnswerInTime) {
  const auto service = serve();
  wait(db, milliseconds(300));
  testing::freeze(servers[0].pid());
  int committed = 0;
  do {
    EXPECT_EQ(insert(db), kNotAcknowledged);
    ++committed;
    EXPECT_NE(commit_error(db).find("committed here, but not acknowledged by JetStream: "),
              std::string::npos)
        << commit_error(db);
  } while (unanswered(db) && committed < kTries);
  EXPECT_NE(commit_error(db).find("within 300 ms"), std::string::npos) << commit_error(db);
  EXPECT_EQ(count(), committed);
  // It is sent on, and the connection can be used.
  testing::thaw(servers[0].pid());
  db.exec("SELECT cluster_commit_timeout(30000)");
  ASSERT_EQ(insert(db), SQLITE_OK) << commit_error(db);
  EXPECT_EQ(commit_error(db), "");
  EXPECT_EQ(lead->primary->status().stored, lead->primary->status().committed);
}

TEST_F(CommitTest, IsRolledBackWhereNobodyServes) {
  wait(db);
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
  EXPECT_NE(commit_error(db).find("rolled back: this node does not lead"), std::string::npos);
  EXPECT_EQ(count(), 0);
  {
    const auto service = serve();
    EXPECT_EQ(insert(db), SQLITE_OK) << commit_error(db);
  }
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
  EXPECT_EQ(count(), 1);
  EXPECT_TRUE(eventually([&] { return sockets().empty(); }));
}

TEST_F(CommitTest, IsRolledBackOnceTheNodeRefuses) {
  const auto service = serve();
  wait(db);
  ASSERT_EQ(insert(db), SQLITE_OK);
  service->refuse("this node stops leading");
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
  EXPECT_TRUE(eventually([&] { return sockets().empty(); }));
  EXPECT_EQ(count(), 1);
  EXPECT_EQ(service->clients(), 0U);
}

TEST_F(CommitTest, IsAnsweredWhenTheNodeRefusesMeanwhile) {
  const auto service = serve();
  wait(db);
  testing::freeze(servers[0].pid());
  auto result = std::async(std::launch::async, [&] { return commit_row(db); });
  ASSERT_TRUE(loop.run_until([&] { return lead->primary->status().committed == 2; }, kSoon));
  ASSERT_TRUE(loop.run_until([&] { return service->waiting() == 1; }, kSoon));
  service->refuse("this node stops leading");
  testing::thaw(servers[0].pid());
  EXPECT_TRUE(blocking([&] { return result.get() == SQLITE_OK; })) << commit_error(db);
}

TEST_F(CommitTest, FailsButStandsWhenTheNodeGoesAwayMeanwhile) {
  auto service = serve();
  wait(db);
  testing::freeze(servers[0].pid());
  auto result = std::async(std::launch::async, [&] { return commit_row(db); });
  ASSERT_TRUE(loop.run_until([&] { return service->waiting() == 1; }, kSoon));
  service.reset();
  EXPECT_EQ(blocking([&] { return result.get(); }), kNotAcknowledged);
  EXPECT_NE(commit_error(db).find("closed the connection"), std::string::npos) << commit_error(db);
  EXPECT_EQ(count(), 1);
}

TEST_F(CommitTest, OfOtherDatabasesDoesNotWait) {
  wait(db);
  const std::string other = "ATTACH '" + path("other.db") + "' AS other";
  db.exec("CREATE TEMP TABLE x(v); INSERT INTO x VALUES(1); " + other +
          "; CREATE TABLE other.t2(v); INSERT INTO other.t2 VALUES(1)");
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
}

TEST_F(CommitTest, StillWaitsWhenAutomaticCheckpointsAreAskedFor) {
  const auto service = serve();
  wait(db, milliseconds(300));
  db.exec("PRAGMA wal_autocheckpoint=1000");
  testing::freeze(servers[0].pid());
  EXPECT_EQ(insert(db), kNotAcknowledged);
}

TEST_F(CommitTest, IsRefusedWhenTheFileIsAnotherOne) {
  const auto service = serve();
  wait(db);
  ASSERT_EQ(insert(db), SQLITE_OK);
  create("new.db").close();
  // Within one process SQLite would cut off a wal-index that other connections have mapped.
  std::filesystem::remove(path("p.db-shm"));
  std::filesystem::rename(path("new.db"), path("p.db"));
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
  EXPECT_NE(commit_error(db).find("replaced"), std::string::npos) << commit_error(db);
}

TEST_F(CommitTest, NeedsADatabaseInAFile) {
  Handle memory(":memory:", Handle::Access::create);
  std::string why;
  EXPECT_EQ(install_commit_hook(memory.get(), kSoon, why), SQLITE_ERROR);
  EXPECT_NE(why.find("no file"), std::string::npos);
}

// ---- the socket

// Programs that copy the folder fail at a socket.
TEST_F(CommitTest, NothingButFilesIsBesideTheDatabase) {
  std::filesystem::create_directory(path("data"));
  Handle other = create("data/o.db");
  const auto service = serve("data/o.db");
  EXPECT_EQ(service->trouble(), "");
  for (const auto& entry : std::filesystem::directory_iterator(path("data")))
    EXPECT_TRUE(entry.is_regular_file()) << entry.path();
  EXPECT_NO_THROW(std::filesystem::copy(path("data"), path("copy")));
}

TEST_F(CommitTest, TheSocketTakesThePlaceOfADeadProcesssAndLetsInWhoMayWrite) {
  std::filesystem::create_directory(path("run"));
  std::ofstream(socket()) << "left behind";
  ::chmod(path("p.db").c_str(), 0660);
  const auto service = serve();
  EXPECT_EQ(service->trouble(), "");
  const auto mode = [&] {
    struct stat file{};
    EXPECT_EQ(::lstat(socket().c_str(), &file), 0);
    EXPECT_TRUE(S_ISSOCK(file.st_mode));
    return file.st_mode & 0777U;
  };
  EXPECT_EQ(mode(), 0660U);
  ::chmod(path("p.db").c_str(), 0600);
  EXPECT_TRUE(eventually([&] { return mode() == 0600; }));
}

TEST_F(CommitTest, TheSocketIsNotTakenFromALivingProcess) {
  auto first = serve();
  const auto second = serve();
  EXPECT_NE(second->trouble().find("another process"), std::string::npos) << second->trouble();
  first.reset();
  EXPECT_TRUE(eventually([&] { return second->trouble().empty(); }));
  wait(db);
  EXPECT_EQ(insert(db), SQLITE_OK) << commit_error(db);
}

TEST_F(CommitTest, WhatDeadNodesLeftGoesAndWhatLivingOnesHaveStays) {
  auto living = serve();
  std::ofstream(path("run/1-2-3.lock"));
  std::ofstream(path("run/1-2-3.sock"));
  std::ofstream(path("run/of somebody else"));
  create("o.db").close();
  const auto service = serve("o.db");
  EXPECT_EQ(service->trouble(), "");
  const auto names = sockets();
  EXPECT_EQ(names.count("1-2-3.lock") + names.count("1-2-3.sock"), 0U);
  EXPECT_EQ(names.count("of somebody else"), 1U);
  EXPECT_EQ(names.count(socket_name()), 1U);
  EXPECT_EQ(names.size(), 5U) << "two sockets with their locks, and what is not ours";
}

TEST_F(CommitTest, ASocketThatIsRemovedIsMadeAgain) {
  const auto service = serve();
  std::filesystem::remove_all(path("run"));
  wait(db);
  EXPECT_TRUE(eventually([&] { return there("run/" + socket_name()); }));
  EXPECT_TRUE(eventually([&] { return !service->socket().empty(); }));
  EXPECT_EQ(insert(db), SQLITE_OK) << commit_error(db);
}

// Also before there is a database, and when another file takes its place.
TEST_F(CommitTest, TheSocketIsFoundByEveryPathOfTheDatabase) {
  std::filesystem::create_directories(path("data"));
  std::filesystem::create_directory_symlink(path("data"), path("link"));
  std::filesystem::create_symlink(path("data/new.db"), path("data/other name.db"));
  const auto service = serve("data/new.db");
  EXPECT_EQ(service->trouble(), "");
  const auto connects = [&](const std::string& database) {
    return blocking([&] {
      std::string why;
      return CommitClient(database).ready(CommitClient::Clock::now() + kSoon, why) ? "" : why;
    });
  };
  EXPECT_EQ(connects(path("data/new.db")), "");
  create("data/new.db").close();
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(path("link"));
  EXPECT_EQ(connects("new.db"), "");
  std::filesystem::current_path(here);
  EXPECT_EQ(connects(path("link/new.db")), "");
  EXPECT_EQ(connects(path("data/other name.db")), "");
  create("another.db").close();
  std::filesystem::rename(path("another.db"), path("data/new.db"));
  EXPECT_EQ(connects(path("data/new.db")), "");
  EXPECT_NE(connects(path("data/no.db")), "");
}

TEST_F(CommitTest, TheSocketMayHaveALongPath) {
  const std::string folder = std::string(100, 'f') + "/" + std::string(100, 'g');
  std::filesystem::create_directories(path(folder));
  ::setenv(kCommitFolderVariable, path(folder).c_str(), 1);
  const std::string name = folder + "/" + std::string(200, 'n');
  Handle far = create(name);
  const auto service = serve(name);
  EXPECT_EQ(service->trouble(), "");
  wait(far);
  EXPECT_EQ(insert(far), SQLITE_OK) << commit_error(far);
}

TEST_F(CommitTest, AFolderThatCantBeUsedIsATroubleUntilItCan) {
  std::ofstream(path("file"));
  ::setenv(kCommitFolderVariable, path("file/run").c_str(), 1);
  const auto service = serve();
  EXPECT_NE(service->trouble().find(path("file/run") + ": Not a directory"), std::string::npos)
      << service->trouble();
  EXPECT_NE(service->trouble().find(kCommitFolderVariable), std::string::npos);
  ::setenv(kCommitFolderVariable, path("run").c_str(), 1);
  EXPECT_TRUE(eventually([&] { return service->trouble().empty(); }));
}

TEST_F(CommitTest, AFolderIsNamedByAnAbsolutePath) {
  ::setenv(kCommitFolderVariable, "run", 1);
  EXPECT_NE(serve()->trouble().find("is no absolute path"), std::string::npos);
  std::string why;
  EXPECT_EQ(install_commit_hook(db.get(), kSoon, why), SQLITE_ERROR);
  EXPECT_NE(why.find("is no absolute path"), std::string::npos);
}

TEST_F(CommitTest, NoFolderIsUsedThatEverybodyMayWriteTo) {
  std::filesystem::create_directory(path("run"));
  ::chmod(path("run").c_str(), 0777);
  EXPECT_NE(serve()->trouble().find("everybody may write there"), std::string::npos);
}

// ---- where nobody names a folder

/// Runs `work` as a user that nobody else is, with no environment; says what it returns or throws.
std::string as_another_user(uid_t user, const std::function<std::string()>& work) {
  int ends[2] = {};
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::clearenv();
    std::string text;
    try {
      text = ::setgid(user) == 0 && ::setuid(user) == 0 ? work() : "no other user";
    } catch (const std::exception& error) {
      text = error.what();
    }
    [[maybe_unused]] const auto n = ::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::array<char, 4096> bytes{};
  const auto got = ::read(ends[0], bytes.data(), bytes.size());
  ::close(ends[0]);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  return {bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
}

/// A database of a user of its own, whose folder below /tmp is gone at the end.
class CommitPlaceTest : public SqliteTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    create("u.db").close();
    for (const std::string& name : {std::string(), std::string("u.db")})
      ASSERT_EQ(::chown(path(name).c_str(), user, user), 0);
    ::chmod(path("").c_str(), 0755);
  }
  void TearDown() override { std::filesystem::remove_all(in_tmp); }

  std::string database() const { return path("u.db"); }
  std::string folder_of_node() const {
    return as_another_user(user, [this] { return CommitSocket(database()).folder(); });
  }
  std::string connect_as(uid_t who) const {
    return as_another_user(who, [this] {
      std::string why;
      return CommitClient(database()).ready(CommitClient::Clock::now() + milliseconds(1), why)
                 ? "connected"
                 : why;
    });
  }

  const uid_t user = 2'000'000'000U + static_cast<uid_t>(::getpid());
  const std::string in_tmp = "/tmp/cpp-cluster-" + std::to_string(user);
};

TEST_F(CommitPlaceTest, ANodeThatIsNotRootHasAFolderOfItsOwn) {
  EXPECT_EQ(folder_of_node(), in_tmp);
  EXPECT_EQ(folder_of_node(), in_tmp) << "that is there by now";
  struct stat found{};
  ASSERT_EQ(::lstat(in_tmp.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777U, 0755U);
  EXPECT_TRUE(std::filesystem::is_empty(in_tmp));
  const std::string runtime = path("runtime");
  std::filesystem::create_directory(runtime);
  const auto with_runtime = [&] {
    return as_another_user(user, [&] {
      ::setenv("XDG_RUNTIME_DIR", runtime.c_str(), 1);
      return CommitSocket(database()).folder();
    });
  };
  EXPECT_EQ(with_runtime(), in_tmp) << "that of another user";
  ASSERT_EQ(::chown(runtime.c_str(), user, user), 0);
  EXPECT_EQ(with_runtime(), runtime + "/cpp-cluster");
}

TEST_F(CommitPlaceTest, AFolderThatAnotherUserHasPutThereIsNotUsed) {
  ::mkdir(in_tmp.c_str(), 0755);
  EXPECT_NE(folder_of_node().find("must belong to the user of this node"), std::string::npos)
      << folder_of_node();
  ASSERT_EQ(::chown(in_tmp.c_str(), user, user), 0);
  ::chmod(in_tmp.c_str(), 0775);
  EXPECT_NE(folder_of_node().find("nobody else may write there"), std::string::npos);
  std::filesystem::remove(in_tmp);
  std::filesystem::create_directory(path("target"));
  ASSERT_EQ(::chown(path("target").c_str(), user, user), 0);
  std::filesystem::create_directory_symlink(path("target"), in_tmp);
  EXPECT_NE(folder_of_node().find("no folder for the socket"), std::string::npos)
      << folder_of_node();
  EXPECT_TRUE(std::filesystem::is_empty(path("target")));
}

TEST_F(CommitPlaceTest, ProgramsBelieveRootTheDatabasesOwnerAndThemselvesAlone) {
  ::mkdir(in_tmp.c_str(), 0755);
  commit_protocol::SocketAddress at;
  ASSERT_TRUE(commit_protocol::make_address(in_tmp + "/" + commit_socket_name(database()), at));
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  ::chmod(at.address.sun_path, 0666);
  // It does not greet.
  const std::string connected = "the node does not answer";
  ASSERT_EQ(::chown(in_tmp.c_str(), user, user), 0);
  EXPECT_EQ(connect_as(user), connected);
  EXPECT_EQ(connect_as(0), connected) << "as the database's owner";
  EXPECT_EQ(connect_as(user + 1'000'000), connected) << "the same";
  ASSERT_EQ(::chown(in_tmp.c_str(), user + 1, user + 1), 0);
  EXPECT_NE(connect_as(user).find("is not believed"), std::string::npos) << connect_as(user);
  ASSERT_EQ(::chown(in_tmp.c_str(), user, user), 0);
  ::chmod(in_tmp.c_str(), 0777);
  EXPECT_NE(connect_as(user).find("is not believed"), std::string::npos) << connect_as(user);
}

// ---- the socket's clients

TEST_F(CommitTest, WhoSendsNonsenseIsDropped) {
  const auto service = serve();
  std::uint64_t clients = 0;
  for (const std::string& nonsense :
       {std::string("hello\n"), std::string("sync 1\n"), std::string("sync 1 2 3\n"),
        std::string("sync 1 -5\n"), std::string(5'000, 'x')}) {
    commit_protocol::SocketAddress at;
    ASSERT_TRUE(commit_protocol::make_address(socket(), at));
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size), 0);
    ASSERT_EQ(::send(fd.get(), nonsense.data(), nonsense.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(nonsense.size()));
    const auto known = ++clients;
    EXPECT_TRUE(loop.run_until(
        [&] { return service->served() == known && service->clients() == 0; }, kSoon))
        << nonsense;
  }
  EXPECT_EQ(service->clients(), 0U);
}

// ---- the extension

class ExtensionTest : public CommitTest {
 protected:
  /// What a command prints, of both kinds; `why` when it is not to be had here.
  std::string run(const std::string& command) {
    return blocking([&] {
      std::string all;
      FILE* out = ::popen((command + " 2>&1").c_str(), "re");
      std::array<char, 4096> bytes{};
      while (const auto got = std::fread(bytes.data(), 1, bytes.size(), out))
        all.append(bytes.data(), got);
      ::pclose(out);
      return all;
    });
  }
  /// The same, again as long as it says `says`: that the commit was rolled back. The loop may have
  /// stood still for longer than the greeting may take.
  std::string run_unless(const std::string& says, const std::string& command) {
    std::string out = run(command);
    for (int tries = 1; tries < kTries && out.find(says) != std::string::npos; ++tries)
      out = run(command);
    return out;
  }
  const std::string extension = built::kSqliteExtension;
};

TEST_F(ExtensionTest, MakesTheShellsCommitsWait) {
  if (run("sqlite3 -batch :memory: 'SELECT 1'") != "1\n") GTEST_SKIP() << "no sqlite3 shell";
  const std::string shell = "sqlite3 -batch " + shell_quoted(path("p.db")) + " " +
                            shell_quoted(".load \"" + extension + "\"") + " ";
  EXPECT_NE(run(shell + "\"INSERT INTO t(v) VALUES('row')\"").find("constraint failed"),
            std::string::npos);
  const auto service = serve();
  EXPECT_EQ(run(shell + "'SELECT cluster_commit_timeout()'"), "5000\n");
  EXPECT_EQ(run_unless("constraint failed", "CPP_CLUSTER_COMMIT_TIMEOUT=30000 " + shell +
                                                "\"INSERT INTO t(v) VALUES('row')\" "
                                                "'SELECT cluster_commit_timeout()' "
                                                "'SELECT cluster_position()'"),
            "30000\n{\"epoch\":1,\"txid\":2,\"sequence\":0}\n");
  EXPECT_EQ(lead->primary->status().stored, 2U);
  testing::freeze(servers[0].pid());
  const std::string late =
      run_unless("constraint failed",
                 "CPP_CLUSTER_COMMIT_TIMEOUT=200 " + shell + "\"INSERT INTO t(v) VALUES('row')\"");
  EXPECT_NE(late.find("warning message"), std::string::npos) << late;
  EXPECT_EQ(count(), 2);
  EXPECT_NE(run("CPP_CLUSTER_COMMIT_TIMEOUT=soon " + shell).find("are no milliseconds"),
            std::string::npos);
}

TEST_F(ExtensionTest, MakesCommitsOfPythonWait) {
  const std::string python = "/usr/bin/python3";
  if (run(python + " -c 'import sqlite3; print(hasattr(sqlite3.Connection, "
                   "\"enable_load_extension\"))'") != "True\n")
    GTEST_SKIP() << "no Python whose sqlite3 loads extensions";
  const auto insert = [&](int timeout_ms) {
    return run_unless(
        "rolled back: the node does not answer",
        "CPP_CLUSTER_COMMIT_TIMEOUT=" + std::to_string(timeout_ms) +
            " CPP_CLUSTER_DATABASE=" + shell_quoted(path("p.db")) + " " + python + " " +
            shell_quoted(std::string(built::kExampleSourcesFolder) + "/python/execute.py") + " " +
            shell_quoted(extension) + " \"INSERT INTO t(v) VALUES('row')\"");
  };
  EXPECT_TRUE(insert(500).starts_with("rolled back: this node does not lead the database"));
  const auto service = serve();
  EXPECT_EQ(insert(30'000), "acknowledged\n");
  EXPECT_EQ(lead->primary->status().stored, 2U);
  testing::freeze(servers[0].pid());
  EXPECT_TRUE(insert(500).starts_with("committed here, but not acknowledged by JetStream: "));
  EXPECT_EQ(count(), 2);
}

}  // namespace
}  // namespace cluster::sqlite
