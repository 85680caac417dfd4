#include "core/loop.h"

#include <atomic>
#include <csignal>
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

TEST(Loop, OtherThreadsAreNeverTakenForTheLoopsWhileItRuns) {
  Loop loop;
  std::thread thread([&] { loop.run(); });
  while (loop.in_loop()) std::this_thread::yield();
  // Each post is a turn of the loop, and between turns is where one could be mistaken.
  int mistaken = 0;
  for (int i = 0; i < 100'000; ++i) {
    loop.post([] {});
    if (loop.in_loop()) ++mistaken;
  }
  EXPECT_EQ(mistaken, 0);
  loop.stop();
  thread.join();
  EXPECT_TRUE(loop.in_loop()) << "nobody runs it";
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

TEST(Loop, ASignalIsSeenWhicheverThreadItArrivesAt) {
  // Made before anybody waits for the signal, and with nothing blocked.
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over.load()) std::this_thread::yield();
  });
  int calls = 0;
  {
    Loop loop;
    auto source = loop.on_signal(SIGUSR1, [&] {
      if (++calls == 2) loop.stop();
    });
    loop.post([&] { pthread_kill(other.native_handle(), SIGUSR1); });
    loop.post([] { ::kill(getpid(), SIGUSR1); });
    loop.run();
  }
  EXPECT_EQ(calls, 2);
  over.store(true);
  other.join();
  // Its former disposition is back.
  struct sigaction now{};
  sigaction(SIGUSR1, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

TEST(Loop, ASignalIsSeenByEachLoopThatAsked) {
  Loop first;
  Loop second;
  int calls = 0;
  auto one = first.on_signal(SIGUSR1, [&] { ++calls; });
  auto two = second.on_signal(SIGUSR1, [&] { ++calls; });
  ::raise(SIGUSR1);
  EXPECT_TRUE(first.run_until([&] { return calls == 1; }, std::chrono::seconds(10)));
  EXPECT_TRUE(second.run_until([&] { return calls == 2; }, std::chrono::seconds(10)));
}

}  // namespace
}  // namespace cluster
