// What nodes put aside of a replicated database: transactions of a leader that lost its lead are
// kept whatever comes after them, and can be had back.
#include <csignal>

#include "e2e/databases.h"
#include "sqlite/handle.h"
#include "sqlite/quarantine.h"
#include "sqlite/set_aside.h"

namespace cluster::e2e {
namespace {

using sqlite::Handle;
using sqlite::QuarantineKind;

constexpr std::size_t kWritten = 30;   // rows
constexpr std::size_t kLeastLost = 5;  // rows, at least

std::size_t kept_of(const Databases& d, const std::string& node, QuarantineKind kind) {
  return sqlite::summary_of(sqlite::in_quarantine({d.file(node)})).of(kind).count;
}

// While the node is down, by SQLite's means: no row of it is anybody's.
void write_beside(Databases& d, const std::string& node, int number) {
  Handle db(d.file(node), Handle::Access::read_write);
  db.exec("PRAGMA user_version=" + std::to_string(number));
}

TEST(DatabaseQuarantine, WhatALeaderHasLostIsNotDrivenOutByForeignWritesAndCanBeExported) {
  Databases d(kSteady);
  const std::string node = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kWritten));
  const auto epoch = d.c.epoch();
  const pid_t pid = d.c.node(node).pid();
  stop_and_wait(pid);
  ASSERT_TRUE(d.wait_for_rows(kLeastLost));
  d.c.wait_lease_moves(node, epoch);
  ASSERT_TRUE(d.wait_for_rows(kWritten));
  ::kill(pid, SIGCONT);
  ASSERT_TRUE(d.c.wait_for("the divergence to be seen", [&] {
    return d.status(node).value("divergences", 0) > 0 && d.ready(node);
  }));
  const auto lost = sqlite::those_set_aside(d.file(node));
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(sqlite::kind_of(lost.front()), QuarantineKind::diverged);
  const auto rows = Databases::rows_of(lost.front());

  d.c.wait_leader("db", node);
  const auto now = d.c.epoch();
  for (int i = 1; i <= 5; ++i) {
    d.stop(node);
    write_beside(d, node, i);
    d.restart(node);
    ASSERT_TRUE(d.wait_ready(node));
  }
  // On a machine that stands still the lead may have come to this node; then it may have more.
  const bool undisturbed = d.c.epoch() == now;
  if (undisturbed) {
    EXPECT_EQ(kept_of(d, node, QuarantineKind::diverged), 1U);
    EXPECT_EQ(kept_of(d, node, QuarantineKind::foreign), sqlite::kMostSetAside);
    EXPECT_EQ(d.audited("foreign_writes"), 5U);
  }
  EXPECT_EQ(Databases::rows_of(lost.front()), rows);

  const std::string name =
      sqlite::find_quarantined({d.file(node)}, lost.front().substr(lost.front().rfind('/') + 1))
          .name();
  const auto shown = d.c.command("db quarantine show db " + name + " -o json");
  ASSERT_EQ(shown.status, 0) << shown.out;
  const json told = json::parse(shown.out, nullptr, false);
  ASSERT_TRUE(told.is_object()) << shown.out;
  EXPECT_EQ(told["node"], node);
  EXPECT_EQ(told["quarantined"]["kind"], "diverged");
  EXPECT_EQ(told["quarantined"]["noted"], true);
  const std::string file = d.c.path("exported.db");
  const auto exported = d.c.command("db quarantine export db " + name + " --to " + file);
  ASSERT_EQ(exported.status, 0) << exported.out;
  EXPECT_EQ(Handle(file, Handle::Access::read_only).text("PRAGMA integrity_check"), "ok");
  EXPECT_EQ(Databases::rows_of(file), rows);
  d.check(Loss::reported);
  EXPECT_GE(d.lost, static_cast<int>(kLeastLost));
}

// It can't be told what of it the program has committed at the very end. The node has followed
// before it led: all that its copy held then was from the stream.
TEST(DatabaseQuarantine, WritesToTheDatabaseOfALeaderThatWasKilledCountAsLost) {
  Databases d(kSteady);
  const std::string first = d.start_watched(3);
  ASSERT_TRUE(d.wait_for_rows(kWritten));
  auto epoch = d.c.epoch();
  ASSERT_EQ(d.c.ask(first, "stepdown", {{"app", "db"}}).value("error", ""), "");
  const std::string node = d.c.wait_leader("db", first, epoch);
  ASSERT_TRUE(d.wait_for_rows(kWritten));
  epoch = d.c.epoch();
  d.kill_all_of(node);
  write_beside(d, node, 1);
  d.c.wait_leader("db", node, epoch);
  d.restart(node);
  ASSERT_TRUE(d.wait_ready(node));
  EXPECT_EQ(kept_of(d, node, QuarantineKind::diverged), 1U);
  EXPECT_EQ(kept_of(d, node, QuarantineKind::foreign), 0U);
  d.check(Loss::reported);
}

}  // namespace
}  // namespace cluster::e2e
