// Commits that return once JetStream has acknowledged them: the socket beside a leader's database,
// the hooks of connections, the extension in programs of others.
#include "sqlite/commit_hook.h"

#include <array>
#include <cstdio>

#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "built.h"
#include "integration/snapshot_fixture.h"
#include "shell.h"
#include "sqlite/commit_client.h"
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
    db = create("p.db");
    lead = std::make_unique<Lead>(*this, "p.db", 1);
  }
  void TearDown() override { testing::thaw(servers[0].pid()); }

  std::unique_ptr<CommitService> serve(const std::string& name = "p.db") {
    return std::make_unique<CommitService>(
        loop, CommitService::Options{path(name), 1},
        [this](Duration limit, Callback<CommitService::Stored> done) {
          lead->primary->sync(limit, [done = std::move(done)](const Result<Txid>& txid) {
            if (!txid) return done(txid.error());
            done(CommitService::Stored{1, txid.value(), 0});
          });
        });
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
  std::string socket() const { return path("p.db") + "-cluster.sock"; }

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
  EXPECT_FALSE(there("p.db-cluster.sock"));
}

TEST_F(CommitTest, IsRolledBackOnceTheNodeRefuses) {
  const auto service = serve();
  wait(db);
  ASSERT_EQ(insert(db), SQLITE_OK);
  service->refuse("this node stops leading");
  EXPECT_FALSE(there("p.db-cluster.sock"));
  EXPECT_EQ(insert(db), SQLITE_CONSTRAINT_COMMITHOOK);
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

TEST_F(CommitTest, TheSocketTakesThePlaceOfADeadProcesssAndLetsInWhoMayWrite) {
  std::ofstream(socket()) << "left behind";
  ::chmod(path("p.db").c_str(), 0660);
  const auto service = serve();
  EXPECT_EQ(service->trouble(), "");
  struct stat file{};
  ASSERT_EQ(::stat(socket().c_str(), &file), 0);
  EXPECT_TRUE(S_ISSOCK(file.st_mode));
  EXPECT_EQ(file.st_mode & 0777U, 0660U);
}

TEST_F(CommitTest, TheSocketIsNotTakenFromALivingProcess) {
  auto first = serve();
  const auto second = serve();
  EXPECT_NE(second->trouble().find("another process"), std::string::npos) << second->trouble();
  first.reset();
  EXPECT_TRUE(loop.run_until([&] { return second->trouble().empty(); }, kSoon));
  wait(db);
  EXPECT_EQ(insert(db), SQLITE_OK) << commit_error(db);
}

TEST_F(CommitTest, TheSocketMayHaveALongPath) {
  const std::string folder = std::string(100, 'f') + "/" + std::string(100, 'g');
  std::filesystem::create_directories(path(folder));
  Handle far = create(folder + "/p.db");
  const auto service = serve(folder + "/p.db");
  EXPECT_EQ(service->trouble(), "");
  wait(far);
  EXPECT_EQ(insert(far), SQLITE_OK) << commit_error(far);
}

TEST_F(CommitTest, ASocketWithoutAFittingNameIsATrouble) {
  const auto service = serve(std::string(120, 'n'));
  EXPECT_NE(service->trouble().find("File name too long"), std::string::npos) << service->trouble();
}

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
