// A replicated database whose files are deleted, damaged, or too large for their disk; whose stream
// is purged or deleted; and what programs may do to it. See databases.h for what must hold
// afterwards.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>

#include <sqlite3.h>

#include "built.h"
#include "e2e/databases.h"
#include "e2e/small_disk.h"
#include "sqlite/handle.h"
#include "sqlite/position_log.h"
#include "sqlite/set_aside.h"
#include "sqlite/wal_index.h"

namespace cluster::e2e {
namespace {

namespace fs = std::filesystem;
using sqlite::Handle;

constexpr std::size_t kSomeRows = 50;  // rows

// What the first row is filled with: no structure of SQLite's, so that only checksums can tell.
std::string first_filler(const std::string& database) {
  Handle db = open_to_read(database);
  const std::string hex = db.text("SELECT hex(filler) FROM rows ORDER BY epoch, number");
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// Where a file holds that.
std::uint64_t place_of(const std::string& filler, const std::string& file) {
  return read_file(file).rfind(filler);
}

// Waits until the first row is in a database's file and no more in its WAL.
testing::AssertionResult wait_first_row_in_file(Cluster& c, const std::string& filler,
                                                const std::string& file) {
  return c.wait_for("the first row in the file", [&] {
    return place_of(filler, file) != std::string::npos &&
           live_wal(file).find(filler) == std::string::npos;
  });
}

constexpr std::uint64_t kShortWalBytes = 64 * 1024;
const json kShortWal{{"wal_limit", kShortWalBytes}};

// One leader and one standby.
struct Pair {
  Databases d{kPatient};
  std::string leader{};
  std::string standby{};

  /// `sqlite`: options of the database, besides its place and what commits wait for.
  explicit Pair(const json& sqlite = json::object(), Commit commit = Commit::async) {
    d.commit = commit;
    d.adjust = [sqlite](const std::string&, json& options, Child::Options&) {
      options["apps"][0]["sqlite"].update(sqlite);
    };
    leader = d.start_watched(2);
    standby = d.c.other_nodes(leader).front();
    EXPECT_TRUE(d.wait_for_rows(kSomeRows));
  }
  std::vector<std::string> kept() const { return sqlite::those_set_aside(d.file(standby)); }
  /// Until the standby has applied all that the leader has committed by now.
  testing::AssertionResult wait_applied() {
    const auto txid = d.status(leader).value("txid", std::uint64_t{0});
    return d.c.wait_for("the standby to apply what is there", [&] {
      return txid > 0 && d.status(standby).value("txid", std::uint64_t{0}) >= txid;
    });
  }
  /// Nothing is written, and no checkpoint of the standby's is under way: what is changed in that
  /// instant can't be told from what a checkpoint writes.
  testing::AssertionResult wait_at_rest() {
    if (auto quiet = d.hush(); !quiet) return quiet;
    if (auto settled = d.settle(); !settled) return settled;
    return d.c.wait_for("its checkpoint to be over", [&] {
      return d.status(standby).value("wal_bytes", std::uint64_t{1} << 40) <= kShortWalBytes;
    });
  }
  void hand_over() {
    const auto epoch = d.c.epoch();
    EXPECT_EQ(d.c.ask(leader, "stepdown", {{"app", "db"}}).value("error", ""), "");
    EXPECT_EQ(d.c.wait_leader("db", leader, epoch), standby);
    d.resume();
    EXPECT_TRUE(d.wait_for_rows(kSomeRows));
  }
};

// A bit of a row in the standby's file, while nothing is written. `where`: its byte.
testing::AssertionResult flip_bit_at_rest(Pair& p, std::uint64_t* where = nullptr) {
  const std::string file = p.d.file(p.standby);
  const std::string filler = first_filler(p.d.file(p.leader));
  if (auto there = wait_first_row_in_file(p.d.c, filler, file); !there) return there;
  if (auto rest = p.wait_at_rest(); !rest) return rest;
  const auto offset = place_of(filler, file);
  flip_bit(file, offset);
  if (where != nullptr) *where = offset;
  return testing::AssertionSuccess();
}

// Until a node tells that its database is in trouble, with that word. Another one, that NATS does
// not answer say, may come first on a busy machine.
testing::AssertionResult wait_trouble(Databases& d, const std::string& node,
                                      const std::string& word, std::string* told = nullptr) {
  std::string trouble;
  const auto seen = d.c.wait_for(node + " to say \"" + word + '"', [&] {
    trouble = d.status(node).value("trouble", "");
    return trouble.find(word) != std::string::npos;
  });
  if (told != nullptr) *told = trouble;
  return seen ? seen : testing::AssertionFailure() << seen.message() << "; it says: " << trouble;
}

void delete_database(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(path + suffix);
}

// ---- files that are deleted or damaged

TEST(DatabaseFiles, AReplicaThatWasDeletedWhileDownIsHadAnew) {
  Pair p;
  p.d.stop(p.standby);
  delete_database(p.d.file(p.standby));
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  p.d.check();
}

TEST(DatabaseFiles, AReplicaThatIsDeletedWhileUpIsHadAnew) {
  Pair p;
  delete_database(p.d.file(p.standby));
  ASSERT_TRUE(p.d.c.wait_for(
      "a new copy", [&] { return fs::exists(p.d.file(p.standby)) && p.d.ready(p.standby); }));
  p.d.check();
}

TEST(DatabaseFiles, AReplicaThatIsDeletedUnnoticedDoesNotLead) {
  Pair p;
  ASSERT_TRUE(p.d.settle());
  delete_database(p.d.file(p.standby));
  p.hand_over();
  p.d.check();
}

TEST(DatabaseFiles, ABitThatFlipsInTheFileOfAReplicaThatIsDownIsNoticed) {
  Pair p;
  p.d.stop(p.standby);
  const std::string file = p.d.file(p.standby);
  sqlite::settle_database(file);
  flip_bit(file, place_of(first_filler(file), file));
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  EXPECT_EQ(p.kept().size(), 1u);
  p.d.check();
}

// Of the words that SQLite knows a database by, and of the page size.
TEST(DatabaseFiles, AReplicaThatIsNoDatabaseAnyMoreIsHadAnew) {
  Pair p;
  const std::string file = p.d.file(p.standby);
  for (const std::uint64_t offset : {0, 16}) {
    p.d.stop(p.standby);
    sqlite::settle_database(file);
    flip_bit(file, offset);
    p.d.restart(p.standby);
    ASSERT_TRUE(p.d.wait_ready(p.standby));
  }
  EXPECT_EQ(p.kept().size(), 2u);
  for (const auto& kept : p.kept()) EXPECT_NE(kept.find(".damaged-"), std::string::npos) << kept;
  p.d.check();
}

TEST(DatabaseFiles, AReplicaThatWasCutShortIsHadAnew) {
  Pair p;
  const std::string file = p.d.file(p.standby);
  p.d.stop(p.standby);
  sqlite::settle_database(file);
  fs::resize_file(file, fs::file_size(file) / 2 + 100);
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  EXPECT_EQ(p.kept().size(), 1u);
  p.d.check();
}

TEST(DatabaseFiles, ABitThatFlipsInTheWalOfAReplicaThatIsDownIsMended) {
  Pair p;
  ASSERT_TRUE(p.wait_applied());
  p.d.stop(p.standby);
  const std::string file = p.d.file(p.standby);
  const auto size = fs::file_size(file + "-wal");
  ASSERT_GT(size, 0u);
  flip_bit(file + "-wal", size / 2);
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  p.d.check();
}

TEST(DatabaseFiles, ABitThatFlipsInThePositionLogOfAReplicaIsGotOver) {
  Pair p;
  const std::string log = sqlite::position_log_path(p.d.file(p.standby));
  const auto wait_for_records = [&] {
    return p.d.c.wait_for("records in its log", [&] {
      std::error_code none;
      const auto size = fs::file_size(log, none);
      return !none && size > 200;
    });
  };
  ASSERT_TRUE(wait_for_records());
  p.d.stop(p.standby);
  // First in its header, then in one of its last records.
  for (const bool header : {true, false}) {
    const auto size = fs::file_size(log);
    ASSERT_GT(size, 200u);
    flip_bit(log, header ? 10 : size - 20);
    p.d.restart(p.standby);
    ASSERT_TRUE(p.d.wait_ready(p.standby));
    ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
    ASSERT_TRUE(wait_for_records());
    p.d.stop(p.standby);
  }
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  p.d.check();
}

// As after a power cut: the database was synced at a checkpoint, the log never.
TEST(DatabaseFiles, APositionLogThatLacksItsLastRecordsIsMadeUpForByTheStream) {
  Pair p;
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  const std::string log = sqlite::position_log_path(p.d.file(p.standby));
  const std::string before = p.d.folder(p.standby) + "/before";
  fs::copy_file(log, before);
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  ASSERT_TRUE(p.wait_applied());  // so that the copy lacks records
  p.d.stop(p.standby);
  for (const bool empty : {false, true}) {
    if (empty)
      fs::remove(log);
    else
      fs::copy_file(before, log, fs::copy_options::overwrite_existing);
    p.d.restart(p.standby);
    ASSERT_TRUE(p.d.wait_ready(p.standby));
    ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
    EXPECT_EQ(p.d.c.logged(p.standby, {" database_recognised "}), empty ? 2 : 1);
    EXPECT_TRUE(p.kept().empty()) << p.kept().front();
    if (!empty) p.d.stop(p.standby);
  }
  p.d.check();
}

// Whoever put it there may have it nowhere else.
TEST(DatabaseFiles, WhatWasNeverReplicatedStaysAsItIs) {
  Pair p;
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  p.d.stop(p.standby);
  const std::string file = p.d.file(p.standby);
  for (const bool database : {true, false}) {
    for (const char* suffix : {"", "-wal", "-shm", "-cluster", "-cluster-hashes"})
      fs::remove(file + suffix);
    if (database)
      Handle(file, Handle::Access::create).exec("CREATE TABLE mine(v); INSERT INTO mine VALUES(1)");
    else
      std::ofstream(file) << std::string(10'000, 'x');
    p.d.restart(p.standby);
    EXPECT_TRUE(p.d.c.wait_for("the node to report it", [&] {
      return p.d.status(p.standby).value("trouble", "").find("was never replicated") !=
             std::string::npos;
    }));
    EXPECT_FALSE(p.d.ready(p.standby));
    EXPECT_TRUE(p.kept().empty());
    if (database) {
      EXPECT_EQ(Handle(file, Handle::Access::read_write).number("SELECT v FROM mine"), 1);
    } else {
      EXPECT_EQ(fs::file_size(file), 10'000U);
    }
    // Once it is moved away the node makes a copy.
    if (!database) break;
    for (const char* suffix : {"", "-wal", "-shm"})
      if (fs::exists(file + suffix)) fs::rename(file + suffix, file + ".mine" + suffix);
    ASSERT_TRUE(p.d.wait_ready(p.standby));
    p.d.stop(p.standby);
  }
  fs::remove(file);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  p.d.check();
}

// As after a power cut, which takes what was not synced. The lost transaction changes the same
// bytes in the same way in many pages: a linear checksum of the whole database does not see that.
TEST(DatabaseFiles, AReplicaWhoseWalHasLostItsEndTakesItFromTheStream) {
  Pair p;
  ASSERT_TRUE(p.d.hush());
  {
    Handle db(p.d.file(p.leader), Handle::Access::read_write);
    sqlite::wait_for_locks(db.get(), 60'000);
    db.exec(
        "CREATE TABLE accounts(id INTEGER PRIMARY KEY, token TEXT, flag INT);"
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 2999)"
        "INSERT INTO accounts SELECT i, hex(randomblob(32)), 0 FROM n");
  }
  ASSERT_TRUE(p.d.settle());
  const std::string wal = p.d.file(p.standby) + "-wal";
  // However many pages it changes: some of these numbers are even.
  for (const int rows : {400, 800, 1200, 1600}) {
    const auto before = fs::file_size(wal);
    {
      Handle db(p.d.file(p.leader), Handle::Access::read_write);
      sqlite::wait_for_locks(db.get(), 60'000);
      db.exec("UPDATE accounts SET flag = flag + 1 WHERE id < " + std::to_string(1000 + rows));
    }
    ASSERT_TRUE(p.d.c.wait_for("it to be applied", [&] { return fs::file_size(wal) > before; }));
    ASSERT_TRUE(p.d.settle());
    p.d.kill_all_of(p.standby);
    fs::resize_file(wal, before);
    fs::remove(p.d.file(p.standby) + "-shm");
    p.d.restart(p.standby);
    ASSERT_TRUE(p.d.wait_ready(p.standby));
    ASSERT_TRUE(p.d.settle());
    Handle leads = open_to_read(p.d.file(p.leader)), follows = open_to_read(p.d.file(p.standby));
    constexpr const char* kFlags = "SELECT sum(flag) FROM accounts";
    EXPECT_EQ(follows.number(kFlags), leads.number(kFlags));
  }
  EXPECT_TRUE(p.kept().empty());
  p.d.resume();
  p.d.check();
}

// Returns where the WAL ends after each row; its file may be longer. The node gathers what comes
// while a message is under way.
std::vector<std::uint64_t> write_without_pause(const std::string& file, int rows) {
  std::vector<std::uint64_t> ends;
  Handle db(file, Handle::Access::read_write);
  sqlite::wait_for_locks(db.get(), 60'000);
  db.exec("PRAGMA wal_autocheckpoint=0; CREATE TABLE IF NOT EXISTS more(v)");
  const auto page_size = static_cast<std::uint32_t>(db.number("PRAGMA page_size"));
  const sqlite::WalIndex index(db);
  for (int i = 0; i < rows; ++i) {
    db.exec("INSERT INTO more VALUES(" + std::to_string(i) + ")");
    ends.push_back(sqlite::wal_length(index.header().value().max_frame, page_size));
  }
  return ends;
}

// Its WAL has a transaction where those that follow have a record of many. So it may be cut within
// one.
TEST(DatabaseFiles, ALeaderWhoseWalHasLostItsEndTakesItFromTheStream) {
  Pair p;
  ASSERT_TRUE(p.d.hush());
  constexpr int kRows = 400;
  const std::string file = p.d.file(p.leader);
  const auto ends = write_without_pause(file, kRows);
  ASSERT_TRUE(p.d.settle());
  const auto epoch = p.d.c.epoch();
  p.d.kill_all_of(p.leader);
  p.d.c.wait_leader("db", p.leader, epoch);
  const std::string saved = p.d.c.path("saved");
  fs::remove(file + "-shm");
  fs::copy(p.d.folder(p.leader), saved);
  for (const std::size_t kept : {1, 57, 200, kRows - 2}) {
    fs::copy(saved, p.d.folder(p.leader), fs::copy_options::overwrite_existing);
    fs::resize_file(file + "-wal", ends[kept]);
    p.d.restart(p.leader);
    ASSERT_TRUE(p.d.wait_ready(p.leader));
    ASSERT_TRUE(p.d.settle());
    EXPECT_TRUE(sqlite::those_set_aside(file).empty()) << kept;
    Handle here = open_to_read(file), there = open_to_read(p.d.file(p.standby));
    constexpr const char* kSum = "SELECT sum(v) + 1000000 * count(*) FROM more";
    EXPECT_EQ(here.number(kSum), there.number(kSum));
    here.close();
    p.d.kill_all_of(p.leader);
    fs::remove(file + "-shm");
  }
  p.d.restart(p.leader);
  ASSERT_TRUE(p.d.wait_ready(p.leader));
  p.d.resume();
  p.d.check();
}

class DatabaseFilesByCommit : public ByCommit {};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseFilesByCommit, both_commits(), commit_name);

TEST_P(DatabaseFilesByCommit, ABitThatFlipsInTheFileOfAReplicaIsNoticedBeforeItLeads) {
  Pair p(kShortWal, GetParam());
  ASSERT_TRUE(flip_bit_at_rest(p));
  p.hand_over();
  ASSERT_EQ(p.kept().size(), 1u);
  EXPECT_NE(p.kept().front().find(".damaged-"), std::string::npos);
  p.d.check();
}

void check_damage_mended(Pair& p) {
  ASSERT_TRUE(p.d.c.wait_for("the wrong copy to be set aside", [&] {
    return p.d.status(p.standby).value("counts", json::object()).value("damages", 0) == 1;
  }));
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  ASSERT_EQ(p.kept().size(), 1u);
  EXPECT_NE(p.kept().front().find(".damaged-"), std::string::npos);
  EXPECT_TRUE(p.d.c.wait_for("audit entries", [&] {
    return p.d.audited("damage_found") == 1 && p.d.audited("set_aside") == 1;
  }));
}

TEST(DatabaseFiles, ABitThatFlipsInARunningReplicaIsFoundByVerifying) {
  Pair p(kShortWal);
  // While rows are written.
  const auto before = p.d.c.command("db verify db");
  EXPECT_EQ(before.status, 0) << before.out;
  EXPECT_NE(before.out.find(" the same as " + p.leader), std::string::npos) << before.out;
  for (const auto& node : p.d.nodes) {
    EXPECT_NE(before.out.find(node), std::string::npos) << before.out;
    EXPECT_FALSE(p.d.status(node).at("verified").is_null());
  }
  std::uint64_t offset = 0;
  ASSERT_TRUE(flip_bit_at_rest(p, &offset));
  const auto after = p.d.c.command("db verify db -o json");
  EXPECT_EQ(after.status, 5) << after.out;
  const json told = json::parse(after.out.substr(0, after.out.rfind('}') + 1), nullptr, false);
  ASSERT_TRUE(told.is_object()) << after.out;
  EXPECT_FALSE(told.at("sound"));
  EXPECT_TRUE(told.at("compared"));
  for (const auto& one : told.at("nodes")) {
    EXPECT_TRUE(one.at("compared")) << one;
    if (one.at("node") == p.leader) {
      EXPECT_EQ(one.at("wrong"), "") << one;
      continue;
    }
    const auto page = offset / one.at("result").at("page_size").get<std::uint64_t>() + 1;
    EXPECT_EQ(one.at("result").at("wrong_pages"), json::array({page})) << one;
  }
  // It gets another copy by itself.
  check_damage_mended(p);
  if (HasFatalFailure()) return;
  const auto status = p.d.c.command("db status db");
  EXPECT_EQ(status.status, 0) << status.out;
  for (const std::string& text :
       {"db: led by " + p.leader, "in quarantine on " + p.standby + ": " + p.kept().front()})
    EXPECT_NE(status.out.find(text), std::string::npos) << status.out;
  const auto again = p.d.c.command("db verify db");
  EXPECT_EQ(again.status, 0) << again.out;
  p.d.resume();
  p.d.check();
}

// It looks at its file before each checkpoint.
TEST(DatabaseFiles, ABitThatFlipsInARunningReplicaIsFoundByItself) {
  Pair p(kShortWal);
  ASSERT_TRUE(flip_bit_at_rest(p));
  p.d.resume();
  check_damage_mended(p);
  if (HasFatalFailure()) return;
  p.d.check();
}

// Nobody can mend it by himself: SQLite goes on with what it reads there.
TEST(DatabaseFiles, ABitThatFlipsInTheLeadersFileIsFoundByVerifying) {
  Pair p(kShortWal);
  const std::string file = p.d.file(p.leader);
  const std::string filler = first_filler(p.d.file(p.leader));
  ASSERT_TRUE(wait_first_row_in_file(p.d.c, filler, file));
  const auto offset = place_of(filler, file);
  rot_bit(p.d, p.leader, offset);
  const auto told = p.d.c.command("db verify db -o json");
  EXPECT_EQ(told.status, 5) << told.out;
  const json verdict = json::parse(told.out.substr(0, told.out.rfind('}') + 1), nullptr, false);
  ASSERT_TRUE(verdict.is_object()) << told.out;
  for (const auto& one : verdict.at("nodes")) {
    const auto page = offset / one.at("result").at("page_size").get<std::uint64_t>() + 1;
    const bool leads = one.at("node") == p.leader;
    EXPECT_EQ(one.at("result").at("wrong_pages"), leads ? json::array({page}) : json::array())
        << one;
    EXPECT_EQ(one.at("wrong") == "", !leads) << one;
    EXPECT_TRUE(one.at("compared")) << one;
  }
  rot_bit(p.d, p.leader, offset);
  p.d.check();
}

// A node that led with a replica elsewhere was cut short, and somebody has put that back.
TEST(DatabaseFiles, AReplicaBesideThePrimaryOfALeadThatWasCutShortIsKeptAsDiverged) {
  Databases d(kPatient);
  d.separate = true;
  const std::string leader = d.start_watched(2);
  const std::string standby = d.c.other_nodes(leader).front();
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  d.stop(standby);
  sqlite::settle_database(d.replica(standby));
  fs::copy_file(d.replica(standby), d.file(standby));
  d.restart(standby);
  ASSERT_TRUE(d.wait_ready(standby));
  EXPECT_EQ(d.status(standby).value("divergences", 0), 1);
  const auto kept = sqlite::those_set_aside(d.replica(standby));
  ASSERT_EQ(kept.size(), 1u);
  json entry;
  EXPECT_TRUE(d.c.wait_for("an audit entry", [&] {
    entry = d.c.audited("database", "diverged");
    return !entry.is_null();
  }));
  EXPECT_EQ(entry["node"], standby) << entry;
  EXPECT_EQ(entry["fields"]["kept"], kept.front()) << entry;
  d.check();
}

TEST(DatabaseFiles, ABitThatFlipsInTheWalOfAReplicaIsNoticedBeforeItLeads) {
  Pair p;
  const std::string file = p.d.file(p.standby);
  ASSERT_TRUE(p.d.settle());
  flip_bit(file + "-wal", place_of(first_filler(p.d.file(p.leader)), file + "-wal"));
  p.hand_over();
  // SQLite drops a WAL's frames from a damaged one on; they are in the stream.
  EXPECT_GE(p.d.c.logged(p.standby, {"wrong checksum"}) + static_cast<int>(p.kept().size()), 1);
  p.d.check();
}

// ---- the stream

std::string stream_of(Databases& d) { return d.c.platform() + "_db_wal"; }

void take_snapshot(Databases& d, const std::string& leader) {
  json request{{"v", 1}, {"app", "db"}};
  ASSERT_TRUE(d.c.wait_for("a snapshot", [&] {
    const json answer = d.c.ask(leader, "snapshot", request);
    request["id"] = answer.value("id", "");
    return answer.contains("snapshot") && answer["snapshot"].is_object();
  }));
}

void purge(Databases& d) {
  const json purged = d.c.request("$JS.API.STREAM.PURGE." + stream_of(d));
  ASSERT_TRUE(purged.value("success", false)) << purged;
}

TEST(DatabaseStream, PurgedUnderThoseThatHaveAllOfItNothingHappens) {
  Pair p;
  const auto epoch = p.d.c.epoch();
  ASSERT_TRUE(p.d.settle());
  purge(p.d);
  p.d.resume();
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  EXPECT_EQ(p.d.c.epoch(), epoch);
  p.hand_over();
  p.d.check();
}

class DatabaseStreamByCommit : public ByCommit {};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseStreamByCommit, both_commits(), commit_name);

TEST_P(DatabaseStreamByCommit, PurgedUnderAStandbyThatIsDownItGoesOnFromASnapshot) {
  Pair p(json::object(), GetParam());
  p.d.stop(p.standby);
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  take_snapshot(p.d, p.leader);
  ASSERT_TRUE(p.d.hush());
  take_snapshot(p.d, p.leader);
  purge(p.d);
  p.d.resume();
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  EXPECT_EQ(p.d.c.logged(p.standby, {" database_restored "}), 1);
  p.d.check();
}

// What it has behind its last noted place may be in the stream, or nowhere.
TEST(DatabaseStream, WhatALeadersWalHasBesidesIsKeptWhenTheStreamTellsNothingOfItAnyMore) {
  Pair p;
  ASSERT_TRUE(p.d.hush());
  const std::string file = p.d.file(p.leader);
  write_without_pause(file, 5);
  ASSERT_TRUE(p.d.settle());  // it has noted places in this WAL
  // All of this is one record.
  const pid_t node = p.d.c.node(p.leader).pid();
  stop_and_wait(node);
  const auto ends = write_without_pause(file, 50);
  ::kill(node, SIGCONT);
  ASSERT_TRUE(p.d.settle());
  const auto epoch = p.d.c.epoch();
  p.d.kill_all_of(p.leader);
  p.d.c.wait_leader("db", p.leader, epoch);
  take_snapshot(p.d, p.standby);
  purge(p.d);
  p.d.resume();
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  fs::remove(file + "-shm");
  fs::resize_file(file + "-wal", ends[25]);
  p.d.restart(p.leader);
  ASSERT_TRUE(p.d.wait_ready(p.leader));
  EXPECT_TRUE(p.d.c.wait_logged(p.leader, {" database_diverged ", "the stream has "}));
  const auto kept = sqlite::those_set_aside(file);
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(sqlite::kind_of(kept.front()), sqlite::QuarantineKind::diverged);
  p.d.check(Loss::reported);
}

TEST_P(DatabaseStreamByCommit, WithoutSnapshotsAStandbyWaitsForTheNextOne) {
  // The leader takes one by itself after this, where there is none.
  Pair p({{"snapshot_merge_interval_ms", 600'000}}, GetParam());
  p.d.stop(p.standby);
  delete_database(p.d.file(p.standby));
  // The first one may be on its way, and would be there after the deletion: this one comes after
  // it.
  take_snapshot(p.d, p.leader);
  p.d.c.request("$JS.API.STREAM.DELETE.OBJ_" + p.d.c.platform() + "_db_snapshots");
  purge(p.d);
  p.d.restart(p.standby);
  ASSERT_TRUE(p.d.c.wait_members({p.standby}));
  ASSERT_TRUE(wait_trouble(p.d, p.standby, "snapshot"));
  EXPECT_FALSE(p.d.ready(p.standby));
  take_snapshot(p.d, p.leader);
  ASSERT_TRUE(p.d.wait_ready(p.standby));
  p.d.check();
}

TEST(DatabaseStream, DeletedItIsBegunAnewWithWhatTheNextLeaderHas) {
  Pair p;
  const json deleted = p.d.c.request("$JS.API.STREAM.DELETE." + stream_of(p.d));
  ASSERT_TRUE(deleted.value("success", false)) << deleted;
  ASSERT_TRUE(p.d.wait_for_rows(2 * kSomeRows));
  ASSERT_TRUE(p.d.c.wait_for("a stream", [&] {
    const json info = p.d.c.request("$JS.API.STREAM.INFO." + stream_of(p.d));
    return info.contains("state") && info["state"].value("messages", 0) > 10;
  }));
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  for (const auto& node : p.d.nodes) {
    ASSERT_TRUE(p.d.wait_ready(node));
    // One may come between the two looks.
    json counts;
    EXPECT_TRUE(p.d.c.wait_for("its status to count what its log tells", [&] {
      counts = p.d.status(node).value("counts", json::object());
      return counts.value("streams_made_anew", -1) ==
             p.d.c.logged(node, {" database_stream_made_anew "});
    })) << counts;
  }
  p.d.check(Loss::reported);
}

// ---- disks that are full

class DatabaseDisks : public ByCommit {
 protected:
  void SetUp() override {
    if (const std::string reason = SmallDisk::missing(); !reason.empty()) GTEST_SKIP() << reason;
  }
};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseDisks, both_commits(), commit_name);

// More than rows and WALs take in the time that a test takes: WALs are moved into the database at
// half of wal_limit.
constexpr std::uint64_t kDisk = 64 * 1024 * 1024;

TEST_P(DatabaseDisks, WhenTheLeadersIsFullCommitsFailAndNothingElseDoes) {
  Databases d(kPatient);
  d.commit = GetParam();
  SmallDisk one(d.folder("node-1"), kDisk), other(d.folder("node-2"), kDisk);
  const std::string leader = d.start_watched(2);
  const SmallDisk& disk = leader == "node-1" ? one : other;
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  const auto epoch = d.c.epoch();
  disk.fill();
  ASSERT_TRUE(d.c.wait_for("commits to fail", [&] { return d.logged("unsure").size() > 20; }));
  // What was committed is replicated all the same.
  ASSERT_TRUE(d.settle());
  disk.make_room();
  d.resume();
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  EXPECT_EQ(d.c.epoch(), epoch);
  d.check();
}

TEST_P(DatabaseDisks, AStandbyWhoseDiskIsFullSaysSoAndCatchesUpOnceThereIsRoom) {
  Databases d(kPatient);
  d.commit = GetParam();
  SmallDisk one(d.folder("node-1"), kDisk), other(d.folder("node-2"), kDisk);
  const std::string leader = d.start_watched(2);
  const std::string standby = d.c.other_nodes(leader).front();
  const SmallDisk& disk = leader == "node-1" ? other : one;
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  const auto epoch = d.c.epoch();
  disk.fill();
  ASSERT_TRUE(wait_trouble(d, standby, "full"));
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  disk.make_room();
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  EXPECT_EQ(d.c.epoch(), epoch);
  d.check();
  EXPECT_TRUE(sqlite::those_set_aside(d.file(standby)).empty());
}

// Root may write wherever it is not the disk that forbids it.
TEST_P(DatabaseDisks, AStandbyThatMayNotWriteSaysSoAndCatchesUpOnceItMay) {
  Databases d(kPatient);
  d.commit = GetParam();
  SmallDisk one(d.folder("node-1"), kDisk), other(d.folder("node-2"), kDisk);
  const std::string leader = d.start_watched(2);
  const std::string standby = d.c.other_nodes(leader).front();
  const SmallDisk& disk = leader == "node-1" ? other : one;
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  d.stop(standby);
  disk.set_read_only(true);
  d.restart(standby);
  ASSERT_TRUE(wait_trouble(d, standby, "ead-only"));
  EXPECT_FALSE(d.ready(standby));
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  EXPECT_EQ(d.c.wait_leader(), leader);
  disk.set_read_only(false);
  ASSERT_TRUE(d.wait_ready(standby));
  d.check();
  EXPECT_TRUE(sqlite::those_set_aside(d.file(standby)).empty());
}

// ---- what programs and people do

TEST(DatabaseUse, ASecondNodeWithTheSamePathIsRefused) {
  Databases d(kPatient);
  const std::string leader = "node-1";
  d.nodes = {leader};
  d.restart(leader);
  // It has the file from then on. Alone it would lead after session_timeout; with another one to
  // watch it, it leads at once.
  ASSERT_TRUE(d.wait_ready(leader));
  d.adjust = [&](const std::string& node, json& options, Child::Options&) {
    if (node == "node-2") options["apps"][0]["sqlite"]["path"] = d.file(leader);
  };
  d.restart("node-2");
  std::string trouble;
  ASSERT_TRUE(wait_trouble(d, "node-2", d.file(leader), &trouble));
  EXPECT_NE(trouble.find("another"), std::string::npos) << trouble;
  EXPECT_FALSE(d.ready("node-2"));
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  EXPECT_EQ(d.c.wait_leader(), leader);
  d.stop("node-2");
  d.check();
}

TEST(DatabaseUse, ASecondNodeWithTheSameReplicaIsRefused) {
  Databases d(kPatient);
  d.separate = true;
  const std::string leader = d.start_watched(2);
  const std::string first = d.c.other_nodes(leader).front();
  d.adjust = [&](const std::string& node, json& options, Child::Options&) {
    if (node == "node-3") options["apps"][0]["sqlite"]["replica"] = d.replica(first);
  };
  d.restart("node-3");
  ASSERT_TRUE(wait_trouble(d, "node-3", d.replica(first)));
  EXPECT_FALSE(d.ready("node-3"));
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  d.stop("node-3");
  d.check();
}

class DatabaseUseByCommit : public ByCommit {};
INSTANTIATE_TEST_SUITE_P(Commits, DatabaseUseByCommit, both_commits(), commit_name);

TEST_P(DatabaseUseByCommit, TwoProgramsMayWriteAtOnce) {
  Pair p(json::object(), GetParam());
  // SQLite has no queue for its lock, which the backend holds most of the time where commits wait.
  Handle second(p.d.file(p.leader), Handle::Access::read_write);
  sqlite::wait_for_locks(second.get(), 60'000 * slowness());
  if (replicated()) {
    sqlite3_enable_load_extension(second.get(), 1);
    ASSERT_EQ(sqlite3_load_extension(second.get(), built::kSqliteExtension, nullptr, nullptr),
              SQLITE_OK);
  }
  second.exec("CREATE TABLE others(number)");
  for (int i = 0; i < 100; ++i) second.exec("INSERT INTO others VALUES(" + std::to_string(i) + ")");
  second.close();
  ASSERT_TRUE(p.d.settle());
  EXPECT_EQ(
      Handle(p.d.file(p.standby), Handle::Access::read_only).number("SELECT count(*) FROM others"),
      100);
  p.d.check();
}

// What a program tries that would end replication is refused while the database is followed.
TEST(DatabaseUse, AProgramThatWantsTheDatabaseForItselfIsRefused) {
  Pair p;
  Handle other(p.d.file(p.leader), Handle::Access::read_write);
  EXPECT_THROW(other.exec("PRAGMA journal_mode=DELETE"), Error);
  EXPECT_EQ(other.text("PRAGMA journal_mode"), "wal");
  other.exec("PRAGMA locking_mode=EXCLUSIVE");
  EXPECT_THROW(other.exec("CREATE TABLE mine(a)"), Error);
  other.close();
  EXPECT_EQ(p.d.status(p.leader).value("trouble", "?"), "");
  ASSERT_TRUE(p.d.wait_for_rows(kSomeRows));
  p.d.check();
}

void begin_with(const std::string& sql, bool degraded) {
  Databases d(kPatient);
  write_file(d.c.path("at-first"), "");
  d.adjust = [&](const std::string&, json& options, Child::Options&) {
    auto& command = options["apps"][0]["backend"]["command"];
    for (const auto& word : {std::string("--begin-if"), d.c.path("at-first"), sql})
      command.push_back(word);
  };
  const std::string leader = d.start_watched(2);
  const auto epoch = d.c.epoch();
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  if (degraded) {
    std::string trouble;
    ASSERT_TRUE(d.c.wait_for("the leader to say so", [&] {
      trouble = d.status(leader).value("trouble", "");
      return !trouble.empty();
    }));
    EXPECT_NE(trouble.find(d.file(leader)), std::string::npos) << trouble;
    ASSERT_TRUE(d.c.wait_for("it in the log",
                             [&] { return d.c.logged(leader, {" database_degraded "}) == 1; }));
    // The program changes its ways.
    std::filesystem::remove(d.c.path("at-first"));
    ASSERT_TRUE(d.c.wait_for("a backend", [&] { return d.c.backend_pid(leader) != 0; }));
    kill_and_wait(d.c.backend_pid(leader));
    ASSERT_TRUE(d.c.wait_for("an end of that",
                             [&] { return d.c.logged(leader, {" database_recovered "}) == 1; }));
    EXPECT_EQ(d.status(leader).value("trouble", "?"), "");
  }
  ASSERT_TRUE(d.wait_for_rows(kSomeRows));
  EXPECT_EQ(d.c.epoch(), epoch);
  d.check();
}

TEST(DatabaseUse, AProgramThatDoesWithoutWalIsGivenIt) {
  begin_with("PRAGMA journal_mode=DELETE", false);
}

TEST(DatabaseUse, AProgramThatLocksAllOthersOutIsToldOf) {
  begin_with("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL", true);
}

}  // namespace
}  // namespace cluster::e2e
