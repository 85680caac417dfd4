#include "core/strand.h"

#include <atomic>
#include <future>
#include <vector>

#include <gtest/gtest.h>

namespace cluster {
namespace {

TEST(Strand, TasksOfAStrandRunInOrderAndOneAtATime) {
  std::vector<int> order;  // only one task at a time touches it: TSan would tell
  std::promise<void> done;
  StrandPool pool;
  auto strand = pool.strand();
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(strand->post([&, i] { order.push_back(i); }));
  ASSERT_TRUE(strand->post([&] { done.set_value(); }));
  done.get_future().wait();
  ASSERT_EQ(order.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Strand, WithoutThreadsToBeHadAPostIsRefusedOrWaits) {
  std::promise<void> begun;
  std::promise<void> release;
  std::promise<void> ran;
  StrandPool pool;
  auto one = pool.strand();
  auto other = pool.strand();
  pool.refuse_threads(true);
  EXPECT_FALSE(one->post([] { FAIL() << "a refused task has run"; }));
  pool.refuse_threads(false);
  ASSERT_TRUE(one->post([&] {
    begun.set_value();
    release.get_future().wait();
  }));
  begun.get_future().wait();
  pool.refuse_threads(true);
  // It runs when the thread that there is has nothing else to do.
  EXPECT_TRUE(other->post([&] { ran.set_value(); }));
  release.set_value();
  ran.get_future().wait();
}

TEST(Strand, ABlockedStrandDoesNotHoldUpAnother) {
  std::promise<void> release;  // what tasks touch outlives the pool, whose end waits for them
  std::promise<void> ran;
  StrandPool pool;
  auto blocked = pool.strand();
  auto other = pool.strand();
  blocked->post([&] { release.get_future().wait(); });
  other->post([&] { ran.set_value(); });
  ran.get_future().wait();
  release.set_value();
}

TEST(Strand, AFullQueueRefusesFurtherTasks) {
  std::promise<void> started;
  std::promise<void> release;
  StrandPool pool;
  auto strand = pool.strand(2);
  strand->post([&] {
    started.set_value();
    release.get_future().wait();
  });
  started.get_future().wait();
  EXPECT_TRUE(strand->post([] {}));
  EXPECT_TRUE(strand->post([] {}));
  EXPECT_FALSE(strand->post([] {}));
  release.set_value();
}

}  // namespace
}  // namespace cluster
