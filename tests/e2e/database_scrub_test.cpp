// Scrubbing of replicated databases: what a disk has changed is found where nobody looks, and a
// standby has that page from the leader.
#include <filesystem>
#include <fstream>

#include "built.h"
#include "e2e/databases.h"
#include "sqlite/handle.h"
#include "sqlite/set_aside.h"

namespace cluster::e2e {
namespace {

using sqlite::Handle;

constexpr std::size_t kRowsBefore = 50;
constexpr std::uint64_t kScrubWal = 64 * 1024;  // bytes

// One leader and one standby; nothing is scrubbed but on demand.
struct ScrubbedPair {
  Databases d{kPatient};
  std::string leader{};
  std::string standby{};

  explicit ScrubbedPair(const json& sqlite = json::object(), int row_bytes = 100) {
    d.row_bytes = row_bytes;
    d.adjust = [this, sqlite](const std::string& node, json& options, Child::Options& how) {
      json& its = options["apps"][0]["sqlite"];
      its.update({{"wal_limit", kScrubWal}, {"scrub_interval_ms", 0}});
      its.update(sqlite);
      how.environment = {
          std::string("LD_PRELOAD=") + built::kFailingReads, "CLUSTER_FAILING_READS=/app.db",
          "CLUSTER_FAILING_READS_AT=" + failing(node), "ASAN_OPTIONS=verify_asan_link_order=0"};
    };
    leader = d.start_watched(2);
    standby = d.c.other_nodes(leader).front();
    EXPECT_TRUE(d.wait_for_rows(kRowsBefore));
  }

  std::string failing(const std::string& node) const { return d.c.path("failing-" + node); }
  json scrub(const std::string& node) { return d.status(node).value("scrub", json::object()); }
  std::uint64_t count(const std::string& node, const char* what) {
    return scrub(node).value(what, std::uint64_t{0});
  }

  /// Where both files have a byte of the first row, which neither WAL has any more; and nothing is
  /// written. Row contents are random: only hashes can tell that one is wrong. 0: not found.
  std::uint64_t place_at_rest() {
    std::uint64_t at = 0;
    const std::string filler = first_row();
    EXPECT_TRUE(d.c.wait_for("the first row in both files", [&] {
      const std::string its = read_file(d.file(standby));
      at = its.rfind(filler);
      for (const auto& node : d.nodes) {
        if (read_file(d.file(node)).rfind(filler) != at) return false;
        if (live_wal(d.file(node)).find(filler) != std::string::npos) return false;
      }
      return at != std::string::npos;
    }));
    EXPECT_TRUE(d.hush());
    EXPECT_TRUE(d.settle());
    EXPECT_TRUE(d.c.wait_for("its checkpoint to be over", [&] {
      return d.status(standby).value("wal_bytes", std::uint64_t{1} << 40) <= kScrubWal;
    }));
    return at + 10;
  }

  void scrub_now(const std::string& node) {
    const auto told = d.c.command("db scrub db --node " + node);
    EXPECT_EQ(told.status, 0) << told.out;
    EXPECT_NE(told.out.find("under way"), std::string::npos) << told.out;
  }
  testing::AssertionResult wait_repaired(const std::string& node, std::uint64_t pages) {
    return d.c.wait_for(node + " to have its pages repaired", [&] {
      return count(node, "repaired") == pages && scrub(node).value("wrong", json()).empty() &&
             d.ready(node);
    });
  }
  void check_not_quarantined() {
    for (const auto& node : d.nodes) {
      EXPECT_TRUE(sqlite::those_set_aside(d.file(node)).empty()) << node;
      EXPECT_EQ(d.status(node).at("counts").at("damages"), 0) << node;
    }
  }

 private:
  std::string first_row() const {
    Handle db = open_to_read(d.file(leader));
    const std::string hex = db.text("SELECT hex(filler) FROM rows ORDER BY epoch, number");
    std::string bytes;
    for (std::size_t i = 0; i < hex.size(); i += 2)
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return bytes;
  }
};

TEST(DatabaseScrub, AFlippedBitOnAStandbyIsFoundAndThatPageIsHadFromTheLeader) {
  ScrubbedPair p;
  const auto at = p.place_at_rest();
  const auto position = p.d.status(p.standby).at("txid");
  flip_bit(p.d.file(p.standby), at);
  p.scrub_now(p.standby);
  ASSERT_TRUE(p.wait_repaired(p.standby, 1));
  EXPECT_EQ(p.d.status(p.standby).at("txid"), position);
  EXPECT_EQ(p.count(p.standby, "found"), 1U);
  EXPECT_TRUE(p.d.c.wait_for("audit entries", [&] {
    return p.d.audited("scrub_wrong_page") == 1 && p.d.audited("scrub_repaired") == 1;
  }));
  p.check_not_quarantined();
  const auto told = p.d.c.command("db verify db");
  EXPECT_EQ(told.status, 0) << told.out;
  EXPECT_TRUE(p.d.c.wait_for("the scrub to be complete", [&] {
    return p.scrub(p.standby).value("completed", json()).is_string();
  }));
  const auto status = p.d.c.command("db status db");
  EXPECT_NE(status.out.find(p.scrub(p.standby).at("completed").get<std::string>().substr(0, 10)),
            std::string::npos)
      << status.out;
  p.d.resume();
  p.d.check();
}

// The disk tells nobody: no time of the file changes.
TEST(DatabaseScrub, APageThatCanNotBeReadOnAStandbyIsWrittenAnew) {
  ScrubbedPair p;
  const auto at = p.place_at_rest();
  write_file(p.failing(p.standby), std::to_string(at));
  p.scrub_now(p.standby);
  ASSERT_TRUE(p.wait_repaired(p.standby, 1));
  EXPECT_TRUE(p.d.c.wait_for("the page in the file",
                             [&] { return !std::filesystem::exists(p.failing(p.standby)); }));
  EXPECT_GT(p.d.c.logged(p.standby, {"database_scrub_wrong_page", "Input/output error"}), 0);
  p.check_not_quarantined();
  p.d.resume();
  p.d.check();
}

TEST(DatabaseScrub, ALeaderWhosePageIsWrongAsWellIsNotBelieved) {
  ScrubbedPair p;
  const auto at = p.place_at_rest();
  flip_bit(p.d.file(p.standby), at);
  rot_bit(p.d, p.leader, at);
  p.scrub_now(p.standby);
  std::string trouble;
  ASSERT_TRUE(p.d.c.wait_for("the leader's page to be refused", [&] {
    trouble = p.d.status(p.standby).value("trouble", "");
    return trouble.find("not the page that belongs there") != std::string::npos;
  })) << trouble;
  EXPECT_EQ(p.count(p.standby, "repaired"), 0U);
  EXPECT_FALSE(p.d.status(p.standby).at("ready"));
  rot_bit(p.d, p.leader, at);
  ASSERT_TRUE(p.wait_repaired(p.standby, 1));
  p.check_not_quarantined();
  p.d.resume();
  p.d.check();
}

TEST(DatabaseScrub, AFlippedBitInTheLeadersFileIsReportedAndASoundStandbyTakesOver) {
  ScrubbedPair p;
  const auto at = p.place_at_rest();
  const auto epoch = p.d.c.epoch();
  rot_bit(p.d, p.leader, at);
  p.scrub_now(p.leader);
  EXPECT_TRUE(
      p.d.c.wait_for("an audit entry", [&] { return p.d.audited("scrub_wrong_page") == 1; }));
  EXPECT_EQ(p.d.c.wait_leader("db", p.leader, epoch), p.standby);
  EXPECT_GT(p.d.c.logged(p.leader, {"unsound_step_down", "target=" + p.standby}), 0);
  // The old one follows with a copy that is right, whether that page was repaired or all of it had
  // anew.
  ASSERT_TRUE(p.d.c.wait_for("the old leader to be sound", [&] {
    return p.scrub(p.leader).value("wrong", json()).empty() && p.d.ready(p.leader);
  }));
  p.d.resume();
  ASSERT_TRUE(p.d.wait_for_rows(kRowsBefore));
  p.d.check();
}

TEST(DatabaseScrub, ARestartInTheMiddleGoesOnWithTheSameScrub) {
  // A scrub of some seconds.
  ScrubbedPair p({{"scrub_rate", 64 * 1024}}, 4'000);
  ASSERT_TRUE(p.d.wait_for_rows(300));
  ASSERT_TRUE(p.d.hush());
  ASSERT_TRUE(p.d.settle());
  p.scrub_now(p.standby);
  ASSERT_TRUE(
      p.d.c.wait_for("some of the scrub", [&] { return p.count(p.standby, "pages") > 20; }));
  const json begun = p.scrub(p.standby).at("begun");
  ASSERT_TRUE(begun.is_string());
  p.d.stop(p.standby);
  p.d.restart(p.standby);
  json after;
  ASSERT_TRUE(p.d.c.wait_for("its status", [&] {
    after = p.scrub(p.standby);
    return after.contains("begun") &&
           (after["begun"].is_string() || after["completed"].is_string());
  }));
  EXPECT_TRUE(after["begun"].is_null() || after["begun"] == begun) << after;
  EXPECT_TRUE(after["begun"].is_null() || after["pages"] > 0) << after;
  p.d.resume();
  p.d.check();
}

}  // namespace
}  // namespace cluster::e2e
