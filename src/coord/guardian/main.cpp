// The guardian program of a node: a small process of its own that holds what the node runs to the
// session's limits, and cleans up after the node's death (docs/protocols.md, "The guardian").
// Started by the node, never by hand.
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/error.h"
#include "coord/guardian.h"
#include "coord/records_json.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/process_scan.h"
#include "nats/key_value.h"

namespace cluster::coord {
namespace {

constexpr int kMemoryFd = 3;
constexpr int kLockFd = 4;  // the node folder's: held until what the node has started is gone
constexpr int kNodeFd = 5;
constexpr int kJobFd = 6;
constexpr int kWakeFd = 7;  // readable when the limit has become sooner
constexpr unsigned kFirstFree = 8;
constexpr Duration kRetry = std::chrono::milliseconds(100);
constexpr Duration kLook = std::chrono::milliseconds(20);  // again, past the limit
constexpr Duration kSweepAgain = std::chrono::seconds(1);  // for what can't be ended

std::string read_job() {
  std::string text(static_cast<std::size_t>(::lseek(kJobFd, 0, SEEK_END)), '\0');
  if (::pread(kJobFd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    throw Error(
        Errc::corrupt,
        "guardian: descriptor 6 holds no job: this program is started by a node, not by hand");
  ::close(kJobFd);
  return text;
}

class GuardianProgram {
 public:
  GuardianProgram()
      : memory_(kMemoryFd),
        job_(guardian_job_from(read_job())),
        connection_(loop_, options_of(job_)),
        jetstream_(connection_, std::chrono::seconds(1)),
        members_(jetstream_, job_.platform + "_members") {}

  void run() {
    node_exit_ = loop_.on_exit(kNodeFd, [this] { node_ended(); });
    wake_ = loop_.on_fd(kWakeFd, EPOLLIN, [this](unsigned) {
      std::uint64_t count = 0;
      if (::read(kWakeFd, &count, sizeof count) != sizeof count) return;
      if (memory_.state().over.load())
        node_ended();
      else
        watch_limit();
    });
    watch_limit();
    loop_.run();
  }

 private:
  static nats::ConnectOptions options_of(const GuardianJob& job) {
    nats::ConnectOptions options;
    options.nats = job.nats;
    options.name = "guardian of " + job.platform + "/" + job.node;
    options.ping_interval = std::chrono::seconds(10);
    return options;
  }

  // Kills what runs once the limit is near, and looks again when the limit that is known now would
  // come.
  void watch_limit() {
    auto& state = memory_.state();
    Time limit{Duration(state.limit_ns.load())};
    Time act_at = limit - Duration(state.margin_ns.load()) / 2;
    Time now = BootClock::now();
    if (now < act_at) {
      told_ = false;
      sweep_at_ = Time::min();
      limit_timer_ = loop_.at(act_at, [this] { watch_limit(); });
      return;
    }
    int killed = memory_.kill_groups();
    if (killed > 0) sweep_at_ = std::min(sweep_at_, now);
    std::size_t strays = 0;
    if (now >= sweep_at_) strays = sweep(now);
    if (killed > 0 && !told_) {
      told_ = true;
      log::warn("guardian_stops_by_force",
                {{"node", job_.node},
                 {"groups", killed},
                 {"strays", strays},
                 {"why", "the session's limit has passed and the node has not stopped them"}});
    }
    limit_timer_ = loop_.after(kLook, [this] { watch_limit(); });
  }

  // One look, past the limit, at what has left its group and is found by its environment; returns
  // how many there were. A single one, since the node may wake up and start anew in between.
  std::size_t sweep(Time now) {
    try {
      const auto found = end_marked({instance_mark(job_.marker)}, Duration::zero());
      sweep_at_ = found.ended.empty() && found.remaining.empty() ? Time::max() : now + kRetry;
      return found.ended.size() + found.remaining.size();
    } catch (const Error& error) {
      sweep_at_ = now + kSweepAgain;
      log::error("guardian_cannot_end", {{"node", job_.node}, {"why", error.what()}});
      return 0;
    }
  }

  void node_ended() {
    if (give_up_at_ != Time{}) return;
    limit_timer_.reset();
    wake_.reset();
    node_exit_.reset();
    int killed = memory_.kill_groups();
    give_up_at_ = BootClock::now() + job_.give_up;
    // Processes that have left their group are found by their environment. It takes milliseconds:
    // after the groups, and before others may start.
    std::size_t strays = 0;
    bool clean = false;
    try {
      auto found = end_marked({instance_mark(job_.marker)}, std::chrono::seconds(1));
      strays = found.ended.size();
      clean = found.remaining.empty();
      if (!found.remaining.empty())
        log::error("guardian_cannot_end", {{"node", job_.node},
                                           {"pid", found.remaining.front().pid},
                                           {"command", found.remaining.front().command},
                                           {"count", found.remaining.size()}});
    } catch (const Error& error) {
      log::error("guardian_cannot_end", {{"node", job_.node}, {"why", error.what()}});
    }
    // The next process of this node need not wait until NATS can be reached: it may be the one that
    // brings the NATS server along. Records change by compare-and-set alone.
    if (clean) ::close(kLockFd);
    log::info("guardian_cleans_up", {{"node", job_.node}, {"groups", killed}, {"strays", strays}});
    if (memory_.state().left.load()) return loop_.stop();
    write_left();
  }

  void write_left() {
    if (BootClock::now() >= give_up_at_) {
      log::error("guardian_gives_up", {{"node", job_.node},
                                       {"session", memory_.session()},
                                       {"means", "the others end the session by its timeouts"}});
      return loop_.stop();
    }
    members_.get(job_.node, [this](Result<nats::KvEntry> entry) {
      if (!entry) {
        if (entry.error().errc() == Errc::not_found) return loop_.stop();
        return again();
      }
      auto record = session_record_from(job_.node, entry.value().value);
      if (!record) {
        log::error("guardian_gives_up", {{"node", job_.node}, {"why", record.error().what()}});
        return loop_.stop();
      }
      if (!record.value().live() || record.value().session != memory_.session())
        return loop_.stop();  // settled
      SessionRecord left = record.value();
      left.state = SessionState::left;
      left.ended_by = job_.node + ": guardian: the process has ended";
      // Whatever comes of it, the record is read again: only what stands there settles it.
      members_.update(job_.node, to_json(left), entry.value().revision, std::chrono::seconds(1),
                      [this](Result<std::uint64_t> stored) {
                        if (stored) return loop_.stop();
                        again();
                      });
    });
  }

  void again() {
    retry_ = loop_.after(kRetry, [this] { write_left(); });
  }

  Loop loop_;
  GuardianMemory memory_;
  GuardianJob job_;
  nats::Connection connection_;
  nats::JetStream jetstream_;
  nats::KeyValue members_;
  LoopSource node_exit_;
  LoopSource limit_timer_;
  LoopSource wake_;
  LoopSource retry_;
  Time give_up_at_{};
  bool told_ = false;
  Time sweep_at_ = Time::max();
};

}  // namespace
}  // namespace cluster::coord

// Where standard error is a pipe whose reader hangs, a line is lost and this program is not held
// up.
static void never_wait_for_a_log_reader() {
  struct stat what{};
  if (::fstat(STDERR_FILENO, &what) != 0 || !S_ISFIFO(what.st_mode)) return;
  // A new description of the same pipe: the flag is not the node's.
  const int fd = ::open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return;
  ::dup2(fd, STDERR_FILENO);
  ::close(fd);
}

// Whoever ends programs late lets two run at the same time: also where a machine is overloaded, or
// short of memory. Its few milliseconds of work hold nobody up. Where that is not allowed (it takes
// root, CAP_SYS_NICE, CAP_IPC_LOCK or limits that are high enough), it is as late as others are.
static void come_before_others() {
  sched_param first{};
  first.sched_priority = ::sched_get_priority_min(SCHED_RR);
  if (::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &first) != 0)
    ::setpriority(PRIO_PROCESS, 0, -20);
  // What it has in memory stays there. What comes later is not counted against a limit.
  ::mlockall(MCL_CURRENT | MCL_ONFAULT);
}

int main() {
  // Connections and listening sockets of the node's program, where it did not mark them as its own.
  ::close_range(cluster::coord::kFirstFree, ~0U, 0);
  never_wait_for_a_log_reader();
  // The guardian goes when its node goes, not before.
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT}) std::signal(signal, SIG_IGN);
  try {
    cluster::coord::GuardianProgram guardian;
    come_before_others();
    guardian.run();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cpp-cluster-guardian: %s\n", e.what());
    return 1;
  }
}
