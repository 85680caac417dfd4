#include "e2e/databases.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <sqlite3.h>

#include "built.h"
#include "core/number_text.h"
#include "sqlite/handle.h"
#include "sqlite/set_aside.h"
#include "sqlite/wal_index.h"

namespace cluster::e2e {
namespace {

using sqlite::Handle;

/// What a line of a log says of `key`, without the quotes of a text with blanks.
std::string value_in(const std::string& line, const std::string& key) {
  const auto at = line.find(" " + key + "=");
  if (at == std::string::npos) return {};
  auto begin = at + key.size() + 2;
  const bool quoted = begin < line.size() && line[begin] == '"';
  if (quoted) ++begin;
  return line.substr(begin, line.find(quoted ? '"' : ' ', begin) - begin);
}

/// The lines of a text that hold all of these.
std::vector<std::string> lines_with(const std::string& text,
                                    const std::vector<std::string>& parts) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (std::all_of(parts.begin(), parts.end(),
                    [&](const auto& part) { return line.find(part) != std::string::npos; }))
      lines.push_back(line);
  return lines;
}

/// Transactions before the first row, at most: the switch to WAL, and the table.
constexpr std::uint64_t kToMakeTable = 2;

std::string told(const std::set<Row>& rows) {
  std::map<std::uint64_t, std::set<std::uint64_t>> epochs;
  for (const auto& [epoch, number] : rows) epochs[epoch].insert(number);
  std::string text;
  for (const auto& [epoch, numbers] : epochs)
    text += std::to_string(numbers.size()) + " rows of epoch " + std::to_string(epoch) + ", " +
            std::to_string(*numbers.begin()) + " to " + std::to_string(*numbers.rbegin()) + "; ";
  return text;
}

}  // namespace

Handle open_to_read(const std::string& path) {
  Handle db(path, Handle::Access::read_only);
  sqlite::wait_for_locks(db.get(), 60'000);
  return db;
}

json Databases::options(const std::string& node) const {
  std::filesystem::create_directories(folder(node));
  json options = c.node_options(node);
  auto& app = options["apps"][0];
  app["sqlite"] = {{"path", file(node)}};
  if (separate) app["sqlite"]["replica"] = replica(node);
  std::vector<std::string> rows{"--rows", log(), c.path("quiet"), "--row-bytes",
                                std::to_string(row_bytes)};
  if (commit == Commit::replicated) {
    app["sqlite"]["commit"] = "replicated";
    rows.insert(rows.end(), {"--extension", built::kSqliteExtension});
  }
  app["backend"] = c.backend(rows);
  return options;
}

std::string Databases::copy(const std::string& node) const {
  return separate && !std::filesystem::exists(file(node)) ? replica(node) : file(node);
}

std::string Databases::start(int count) {
  for (int i = 1; i <= count; ++i) {
    nodes.push_back("node-" + std::to_string(i));
    restart(nodes.back());
  }
  return c.wait_leader();
}

std::string Databases::start_watched(int count) {
  start(count);
  EXPECT_TRUE(c.wait_watched(nodes));
  for (const auto& node : nodes) EXPECT_TRUE(wait_ready(node));
  return c.wait_leader();  // it may have moved since the first had it
}

void Databases::restart(const std::string& node) {
  json all = options(node);
  Child::Options how;
  if (adjust) adjust(node, all, how);
  c.start(all, std::move(how));
}

void Databases::stop(const std::string& node) {
  c.node(node).signal(SIGTERM);
  EXPECT_TRUE(c.wait_for(node + " to stop", [&] { return !c.node(node).running(); }));
}

void Databases::kill_all_of(const std::string& node) {
  // None may do anything about the end of another.
  std::vector<pid_t> processes{c.guardian(node), c.node(node).pid(), c.backend_pid(node)};
  std::erase(processes, 0);
  for (const pid_t pid : processes) ::kill(pid, SIGSTOP);
  for (const pid_t pid : processes) kill_and_wait(pid);
}

json Databases::status(const std::string& node) {
  const json all = c.ask(node, "status");
  if (!all.contains("apps") || all["apps"].empty()) return json::object();
  const json database = all["apps"][0].value("database", json());
  return database.is_object() ? database : json::object();
}

bool Databases::ready(const std::string& node) {
  const json now = status(node);
  return now.value("ready", false) || now.value("role", "") == "primary";
}

testing::AssertionResult Databases::wait_ready(const std::string& node) {
  return c.wait_for("the database of " + node, [&] { return ready(node); });
}

std::uint64_t Databases::audited(const std::string& action) {
  const std::string subject = c.platform() + "._.audit.database." + action;
  const json answer =
      c.request("$JS.API.STREAM.INFO." + c.platform() + "_audit", {{"subjects_filter", subject}});
  const auto state = answer.value("state", json::object());
  return state.value("subjects", json::object()).value(subject, std::uint64_t{0});
}

const std::set<Row>& Databases::logged(const std::string& what) {
  each_new_line(log(), log_read_, [&](const std::string& line) {
    std::istringstream in(line);
    std::string kind;
    Row row;
    in >> kind >> row.first >> row.second;
    logged_[kind].insert(row);
  });
  return logged_[what];
}

testing::AssertionResult Databases::wait_for_rows(std::size_t more) {
  const auto before = logged("committed").size();
  return c.wait_for("rows to be committed",
                    [&] { return logged("committed").size() >= before + more; });
}

testing::AssertionResult Databases::hush() {
  write_file(c.path("quiet"), std::to_string(++hushed_));
  return c.wait_for("the backend to write no more",
                    [&] { return logged("quiet").contains({c.epoch(), hushed_}); });
}

void Databases::resume() { std::filesystem::remove(c.path("quiet")); }

std::set<Row> Databases::rows_of(const std::string& path) {
  std::set<Row> rows;
  Handle db = open_to_read(path);
  std::istringstream text(db.text("SELECT group_concat(epoch || ' ' || number, ' ') FROM rows"));
  Row row;
  while (text >> row.first >> row.second) rows.insert(row);
  return rows;
}

testing::AssertionResult Databases::settle() {
  const std::string leader = c.wait_leader();
  if (auto quiet = hush(); !quiet) return quiet;
  std::string seen;
  const auto settled = c.wait_for("all nodes at one position", [&] {
    std::set<std::uint64_t> txids;
    std::set<std::int64_t> rows;
    seen.clear();
    for (const auto& node : nodes) {
      const json now = status(node);
      seen += "\n  " + node + ": " + now.dump();
      if (!now.value("ready", false) && now.value("role", "") != "primary") return false;
      if (now.value("lag", json::object()).value("transactions", 1ULL) != 0) return false;
      txids.insert(now.value("txid", 0ULL));
      try {
        rows.insert(open_to_read(copy(node)).number("SELECT count(*) FROM rows"));
      } catch (const std::exception& error) {
        seen += std::string("\n  ") + error.what();
        return false;
      }
    }
    return txids.size() == 1 && *txids.begin() > 0 && rows.size() == 1;
  });
  if (!settled) return testing::AssertionFailure() << settled.message() << seen;
  return settled;
}

void Databases::check(Loss loss) {
  ASSERT_TRUE(settle());
  const std::string leader = c.wait_leader();
  for (const auto& node : c.other_nodes(leader)) stop(node);
  stop(leader);
  std::string bytes;
  for (const auto& node : nodes) {
    sqlite::settle_database(copy(node));
    const std::string now = read_file(copy(node));
    if (bytes.empty()) bytes = now;
    EXPECT_TRUE(now == bytes) << "the copy of " << node << " differs";
    EXPECT_EQ(Handle(copy(node), Handle::Access::read_only).text("PRAGMA integrity_check"), "ok");
  }
  check_rows(rows_of(copy(nodes.front())), loss);
}

// What was set aside as diverged, each of which the log must have told of.
void Databases::read_aside(const std::string& node, const std::string& path) {
  for (const auto& kept : sqlite::those_set_aside(path)) {
    if (kept.find(".diverged-") == std::string::npos || aside_.contains(kept)) continue;
    const auto lines = lines_with(c.log(node), {" database_diverged ", " kept=" + kept + " "});
    ASSERT_EQ(lines.size(), 1U) << kept;
    if (spoilt) {
      aside_[kept] = {node, {}, "unknown", 0};
      continue;
    }
    EXPECT_EQ(Handle(kept, Handle::Access::read_only).text("PRAGMA integrity_check"), "ok") << kept;
    const auto common = std::strtoull(value_in(lines.front(), "common").c_str(), nullptr, 10);
    aside_[kept] = {node, rows_of(kept), value_in(lines.front(), "held"), common};
  }
}

// Each row is a transaction, and nothing else is written once the table is there. A lead that ended
// in order has told how many it could not have stored; some of them may have been, and then it
// didn't hear of it.
//
// A backend that is killed at the end of a commit may leave a transaction whole in the WAL that the
// wal-index does not count. Nobody was told that it is committed, and the node does not know of it;
// SQLite's recovery finds it when the file is opened next.
void Databases::check_reported(const std::set<Row>& history) {
  std::set<Row> known = logged("committed");
  known.insert(logged("unsure").begin(), logged("unsure").end());
  for (const auto& [kept, aside] : aside_) {
    std::uint64_t all = 0;                        // that the history lacks
    std::map<std::uint64_t, std::uint64_t> more;  // of those, the known ones of each epoch
    for (const auto& row : aside.rows) {
      if (history.contains(row)) continue;
      ++all;
      if (known.contains(row)) ++more[row.first];
    }
    // Where the history has nothing, the table was made by transactions that it lacks, too.
    const std::uint64_t made = aside.common < kToMakeTable ? kToMakeTable - aside.common : 0;
    // Of what was committed while nobody followed it, no more may be known.
    constexpr std::string_view kAtLeast = "at least ";
    const bool least = aside.held.starts_with(kAtLeast);
    if (aside.held != "unknown") {
      const auto held = number_from(aside.held.substr(least ? kAtLeast.size() : 0));
      ASSERT_TRUE(held) << "held=" << aside.held;
      EXPECT_LE(*held, all + made) << "transactions only in " << kept;
      if (!least) {
        EXPECT_GE(*held, all) << "transactions only in " << kept;
      }
    }
    for (const auto& [epoch, count] : more) {
      const auto lines = lines_with(c.log(aside.node), {" database_not_replicated ",
                                                        " epoch=" + std::to_string(epoch) + " "});
      if (lines.empty()) continue;  // it did not live to tell
      const auto number = [&](const char* key) {
        return std::strtoull(value_in(lines.back(), key).c_str(), nullptr, 10);
      };
      EXPECT_LE(count, number("last") - number("first") + 1) << lines.back();
    }
  }
}

testing::AssertionResult Databases::look_at_copies(std::set<Row>& rows) try {
  std::string first;
  for (const auto& node : nodes) {
    Handle db = open_to_read(copy(node));
    if (const auto found = db.text("PRAGMA integrity_check"); found != "ok")
      return testing::AssertionFailure() << node << ": " << found;
    sqlite3_int64 size = 0;
    unsigned char* bytes = sqlite3_serialize(db.get(), "main", &size, 0);
    if (bytes == nullptr) return testing::AssertionFailure() << node << " has no bytes";
    const std::string now(reinterpret_cast<char*>(bytes), static_cast<std::size_t>(size));
    sqlite3_free(bytes);
    if (first.empty()) first = now;
    if (now != first) return testing::AssertionFailure() << "the copy of " << node << " differs";
    rows = rows_of(copy(node));
  }
  return testing::AssertionSuccess();
} catch (const std::exception& error) {
  return testing::AssertionFailure() << error.what();
}

std::set<Row> Databases::check_copies() {
  // On a busy machine a lead may move at any time, and files move with it.
  constexpr int kTries = 5;
  for (int i = 1;; ++i) {
    const auto settled = settle();
    EXPECT_TRUE(settled);
    if (!settled) return {};
    const auto epoch = c.epoch();
    std::set<Row> rows;
    const auto looked = look_at_copies(rows);
    if (looked || c.epoch() == epoch || i == kTries) {
      EXPECT_TRUE(looked);
      return rows;
    }
  }
}

void Databases::check_rows(const std::set<Row>& rows, Loss loss) {
  const auto& committed = logged("committed");
  const auto& unsure = logged("unsure");
  for (const auto& node : nodes)
    for (const auto& path : {file(node), replica(node)}) read_aside(node, path);
  std::set<Row> aside;
  for (const auto& [kept, its] : aside_) aside.insert(its.rows.begin(), its.rows.end());
  check_reported(rows);
  std::map<std::uint64_t, std::uint64_t> last;  // number of each epoch, in the history
  for (const auto& [epoch, number] : rows) last[epoch] = number;
  std::set<Row> missing, nowhere, between;
  for (const auto& row : committed) {
    if (rows.contains(row)) continue;
    missing.insert(row);
    if (!aside.contains(row)) nowhere.insert(row);
    if (row.second < last[row.first]) between.insert(row);
  }
  lost = static_cast<int>(missing.size());
  if (loss == Loss::none) {
    EXPECT_TRUE(missing.empty()) << "missing: " << told(missing);
  }
  EXPECT_TRUE(nowhere.empty()) << "missing and nowhere: " << told(nowhere);
  EXPECT_TRUE(between.empty()) << "missing before others of their epoch: " << told(between);
  // A backend that was killed has not told of its last row.
  std::map<std::uint64_t, std::size_t> untold, backends;
  for (const auto& event : c.events("", "db", "backend_begin")) ++backends[event.epoch];
  aside.insert(rows.begin(), rows.end());
  for (const auto& row : aside)
    if (!committed.contains(row) && !unsure.contains(row)) ++untold[row.first];
  for (const auto& [epoch, count] : untold)
    EXPECT_LE(count, backends[epoch]) << "rows of epoch " << epoch << " that nobody committed";
}

std::string live_wal(const std::string& database) {
  const std::string index = read_file(database + "-shm");
  sqlite::WalIndexHeader header;
  if (index.size() < sizeof header) return read_file(database + "-wal");
  std::memcpy(&header, index.data(), sizeof header);
  return read_file(database + "-wal")
      .substr(0, sqlite::wal_length(header.max_frame, header.page_size()));
}

void flip_bit(const std::string& path, std::uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  char byte = 0;
  ASSERT_TRUE(file.get(byte)) << path << " is shorter than " << offset;
  byte = static_cast<char>(byte ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  ASSERT_TRUE(file.put(byte).flush());
}

void rot_bit(Databases& d, const std::string& leader, std::uint64_t offset) {
  const pid_t processes[] = {d.c.node(leader).pid(), d.c.backend_pid(leader)};
  for (const pid_t pid : processes) stop_and_wait(pid);
  const std::string file = d.file(leader);
  const auto time = std::filesystem::last_write_time(file);
  flip_bit(file, offset);
  std::filesystem::last_write_time(file, time);
  for (const pid_t pid : processes) ::kill(pid, SIGCONT);
}

}  // namespace cluster::e2e
