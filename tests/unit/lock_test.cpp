// What a lock writes and when, for one node with a session of its own; what the locks of many nodes
// do to each other is the simulator's.
#include "coord/lock.h"

#include <gtest/gtest.h>

namespace cluster::coord {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class LockOfANode : public ::testing::Test {
 protected:
  LockOfANode() {
    owner.start();
    SessionOwner::Output out;
    owner.tick(view, true, false, now, out);
    const auto write = out.write.value();
    view.see(1, write.record, now);
    owner.on_write(write.id, WriteOutcome::stored, 1, now, out);
    now += timing.session_timeout;  // a node that is alone waits so long
  }

  LockClaim wants(std::uint64_t id) const { return {.id = id, .key = "_.l"}; }
  LockParty of_other(std::uint64_t claim) const {
    LockParty party;
    party.session = {"other", "Zk3"};
    party.session_rev = 2;
    party.claim = claim;
    return party;
  }
  /// Held by another node, with so many of its claims in the queue.
  LockRecord held_by_other(std::uint64_t waiters) const {
    LockRecord record;
    record.key = "_.l";
    record.holders = {of_other(1)};
    for (std::uint64_t i = 0; i < waiters; ++i) record.waiters.push_back(of_other(2 + i));
    return record;
  }
  Lock::Output tick() {
    Lock::Output out;
    lock.tick(context, now, out);
    return out;
  }
  void read(Revision rev, const LockRecord& record) {
    Lock::Output out;
    lock.on_read(rev, record, context, now, out);
  }
  void stored(const Lock::Output::Write& write, Revision rev) {
    Lock::Output out;
    lock.on_write(write.id, WriteOutcome::stored, rev, context, now, out);
  }
  void refused(const Lock::Output::Write& write) {
    Lock::Output out;
    lock.on_write(write.id, WriteOutcome::refused, 0, context, now, out);
  }

  Time now{std::chrono::hours(1)};
  SessionTiming timing{};
  SessionOwner owner{{.node = "me",
                      .timing = timing,
                      .new_id = [] { return "Qd7"; },
                      .facts = [] { return std::make_shared<const NodeFacts>(); }}};
  SessionView view{};
  std::function<double()> random = [] { return 0.99; };
  Lock::Context context{owner, view, timing, random};
  Lock lock{"_.l"};
};

TEST_F(LockOfANode, WhoIsNextInTheQueueJoinsAtOnce) {
  lock.claim(wants(7));
  EXPECT_TRUE(tick().read);
  read(10, held_by_other(0));
  const auto write = tick().write;
  ASSERT_TRUE(write);
  ASSERT_EQ(write->record.waiters.size(), 1u);
  EXPECT_EQ(write->record.waiters[0].claim, 7u);
}

TEST_F(LockOfANode, WhoQueuesUpBehindOthersTakesHisTimeAndSharesAWrite) {
  lock.claim(wants(7));
  tick();
  read(10, held_by_other(3));
  EXPECT_FALSE(tick().write);
  ASSERT_EQ(lock.due(), now + microseconds(1'500));
  now += microseconds(700);
  lock.claim(wants(8));
  // A hand-over between others does not make it later.
  LockRecord next = held_by_other(3);
  next.holders = {next.waiters.front()};
  next.waiters.erase(next.waiters.begin());
  next.waiters.push_back(of_other(9));
  Lock::Output out;
  lock.on_notice(11, next, context, now, out);
  EXPECT_FALSE(tick().write);
  ASSERT_EQ(lock.due(), now + microseconds(800));
  now = lock.due();
  const auto write = tick().write;
  ASSERT_TRUE(write);
  EXPECT_EQ(write->expected, 11u);
  ASSERT_EQ(write->record.waiters.size(), 5u);
  EXPECT_EQ(write->record.waiters[3].claim, 7u);
  EXPECT_EQ(write->record.waiters[4].claim, 8u);
}

// A third may yet get it: then "held" would have been a lie.
TEST_F(LockOfANode, WhoDoesNotWaitHearsHeldOnlyOnceSomebodyHoldsIt) {
  lock.claim(wants(7));
  LockClaim impatient = wants(8);
  impatient.wait = false;
  lock.claim(impatient);
  tick();
  Lock::Output out;
  lock.on_read(10, std::nullopt, context, now, out);
  out = tick();
  ASSERT_TRUE(out.write);
  EXPECT_EQ(out.write->record.holders[0].claim, 7u);
  EXPECT_TRUE(out.news.empty());
  refused(*out.write);
  now += milliseconds(200);
  EXPECT_TRUE(tick().read);
  read(11, held_by_other(0));
  out = tick();
  ASSERT_EQ(out.news.size(), 1u);
  EXPECT_EQ(out.news[0].claim, 8u);
  EXPECT_EQ(out.news[0].what, LockNews::What::held);
  EXPECT_EQ(out.news[0].text, "other");
}

TEST_F(LockOfANode, AReleaseWaitsForNothingAndTakesTheQueueAlong) {
  lock.claim(wants(7));
  tick();
  LockRecord mine = held_by_other(3);
  mine.holders.front().session = owner.id();
  mine.holders.front().session_rev = owner.session_rev();
  mine.holders.front().claim = 7;
  read(10, mine);
  ASSERT_TRUE(lock.holds(7));
  // Others get ahead of one who only wants to queue up, again and again.
  lock.claim(wants(8));
  Revision rev = 10;
  LockRecord there = mine;
  for (int i = 0; i < 7; ++i) {
    tick();
    now = std::max(now, lock.due());
    const auto write = tick().write;
    ASSERT_TRUE(write) << i;
    refused(*write);
    EXPECT_TRUE(tick().read);
    there.waiters.push_back(of_other(20 + rev));
    read(++rev, there);
  }
  EXPECT_FALSE(tick().write);
  ASSERT_GT(lock.due(), now + milliseconds(50));
  Lock::Output out;
  lock.release(7, false, context, out);
  const auto write = tick().write;
  ASSERT_TRUE(write) << "it does not wait for the other's turn";
  ASSERT_EQ(write->record.holders.size(), 1u);
  EXPECT_EQ(write->record.holders[0].claim, 2u);
  EXPECT_EQ(write->record.waiters.back().claim, 8u);
  stored(*write, rev + 1);
  EXPECT_FALSE(lock.holds(7));
}

}  // namespace
}  // namespace cluster::coord
