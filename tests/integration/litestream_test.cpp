// Litestream restores from our bucket. Needs its program: in CLUSTER_LITESTREAM, or on the PATH.
#include <algorithm>
#include <cstdlib>
#include <iomanip>
#include <sstream>

#include "integration/snapshot_fixture.h"
#include "nats/stored_message.h"

namespace cluster::sqlite {
namespace {

using testing::kSoon;

std::string litestream() {
  if (const char* named = std::getenv("CLUSTER_LITESTREAM")) return named;
  std::stringstream folders(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (std::filesystem::exists(folder + "/litestream")) return folder + "/litestream";
  return {};
}

class LitestreamTest : public SnapshotFixture {
 protected:
  int restore_with(const std::string& program, const std::string& name, const std::string& more) {
    std::ofstream(path("litestream.yml"))
        << "dbs:\n  - path: " << path("p.db")
        << "\n    replica:\n      type: nats\n      url: " << servers[0].url()
        << "/p_a_snapshots\n";
    const std::string command = "'" + program + "' restore -config '" + path("litestream.yml") +
                                "' -o '" + path(name) + "' " + more + " '" + path("p.db") + "' >'" +
                                path("log") + "' 2>&1";
    return std::system(command.c_str());
  }
};

TEST_F(LitestreamTest, RestoresOurSnapshotsAndMergedFiles) {
  const std::string program = litestream();
  if (program.empty()) GTEST_SKIP() << "optional: there is no litestream on this machine";
  Handle db = create("p.db");
  Lead lead(*this, "p.db", 1);
  auto options = keeper_options();
  options.plan.merge_interval = std::chrono::milliseconds(50);
  options.plan.merge_count = 3;
  auto keeper = keep(lead, options);
  create_snapshot(*keeper);
  std::vector<Txid> txids;
  for (int i = 1; i <= 5; ++i) {
    db.exec("INSERT INTO t(v) VALUES(randomblob(2000))");
    txids.push_back(lead.sync());
    ASSERT_TRUE(loop.run_until([&] { return keeper->status().reach == txids.back(); }, kSoon));
  }
  ASSERT_TRUE(loop.run_until([&] { return keeper->status().merged == 6; }, kSoon));
  keeper.reset();
  ASSERT_EQ(restore_with(program, "l.db", ""), 0) << bytes_of(path("log"));
  EXPECT_EQ(rows("l.db"), 5);
  std::stringstream txid;
  txid << "-txid " << std::hex << std::setw(16) << std::setfill('0') << txids[1];
  ASSERT_EQ(restore_with(program, "l2.db", txid.str()), 0) << bytes_of(path("log"));
  EXPECT_EQ(rows("l2.db"), 2);
  // Litestream takes what is of an earlier time than it is told, to the nanosecond.
  int n = 0;
  for (const auto& file : list().files) {
    if (file.level != 1) continue;
    const auto number = static_cast<std::int64_t>(
        std::count_if(txids.begin(), txids.end(), [&](Txid one) { return one <= file.max; }));
    for (const int later : {0, 1}) {
      const std::string name = "at" + std::to_string(++n) + ".db";
      const std::string time = nats::rfc3339_from(file.time_ns + later);
      ASSERT_EQ(restore_with(program, name, "-timestamp " + time), 0) << bytes_of(path("log"));
      EXPECT_EQ(rows(name), number - 1 + later);
    }
  }
  EXPECT_EQ(n, 2 * 5);
}

}  // namespace
}  // namespace cluster::sqlite
