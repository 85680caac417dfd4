// The guardian program, held to limits by shared memory as a node does it.
#include "coord/guardian.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "built.h"
#include "integration/nats_fixture.h"

namespace cluster::coord {
namespace {

using namespace std::chrono_literals;
using testing::kSoon;
using testing::NatsServers;
using testing::TemporaryFolder;

/// A process group of its own that does nothing, as a backend.
class Group {
 public:
  Group() : pid_(::fork()) {
    if (pid_ == 0) {
      ::setpgid(0, 0);
      for (;;) ::pause();
    }
    ::setpgid(pid_, pid_);
  }
  ~Group() {
    ::kill(pid_, SIGKILL);
    if (!ended_) ::waitpid(pid_, nullptr, 0);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  pid_t pid() const { return pid_; }
  bool ended() {
    if (!ended_) ended_ = ::waitpid(pid_, nullptr, WNOHANG) == pid_;
    return ended_;
  }

 private:
  pid_t pid_;
  bool ended_ = false;
};

class GuardianTest : public ::testing::Test {
 protected:
  GuardianTest() : lock_(::open((folder_ / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}
  ~GuardianTest() override { ::close(lock_); }

  Guardian::Options options() {
    Guardian::Options o;
    o.program = built::kGuardian;
    o.platform = "test";
    o.node = "node-1";
    o.marker = "no-such-folder";
    o.nats.servers = servers_.urls();
    o.lock_fd = lock_;
    o.give_up = 1s;
    return o;
  }

  TemporaryFolder folder_;
  NatsServers servers_;
  int lock_;
  Loop loop_;
};

TEST_F(GuardianTest, EndsWhatRunsShortlyBeforeTheLimit) {
  Guardian guardian(loop_, options());
  Group group;
  guardian.memory().add_group(group.pid());
  const Time limit = BootClock::now() + 1s;
  guardian.set_limit(limit, 400ms);
  guardian.start();
  ASSERT_TRUE(loop_.run_until([&] { return group.ended(); }, kSoon));
  EXPECT_GE(BootClock::now(), limit - 200ms);
}

TEST_F(GuardianTest, HearsOfALimitThatHasBecomeSooner) {
  Guardian guardian(loop_, options());
  Group group;
  guardian.memory().add_group(group.pid());
  // Far: a session without voters ends with lease_ttl.
  guardian.set_limit(BootClock::now() + 1h, 100ms);
  guardian.start();
  // It has looked at the memory once its connection stands.
  nats::Connection client(loop_, servers_.options());
  ASSERT_TRUE(testing::connect(client));
  ASSERT_FALSE(loop_.run_until([&] { return group.ended(); }, 300ms));
  // Near: it has voters. The node does nothing from now on, as one that was stopped.
  guardian.set_limit(BootClock::now() + 500ms, 100ms);
  ASSERT_TRUE(loop_.run_until([&] { return group.ended(); }, kSoon));
}

TEST_F(GuardianTest, IsReplacedWhenItIsKilled) {
  Guardian guardian(loop_, options());
  guardian.set_limit(BootClock::now() + 1h, 100ms);
  guardian.start();
  const pid_t first = guardian.pid();
  ASSERT_GT(first, 0);
  ::kill(first, SIGKILL);
  ASSERT_TRUE(
      loop_.run_until([&] { return guardian.running() && guardian.pid() != first; }, kSoon));
  // The new one does its work.
  Group group;
  guardian.memory().add_group(group.pid());
  guardian.set_limit(Time{}, 100ms);
  ASSERT_TRUE(loop_.run_until([&] { return group.ended(); }, kSoon));
}

}  // namespace
}  // namespace cluster::coord
