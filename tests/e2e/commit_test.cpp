// Commits that wait for JetStream, under faults: what a client was told is committed is never lost.
#include <algorithm>
#include <csignal>
#include <filesystem>

#include "e2e/databases.h"
#include "sqlite/commit_place.h"

namespace cluster::e2e {
namespace {

// A leader commits while NATS does not answer, and dies before it does.
TEST(Commit, NoAcknowledgedRowIsLostWhenLeadersAreKilled) {
  Databases d;
  d.commit = Commit::replicated;
  d.start_watched(3);
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(d.wait_for_rows(100));
    const std::string leader = d.c.wait_leader();  // sessions may end while NATS stands still
    const auto epoch = d.c.epoch();
    stop_and_wait(d.c.server(0).pid());
    const Time end = BootClock::now() + milliseconds(100);
    EXPECT_TRUE(d.c.wait_for("time to pass", [&] { return BootClock::now() >= end; }));
    d.kill_all_of(leader);
    ::kill(d.c.server(0).pid(), SIGCONT);
    ASSERT_NE(d.c.wait_leader("db", leader, epoch), leader);
    ASSERT_TRUE(d.wait_for_rows(50));
    d.restart(leader);
    ASSERT_TRUE(d.wait_ready(leader));
  }
  d.check(Loss::none);
}

// A backend that goes on beside the next leader: nothing that it writes is acknowledged.
TEST(Commit, NoAcknowledgedRowIsLostWhenALeaderIsStoppedAndItsBackendGoesOn) {
  Databases d(kSteady);
  d.commit = Commit::replicated;
  const std::string leader = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(100));
  const auto epoch = d.c.epoch();
  const pid_t backend = d.c.backend_pid(leader);
  const pid_t node = d.c.node(leader).pid(), guardian = d.c.guardian(leader);
  ASSERT_NE(guardian, 0);
  d.c.allow_overlap(backend);
  const auto refused = [&] {
    const auto& rows = d.logged("unsure");
    return std::count_if(rows.begin(), rows.end(),
                         [&](const Row& row) { return row.first == epoch; });
  };
  const auto before = refused();
  stop_and_wait(guardian);
  stop_and_wait(node);
  d.c.wait_lease_moves(leader, epoch);
  ASSERT_TRUE(d.wait_for_rows(50));
  EXPECT_TRUE(alive(backend));
  ASSERT_TRUE(
      d.c.wait_for("a commit beside the next leader to fail", [&] { return refused() > before; }));
  ::kill(node, SIGCONT);
  ::kill(guardian, SIGCONT);
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  ASSERT_TRUE(d.wait_ready(leader));
  d.check(Loss::none);
}

TEST(Commit, AHandOverRefusesCommitsAndLosesNone) {
  Databases d(kPatient);
  d.commit = Commit::replicated;
  const std::string leader = d.start_watched(2);
  ASSERT_TRUE(d.wait_for_rows(100));
  const auto epoch = d.c.epoch();
  EXPECT_EQ(d.c.ask(leader, "stepdown", {{"app", "db"}}).value("error", ""), "");
  EXPECT_NE(d.c.wait_leader("db", leader, epoch), leader);
  for (const auto& folder : sqlite::commit_folders_of_node())
    EXPECT_TRUE(d.c.wait_for("the old leader's socket to go", [&] {
      return !std::filesystem::exists(folder.path + "/" +
                                      sqlite::commit_socket_name(d.file(leader)));
    }));
  ASSERT_TRUE(d.wait_for_rows(50));
  d.check(Loss::none);
}

}  // namespace
}  // namespace cluster::e2e
