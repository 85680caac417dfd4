// Nodes that begin with a snapshot, since the stream does not reach back to where they stand.
#include "e2e/databases.h"

namespace cluster::e2e {
namespace {

class SnapshotE2e : public ::testing::Test {
 protected:
  SnapshotE2e() {
    d.adjust = [](const std::string&, json& options, Child::Options&) {
      auto& sqlite = options["apps"][0]["sqlite"];
      sqlite["snapshot_interval_ms"] = 1'000;
      sqlite["snapshot_merge_interval_ms"] = 100;
      // Longer than having a copy takes, on a busy machine too.
      sqlite["stream_window_ms"] = 3'000;
    };
  }
  /// Where the stream begins, as the leader's snapshots see it.
  std::uint64_t stream_first(const std::string& leader) {
    const json now = d.status(leader);
    const auto snapshots = now.value("snapshots", json());
    return snapshots.is_object() ? snapshots.value("stream_first", std::uint64_t{0}) : 0;
  }
  testing::AssertionResult wait_trimmed(const std::string& leader, std::uint64_t beyond) {
    return d.c.wait_for("the stream to be trimmed", [&] { return stream_first(leader) > beyond; });
  }
  Databases d{kPatient};
};

TEST_F(SnapshotE2e, ANewcomerBeginsWithASnapshotWhenTheStreamDoesNotReachBack) {
  const std::string leader = d.start(1);
  ASSERT_TRUE(d.wait_for_rows(100));
  ASSERT_TRUE(wait_trimmed(leader, 10));
  d.nodes.push_back("node-2");
  d.restart("node-2");
  ASSERT_TRUE(d.wait_ready("node-2"));
  ASSERT_TRUE(d.wait_for_rows(50));
  d.check();
}

TEST_F(SnapshotE2e, AStandbyThatWasAwayForTooLongBeginsWithASnapshotAgain) {
  const std::string leader = d.start(2);
  ASSERT_TRUE(d.wait_for_rows(50));
  const std::string other = d.c.other_nodes(leader).at(0);
  ASSERT_TRUE(d.wait_ready(other));
  d.stop(other);
  const auto position = d.status(leader).value("sequence", std::uint64_t{0});
  ASSERT_TRUE(d.wait_for_rows(100));
  ASSERT_TRUE(wait_trimmed(leader, position + 1));
  d.restart(other);
  ASSERT_TRUE(d.wait_ready(other));
  d.check();
}

TEST_F(SnapshotE2e, ASnapshotOnDemandIsOfAllThatWasCommitted) {
  const std::string leader = d.start(2);
  ASSERT_TRUE(d.wait_for_rows(50));
  ASSERT_TRUE(d.hush());
  json answer = d.c.ask(leader, "snapshot", {{"app", "db"}});
  ASSERT_TRUE(d.c.wait_for("the snapshot", [&] {
    answer = d.c.ask(leader, "snapshot", {{"app", "db"}, {"id", answer.value("id", "")}});
    return answer.contains("error") || answer.value("snapshot", json()).is_object();
  })) << answer;
  ASSERT_FALSE(answer.contains("error")) << answer;
  EXPECT_EQ(answer["snapshot"]["txid"], d.status(leader)["txid"]);
  const std::string other = d.c.other_nodes(leader).at(0);
  EXPECT_NE(d.c.ask(other, "snapshot", {{"app", "db"}}).value("error", ""), "")
      << "a standby takes none";
  // What a person does to it is in the audit log.
  const std::string txid = std::to_string(answer["snapshot"]["txid"].get<std::uint64_t>());
  const std::string file = d.c.path("restored.db");
  EXPECT_EQ(d.c.command("snapshot restore db --to " + file).status, 0);
  EXPECT_TRUE(d.c.audited("database", "snapshot_restored_over").is_null());
  EXPECT_EQ(d.c.command("snapshot restore db --force --to " + file).status, 0);
  json entry = d.c.audited("database", "snapshot_restored_over");
  ASSERT_FALSE(entry.is_null());
  EXPECT_EQ(entry["fields"]["path"], file) << entry;
  const auto deleted = d.c.command("snapshot delete db --force --txid " + txid);
  EXPECT_EQ(deleted.status, 0) << deleted.out;
  entry = d.c.audited("database", "snapshot_deleted");
  ASSERT_FALSE(entry.is_null());
  EXPECT_EQ(entry["app"], "db");
  EXPECT_EQ(entry["fields"]["txid"], txid) << entry;
  EXPECT_NE(entry["fields"].value("by", ""), "") << entry;
  d.resume();
  d.check();
}

}  // namespace
}  // namespace cluster::e2e
