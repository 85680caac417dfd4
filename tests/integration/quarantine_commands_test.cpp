// cpp-cluster db quarantine as a command, against two nodes and a real server: what it prints, what
// it ends with (docs/commands.md), and what is there then.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "built.h"
#include "cluster/cluster.h"
#include "integration/platform_fixture.h"
#include "integration/program.h"
#include "sqlite/handle.h"
#include "sqlite/quarantine_note.h"

namespace cluster {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using sqlite::Handle;
using sqlite::QuarantineKind;
using testing::DatabaseNode;
using testing::eventually;
using testing::kSoon;
using testing::Outcome;
using testing::Program;

class QuarantineCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access(built::kProgram, X_OK) != 0) GTEST_SKIP() << built::kProgram << " is not built";
    const auto patience = testing::patience() + std::chrono::milliseconds(1'500);
    first.emplace(servers, folder.path(), "node-1", Sqlite{}, patience);
    first->run();
    ASSERT_TRUE(first->app->election().wait_for_leadership(kSoon));
    second.emplace(servers, folder.path(), "node-2", Sqlite{}, patience);
    second->run();
    ASSERT_TRUE(eventually([&] { return first->platform->members().size() == 2; }));
    first->database().open().exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
  }

  Outcome run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"db", "quarantine"});
    Program program(folder, std::move(arguments), {"NATS_URL=" + servers.urls()[0]});
    EXPECT_TRUE(eventually([&] { return program.ended(); }));
    return {program.status(), program.out(), program.err()};
  }
  json run_json(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--output", "json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    json out = json::parse(outcome.out, nullptr, false);
    EXPECT_EQ(out["v"], 1) << outcome.out;
    return out;
  }

  /// Beside the database of a node, with that many rows, all but the first of which only the WAL
  /// has.
  void keep(const DatabaseNode& node, const std::string& suffix, int rows) const {
    const std::string open = node.path + ".open";
    {
      Handle db(open, Handle::Access::create);
      db.exec(
          "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(v);"
          "INSERT INTO t VALUES(1)");
      ASSERT_EQ(db.number("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
      for (int i = 1; i < rows; ++i) db.exec("INSERT INTO t VALUES(2)");
      for (const char* file : {"", "-wal"})
        if (fs::exists(open + file) && fs::file_size(open + file) > 0)
          fs::copy_file(open + file, node.path + suffix + file);
    }
    for (const char* file : {"", "-wal", "-shm"}) fs::remove(open + file);
    ASSERT_EQ(::chmod((node.path + suffix).c_str(), 0640), 0);
  }
  /// One with lost transactions of which all is known.
  void keep_diverged() const {
    keep(*first, ".diverged-3", 4);
    sqlite::QuarantineNote note;
    note.app = "db";
    note.node = "node-1";
    note.history = 77;
    note.epoch = 3;
    note.first = 11;
    note.last = 13;
    note.held = sqlite::LeftOver{3, false};
    note.since_ms = 1'748'770'200'000;
    note.why = "the stream goes on behind 10\033[2J";
    sqlite::write_note(first->path + ".diverged-3", note, QuarantineKind::diverged);
  }
  std::string file(const std::string& name) const { return folder / name; }

  testing::TemporaryFolder folder;
  testing::NatsServers servers;
  std::optional<DatabaseNode> first, second;
};

TEST_F(QuarantineCommands, ListHasThoseOfAllNodes) {
  const Outcome none = run({"list"});
  EXPECT_EQ(none.status, 0) << none.err;
  EXPECT_EQ(none.out, "no database is in quarantine\n");
  keep_diverged();
  keep(*second, ".foreign-2", 1);
  const Outcome table = run({"list"});
  EXPECT_EQ(table.status, 0) << table.err;
  for (const char* text : {"node-1.db.diverged-3", "3 (11 to 13)", "node-2.db.foreign-2", "foreign",
                           "2025-06-01T09:30:00Z"})
    EXPECT_NE(table.out.find(text), std::string::npos) << text << " in " << table.out;
  const json listed = run_json({"list", "db"});
  ASSERT_EQ(listed["nodes"].size(), 2U);
  for (const auto& node : listed["nodes"]) {
    EXPECT_EQ(node["problem"], "");
    ASSERT_EQ(node["quarantined"].size(), 1U) << node;
  }
  const json& one = listed["nodes"][0]["quarantined"][0];
  EXPECT_EQ(one["path"], first->path + ".diverged-3");
  EXPECT_EQ(one["kind"], "diverged");
  EXPECT_EQ(one["transactions"], 3);
  EXPECT_EQ(one["counted"], "exact");
  EXPECT_EQ(one["history"], "000000000000004d");
  EXPECT_GT(one["wal_bytes"], 0);
  const json& other = listed["nodes"][1]["quarantined"][0];
  EXPECT_EQ(other["transactions"], nullptr);
  EXPECT_EQ(other["noted"], false);
  EXPECT_EQ(run_json({"list", "db", "--node", "node-2"})["nodes"].size(), 1U);
  const Outcome unknown = run({"list", "dbs"});
  EXPECT_EQ(unknown.status, 4);
  EXPECT_NE(unknown.err.find("did you mean \"db\"?"), std::string::npos) << unknown.err;
}

TEST_F(QuarantineCommands, ShowSaysWhatIsKnownAndWhatToDo) {
  keep_diverged();
  const Outcome shown = run({"show", "db", "node-1.db.diverged-3"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  for (const std::string& text :
       {first->path + ".diverged-3", std::string("3 (11 to 13)"), std::string("000000000000004d"),
        std::string("the stream goes on behind 10?[2J"), std::string("never deleted"),
        std::string("db quarantine export db node-1.db.diverged-3 --node node-1 --to ")})
    EXPECT_NE(shown.out.find(text), std::string::npos) << text << " in " << shown.out;
  const json as_json = run_json({"show", "db", "node-1.db.diverged-3"});
  EXPECT_EQ(as_json["node"], "node-1");
  EXPECT_EQ(as_json["quarantined"]["epoch"], 3);
  // Without its note nothing but the name tells.
  std::ofstream(first->path + ".diverged-3.json") << "{\"v\":1,";
  const Outcome bare = run({"show", "db", "node-1.db.diverged-3"});
  EXPECT_EQ(bare.status, 0) << bare.err;
  EXPECT_NE(bare.out.find("transactions:  unknown"), std::string::npos) << bare.out;
}

TEST_F(QuarantineCommands, ExportGivesOneFileWithWhatTheWalHas) {
  keep_diverged();
  const auto before = fs::file_size(first->path + ".diverged-3-wal");
  const json exported = run_json({"export", "db", "node-1.db.diverged-3", "--to", file("old.db")});
  EXPECT_EQ(exported["path"], file("old.db"));
  EXPECT_EQ(exported["node"], "node-1");
  EXPECT_EQ(exported["complaint"], "");
  EXPECT_EQ(exported["bytes"], fs::file_size(file("old.db")));
  {
    Handle db(file("old.db"), Handle::Access::read_only);
    EXPECT_EQ(db.number("SELECT count(*) FROM t"), 4);
    EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok");
  }
  for (const char* beside : {"-wal", "-shm", "-journal"})
    EXPECT_FALSE(fs::exists(file("old.db") + beside)) << beside;
  struct stat info{};
  ASSERT_EQ(::stat(file("old.db").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640U) << "as the one that it is a copy of";
  EXPECT_EQ(fs::file_size(first->path + ".diverged-3-wal"), before) << "which is left as it is";
  for (const auto& entry : fs::directory_iterator(folder.path()))
    EXPECT_EQ(entry.path().filename().string().find("cpp-cluster-export"), std::string::npos);
  // It has a WAL to be filled with more than one piece.
  keep(*second, ".diverged-9", 2);
  std::ofstream(second->path + ".diverged-9", std::ios::app) << std::string(3'000'000, '\0');
  EXPECT_EQ(run({"export", "db", "node-2.db.diverged-9", "--to", file("large.db")}).status, 0);
}

TEST_F(QuarantineCommands, ExportReplacesNoFile) {
  keep_diverged();
  const auto refused = [&](const std::string& beside) {
    std::ofstream(file("old.db") + beside) << "mine";
    const Outcome outcome = run({"export", "db", "node-1.db.diverged-3", "--to", file("old.db")});
    EXPECT_EQ(outcome.status, 2) << beside;
    EXPECT_NE(outcome.err.find("there is a file"), std::string::npos) << outcome.err;
    EXPECT_EQ(testing::text_of(file("old.db") + beside), "mine");
    fs::remove(file("old.db") + beside);
  };
  // SQLite would take the others for the new file's own.
  for (const char* beside : {"", "-wal", "-journal"}) refused(beside);
  EXPECT_EQ(run({"export", "db", "node-1.db.diverged-3"}).status, 2) << "--to is missing";
  EXPECT_EQ(run({"export", "db", "node-1.db.diverged-3", "--to", file("none/old.db")}).status, 1);
  EXPECT_FALSE(fs::exists(file("old.db")));
}

TEST_F(QuarantineCommands, DeleteNeedsYesAndIsInTheAuditLog) {
  keep_diverged();
  keep(*first, ".foreign-4", 1);
  if (isatty(STDIN_FILENO) != 1) {
    const Outcome asked = run({"delete", "db", "node-1.db.diverged-3"});
    EXPECT_EQ(asked.status, 2);
    EXPECT_NE(asked.err.find("--yes"), std::string::npos) << asked.err;
  }
  EXPECT_TRUE(fs::exists(first->path + ".diverged-3"));
  const Outcome deleted = run({"delete", "db", "node-1.db.diverged-3", "--yes"});
  EXPECT_EQ(deleted.status, 0) << deleted.err;
  EXPECT_EQ(deleted.out, "db: deleted node-1.db.diverged-3 on node-1\n");
  for (const char* gone : {".diverged-3", ".diverged-3-wal", ".diverged-3.json"})
    EXPECT_FALSE(fs::exists(first->path + gone)) << gone;
  EXPECT_TRUE(fs::exists(first->path + ".foreign-4"));
  EXPECT_EQ(run({"delete", "db", "node-1.db.diverged-3", "--yes"}).status, 4);
  EXPECT_TRUE(eventually([&] {
    const json status = json::parse(testing::status_of(*first->platform));
    const json& kept = status["apps"][0]["database"]["quarantine"];
    return kept["diverged"]["count"] == 0 && kept["foreign"]["count"] == 1;
  })) << "the status knows it";
  Program audit(folder, {"audit", "list", "--action", "quarantine_deleted", "-o", "json"},
                {"NATS_URL=" + servers.urls()[0]});
  ASSERT_TRUE(eventually([&] { return audit.ended(); }));
  const json entries = json::parse(audit.out(), nullptr, false);
  ASSERT_EQ(entries["entries"].size(), 1U) << audit.out() << audit.err();
  EXPECT_EQ(entries["entries"][0]["fields"]["kept"], first->path + ".diverged-3");
  EXPECT_EQ(entries["entries"][0]["fields"]["held"], "3 (11 to 13)");
  EXPECT_FALSE(entries["entries"][0]["fields"]["by"].get<std::string>().empty());
}

TEST_F(QuarantineCommands, OnlyNamesThatANodeListsAreTaken) {
  keep_diverged();
  keep(*second, ".diverged-3", 2);
  fs::rename(second->path + ".diverged-3", file("secret"));
  fs::create_symlink(file("secret"), second->path + ".diverged-3");
  for (const char* name : {"../secret", "/etc/passwd", "./node-1.db.diverged-3", ""})
    EXPECT_EQ(run({"show", "db", name}).status, 2) << name;
  for (const char* name : {"node-1.db", "secret", "node-2.db.diverged-3", "node-1.db.diverged-4"})
    for (const char* what : {"show", "delete"}) {
      std::vector<std::string> arguments{what, "db", name};
      if (std::string(what) == "delete") arguments.emplace_back("--yes");
      const Outcome outcome = run(arguments);
      EXPECT_EQ(outcome.status, 4) << what << " " << name << ": " << outcome.err;
    }
  EXPECT_TRUE(fs::exists(first->path));
  EXPECT_TRUE(fs::exists(file("secret")));
  EXPECT_EQ(run({"show", "db", "node-1.db.diverged-3", "--node", "node-2"}).status, 4);
  EXPECT_EQ(
      run({"show", "db", "node-1.db.diverged-3", "--node", "node-9", "--timeout", "1s"}).status, 6);
}

// Between the renames of the database and of its WAL.
TEST_F(QuarantineCommands, ANodeThatStartsCompletesWhatACrashHasCutShort) {
  second->stop();
  const std::string path = second->path;
  keep(*second, ".was", 3);
  second.reset();
  for (const char* beside : {"", "-wal", "-shm"}) fs::remove(path + beside);
  fs::rename(path + ".was", path + ".diverged-1-moving");
  fs::rename(path + ".was-wal", path + "-wal");
  second.emplace(servers, folder.path(), "node-2", Sqlite{}, testing::patience());
  second->run();
  json listed;
  ASSERT_TRUE(eventually([&] {
    listed = run_json({"list", "db", "--node", "node-2"})["nodes"][0];
    return listed["quarantined"].size() == 1 && listed["quarantined"][0]["noted"] == true;
  })) << listed;
  const json& one = listed["quarantined"][0];
  EXPECT_EQ(one["path"], path + ".diverged-1");
  EXPECT_GT(one["wal_bytes"], 0);
  EXPECT_NE(one["why"].get<std::string>().find("killed"), std::string::npos) << one;
  EXPECT_EQ(run({"export", "db", "node-2.db.diverged-1", "--to", file("old.db")}).status, 0);
  EXPECT_EQ(Handle(file("old.db"), Handle::Access::read_only).number("SELECT count(*) FROM t"), 3);
  // Its own database has nothing of that.
  const auto position = first->database().sync(kSoon);
  ASSERT_TRUE(eventually([&] {
    return testing::errc_of([&] { second->database().wait_for(position, kSoon); }) == Errc{};
  }));
  EXPECT_EQ(Handle(path, Handle::Access::read_only).number("SELECT count(*) FROM t"), 0);
}

}  // namespace
}  // namespace cluster
