#include "core/strand.h"

#include <atomic>
#include <future>
#include <vector>

#include <gtest/gtest.h>

namespace cluster {
namespace {

TEST(Strand, TasksOfAStrandRunInOrderAndOneAtATime) {
  StrandPool pool;
  auto strand = pool.strand();
  std::vector<int> order;  // only one task at a time touches it: TSan would tell
  std::promise<void> done;
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(strand->post([&, i] { order.push_back(i); }));
  ASSERT_TRUE(strand->post([&] { done.set_value(); }));
  done.get_future().wait();
  ASSERT_EQ(order.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Strand, ABlockedStrandDoesNotHoldUpAnother) {
  StrandPool pool;
  auto blocked = pool.strand();
  auto other = pool.strand();
  std::promise<void> release;
  std::promise<void> ran;
  blocked->post([&] { release.get_future().wait(); });
  other->post([&] { ran.set_value(); });
  ran.get_future().wait();
  release.set_value();
}

TEST(Strand, AFullQueueRefusesFurtherTasks) {
  StrandPool pool;
  auto strand = pool.strand(2);
  std::promise<void> started;
  std::promise<void> release;
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
