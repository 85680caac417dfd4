// Snapshots of leaders whose wall clocks are hours off: what they are said to be of is JetStream's
// time, and no wall clock makes anything old.
#include "built.h"
#include "core/wall_time.h"
#include "e2e/databases.h"
#include "nats/stored_message.h"

namespace cluster::e2e {
namespace {

constexpr int kHours = 3;

class SnapshotTimeE2e : public ::testing::TestWithParam<int> {
 protected:
  SnapshotTimeE2e() {
    d.adjust = [this](const std::string& node, json& options, Child::Options& how) {
      auto& sqlite = options["apps"][0]["sqlite"];
      sqlite["snapshot_interval_ms"] = 1'000;
      sqlite["snapshot_merge_interval_ms"] = 100;
      sqlite["snapshot_retention_ms"] = std::chrono::milliseconds(std::chrono::hours(2)).count();
      how.environment = {std::string("LD_PRELOAD=") + built::kWallClock,
                         "CLUSTER_WALL_CLOCK=" + d.c.path("clock-" + node),
                         "ASAN_OPTIONS=verify_asan_link_order=0"};
    };
    set_clock("node-1", 0);
    set_clock("node-2", 0);
  }
  void set_clock(const std::string& node, int seconds) {
    write_file(d.c.path("clock-" + node), std::to_string(seconds) + "\n");
  }
  static int skew() { return GetParam() * 3'600; }

  json snapshots(const std::string& leader) {
    const json now = d.status(leader).value("snapshots", json());
    return now.is_object() ? now : json{{"count", 0}, {"taken", 0}};
  }
  json listed() {
    const auto told = d.c.command("snapshot list db --output json");
    EXPECT_EQ(told.status, 0) << told.out;
    return json::parse(told.out, nullptr, false);
  }
  std::set<std::string> objects() {
    std::set<std::string> all;
    const json list = listed();
    for (const auto& file : list["snapshots"]) all.insert(file["object"]);
    return all;
  }
  Cluster::Told restore(const std::string& name, std::int64_t time_ns) {
    return d.c.command("snapshot restore db --to " + d.c.path(name) + " --time " +
                       nats::rfc3339_from(time_ns));
  }
  /// No earlier moment has this time.
  testing::AssertionResult wait_past(std::int64_t ns) {
    return d.c.wait_for("the clock to go on", [&] { return wall_ns() > ns; });
  }

  Databases d{kPatient};
};

TEST_P(SnapshotTimeE2e, AMomentIsRestoredAsJetStreamStampedIt) {
  set_clock("node-1", skew());
  const std::int64_t begun = wall_ns();
  const std::string leader = d.start(1);
  ASSERT_TRUE(d.wait_for_rows(20));
  ASSERT_TRUE(d.settle());
  const auto good = Databases::rows_of(d.file(leader));
  const std::int64_t wanted = wall_ns();
  ASSERT_TRUE(wait_past(wanted));
  // The accident, and a snapshot of it.
  d.resume();
  ASSERT_TRUE(d.wait_for_rows(20));
  ASSERT_TRUE(d.settle());
  const std::int64_t last = wall_ns();
  ASSERT_TRUE(wait_past(last));
  ASSERT_EQ(d.c.command("snapshot create db").status, 0);

  const auto restored = restore("good.db", wanted);
  ASSERT_EQ(restored.status, 0) << restored.out;
  EXPECT_EQ(Databases::rows_of(d.c.path("good.db")), good);
  ASSERT_EQ(restore("last.db", last).status, 0);
  EXPECT_EQ(Databases::rows_of(d.c.path("last.db")), Databases::rows_of(d.file(leader)));
  // By the leader's clock there was something an hour ago, or is in an hour.
  const std::int64_t hour = std::chrono::nanoseconds(std::chrono::hours(1)).count();
  EXPECT_EQ(restore("before.db", begun - hour).status, 4) << "nothing was stored by then";
  const auto after = restore("after.db", last + hour);
  EXPECT_EQ(after.status, 0);
  EXPECT_NE(after.out.find("it is the newest that there is"), std::string::npos) << after.out;
  EXPECT_EQ(Databases::rows_of(d.c.path("after.db")), Databases::rows_of(d.file(leader)));

  const json all = listed();
  for (const char* kind : {"snapshots", "merged"})
    for (const auto& file : all[kind]) {
      const auto time = nats::time_ns_from(file["time"].get<std::string>());
      ASSERT_TRUE(time) << file;
      EXPECT_GE(*time, begun) << file;
      EXPECT_LE(*time, last) << file;
    }
  EXPECT_EQ(all["foreign"], json::array());
  d.resume();
  d.check();
}

TEST_P(SnapshotTimeE2e, ALeaderWhoseClockIsOffRemovesNothingAndStopsNothing) {
  std::string leader = d.start(1);
  ASSERT_TRUE(d.wait_for_rows(20));
  const auto wait_taken = [&](std::uint64_t more) {
    const auto before = snapshots(leader).value("taken", std::uint64_t{0});
    return d.c.wait_for(std::to_string(more) + " snapshots by " + leader, [&] {
      return snapshots(leader).value("taken", std::uint64_t{0}) >= before + more;
    });
  };
  ASSERT_TRUE(wait_taken(4));
  auto kept = objects();
  ASSERT_GE(kept.size(), 4u);
  // Somebody's upload that is under way.
  const std::string subject = "$O." + d.c.platform() + "_db_snapshots.C.upload";
  ASSERT_FALSE(d.c.request(subject, {{"a", "chunk"}}).contains("error"));

  const auto expect_all_kept = [&] {
    const auto now = objects();
    for (const auto& object : kept)
      EXPECT_TRUE(now.contains(object)) << object << " was removed by " << leader;
    kept = now;
  };
  const auto hand_over = [&](const std::string& to) {
    d.stop(leader);
    d.restart(to);
    leader = d.c.wait_leader("db", leader);
    ASSERT_EQ(leader, to);
    ASSERT_TRUE(d.wait_for_rows(20));
    ASSERT_TRUE(wait_taken(3)) << "by " << to;
    expect_all_kept();
  };
  set_clock("node-2", skew());
  // It begins with what the bucket and the stream have.
  d.nodes.push_back("node-2");
  hand_over("node-2");
  const json chunk = d.c.request("$JS.API.STREAM.MSG.GET.OBJ_" + d.c.platform() + "_db_snapshots",
                                 {{"last_by_subj", subject}});
  EXPECT_TRUE(chunk.contains("message")) << "an upload that is under way was freed: " << chunk;
  // And one whose clock is right goes on behind it.
  hand_over("node-1");
  EXPECT_EQ(snapshots(leader).value("trouble", "?"), "");
}

INSTANTIATE_TEST_SUITE_P(Clocks, SnapshotTimeE2e, ::testing::Values(-kHours, kHours),
                         [](const auto& one) {
                           return one.param < 0 ? "ThreeHoursBehind" : "ThreeHoursAhead";
                         });

}  // namespace
}  // namespace cluster::e2e
