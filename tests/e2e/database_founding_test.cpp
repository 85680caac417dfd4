// A database that was there before the cluster, and a node that is killed while it begins the
// history with it. See databases.h for what must hold afterwards.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "e2e/databases.h"
#include "sqlite/handle.h"

namespace cluster::e2e {
namespace {

using sqlite::Handle;

constexpr std::uint64_t kMebibytes = 96;
constexpr std::size_t kRowsAfterwards = 50;
constexpr const char* kWait = "CPP_CLUSTER_FOUNDING_WAIT";

// So large that to send it takes a while, and nothing of it can be compressed.
void make_large(const std::string& path) {
  Handle db(path, Handle::Access::create);
  db.exec(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE large(v);"
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " +
      std::to_string(kMebibytes) + ") INSERT INTO large SELECT randomblob(1048576) FROM n");
}

// Of the stream: the fence, and then parts of 1 MB at most.
std::uint64_t messages(Cluster& c) {
  const json info = c.request("$JS.API.STREAM.INFO." + c.platform() + "_db_wal");
  return info.contains("state") ? info["state"].value("messages", std::uint64_t{0}) : 0;
}

TEST(DatabaseFounding, ANodeThatIsKilledWhileItSendsTheFirstTransactionIsWaitedFor) {
  Databases d{kPatient};
  std::filesystem::create_directories(d.folder("node-1"));
  make_large(d.file("node-1"));
  d.nodes = {"node-1", "node-2"};
  // It is there before the other, and begins nothing without it.
  ::setenv(kWait, "1h", 1);
  d.restart("node-2");
  ::setenv(kWait, "0s", 1);
  ASSERT_TRUE(d.c.wait_for("node-2 to wait", [&] {
    return d.status("node-2").value("trouble", "").find("waits some seconds") != std::string::npos;
  }));
  d.restart("node-1");
  ASSERT_TRUE(d.c.wait_for("the first part of the database", [&] { return messages(d.c) > 1; }));
  d.kill_all_of("node-1");
  ASSERT_LT(messages(d.c), kMebibytes) << "it was sent faster than the node was killed";

  EXPECT_TRUE(d.c.wait_for("node-2 to wait for it", [&] {
    return d.status("node-2").value("trouble", "").find("node-1 (which is down) has") !=
           std::string::npos;
  }));
  EXPECT_FALSE(d.ready("node-2"));
  d.restart("node-1");
  ASSERT_TRUE(d.wait_ready("node-2"));
  ASSERT_TRUE(d.wait_for_rows(kRowsAfterwards));
  ASSERT_TRUE(d.settle());
  for (const auto& node : d.nodes)
    EXPECT_EQ(open_to_read(d.file(node)).number("SELECT count(*) FROM large"),
              static_cast<std::int64_t>(kMebibytes));
  d.check();
}

}  // namespace
}  // namespace cluster::e2e
