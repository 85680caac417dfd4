#include "core/loop.h"

#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cluster {
namespace {

using namespace std::chrono_literals;

TEST(Loop, PostedTasksRunInOrderAndBeforeDueTimers) {
  Loop loop;
  std::vector<int> seen;
  auto timer = loop.at(BootClock::now(), [&] {
    seen.push_back(3);
    loop.stop();
  });
  loop.post([&] { seen.push_back(1); });
  loop.post([&] { seen.push_back(2); });
  loop.run();
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
}

TEST(Loop, ATimerMayDropItself) {
  Loop loop;
  LoopSource timer;
  int calls = 0;
  timer = loop.every(1ms, [&] {
    ++calls;
    timer.reset();
    loop.stop();
  });
  loop.run();
  EXPECT_EQ(calls, 1);
}

TEST(Loop, PeriodicTimersGoOn) {
  Loop loop;
  int calls = 0;
  auto timer = loop.every(1ms, [&] {
    if (++calls == 5) loop.stop();
  });
  loop.run();
  EXPECT_EQ(calls, 5);
}

TEST(Loop, TasksFromOtherThreadsArrive) {
  Loop loop;
  int count = 0;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) loop.post([&] { ++count; });
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  other.join();
  EXPECT_EQ(count, 1000);
}

TEST(Loop, AnExceptionComesOutOfRun) {
  Loop loop;
  loop.post([] { throw std::runtime_error("broken"); });
  EXPECT_THROW(loop.run(), std::runtime_error);
}

TEST(Loop, AProcessExitIsSeen) {
  Loop loop;
  pid_t child = fork();
  if (child == 0) _exit(0);
  int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  ASSERT_GE(fd, 0);
  int calls = 0;
  auto source = loop.on_exit(fd, [&] {
    ++calls;
    loop.stop();
  });
  loop.run();
  EXPECT_EQ(calls, 1);
  waitpid(child, nullptr, 0);
  close(fd);
}

}  // namespace
}  // namespace cluster
