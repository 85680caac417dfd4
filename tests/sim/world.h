// A simulated platform: nodes that run the deciding code of src/coord, a network, and a store that
// behaves as a JetStream KV at its worst. Virtual time, one thread, everything from one seed. It
// knows nothing of how the code under test decides.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "coord/coordination.h"

namespace cluster::sim {

using coord::Bucket;
using coord::Revision;
using Nanos = std::int64_t;  ///< true time since the start

constexpr Nanos kMillisecond = 1'000'000;
constexpr Nanos kSecond = 1'000 * kMillisecond;

/// xoshiro256**, seeded by splitmix64 (Blackman and Vigna).
class Random {
 public:
  explicit Random(std::uint64_t seed);
  std::uint64_t next();
  /// Uniform in [0, bound).
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  Nanos between(Nanos low, Nanos high) {
    return low + static_cast<Nanos>(below(static_cast<std::uint64_t>(high - low + 1)));
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  bool chance(double p) { return unit() < p; }

 private:
  std::uint64_t s_[4];
};

/// How the network and the store behave; changed by faults as time goes on.
struct Weather {
  Nanos delay_low = kMillisecond / 10;
  Nanos delay_high = kMillisecond;
  double slow = 0;  ///< share of messages that take up to slow_high
  Nanos slow_high = kSecond;
  double drop = 0;
  double duplicate = 0;
  double answer_lost = 0;  ///< of store writes that took effect
  double write_late = 0;   ///< of store writes that land up to late_high after they were sent
  Nanos late_high = 4 * kSecond;
  Nanos watch_lag_high = kMillisecond;
  double watch_slow = 0;  ///< share of watch deliveries that lag up to watch_slow_high
  Nanos watch_slow_high = 3 * kSecond;
};

struct Options {
  std::uint64_t seed = 1;
  int nodes = 3;
  int apps = 2;
  int locks = 0;  ///< names in use: by turns a lock, a semaphore of 2, a barrier
  coord::SessionTiming timing{};
  bool worst_clocks = false;  ///< some as slow, some as fast as drift allows; else anything between
  bool guardians = true;
  bool zones = false;
};

class World {
 public:
  explicit World(Options options);

  /// Runs events until true time `end` or until a violation.
  void run_until(Nanos end);
  /// Runs until the condition holds after a step; false when `end` came first.
  bool run_until(const std::function<bool()>& condition, Nanos end);
  void at(Nanos when, std::function<void()> fault);

  Nanos now() const { return now_; }
  Random& random() { return random_; }
  Weather& weather() { return weather_; }
  const Options& options() const { return options_; }
  std::uint64_t steps() const { return steps_; }
  /// Empty while all invariants have held.
  const std::string& violation() const { return violation_; }
  /// The last events, for a person who reads a failing seed.
  std::string trace() const;
  void keep_trace(bool keep) { keep_trace_ = keep; }
  /// A digest of all that happened: equal for equal seeds.
  std::uint64_t digest() const { return digest_; }

  // Faults.
  void start_node(int node);
  void crash_process(int node);  ///< the guardian, if there is one, writes `left`
  void crash_machine(int node);  ///< both at once; the next start is another boot
  void pause(int node, Nanos duration);
  void cut(int from, int to, bool cut) {
    cuts_[{from, to}] = cut;
  }  ///< one way; kStore is the store
  void heal();
  void store_down(Nanos duration);
  void step_down(int node, int app, const std::string& target);
  void leave(int node);
  /// What its record says of it has changed.
  void facts_changed(int node);
  void forget_withdrawals(int node);
  /// A client on that node claims the lock; once granted it holds it for a while.
  void claim_lock(int node, int lock, bool wait, Nanos hold);
  /// A client gives up waiting, or holding, if there is one.
  void withdraw_claim(int node);
  /// Removes the record of a lock that nobody wants, as the coordinator does.
  void sweep_lock(int lock);
  /// Of all clients.
  std::size_t claims() const;
  /// That nodes still know: a client that has given up may have left one behind.
  std::size_t known_claims() const;
  std::uint64_t grants() const { return grants_; }

  bool alive(int node) const { return nodes_[static_cast<std::size_t>(node)].process != nullptr; }
  bool paused(int node) const { return nodes_[static_cast<std::size_t>(node)].paused; }
  bool in_force(int node) const;
  bool leads(int node, int app) const;
  std::optional<int> leader(int app) const;
  std::uint64_t sessions_ended() const {
    return sessions_ended_;
  }  ///< of running processes, not by leave()
  std::uint64_t elections() const { return elections_; }
  static std::string node_name(int node) { return "n" + std::to_string(node); }
  static std::string app_name(int app) { return "app" + std::to_string(app); }
  void violate(const std::string& what);

  static constexpr int kStore = -1;

 private:
  friend class Invariants;
  using StoreValue = std::variant<coord::SessionRecord, coord::LeaseRecord>;
  struct Change {
    std::string key;
    std::shared_ptr<const StoreValue> value;
  };
  struct BucketState {
    std::map<std::string, std::pair<Revision, std::shared_ptr<const StoreValue>>> latest;
    std::vector<Change> log;  // change i has revision i + 1
  };
  struct Tick {
    std::uint64_t generation;
  };
  struct Pump {
    Bucket bucket;
    Revision upto;
  };
  struct StoreWrite {
    Bucket bucket;
    std::optional<coord::WriteId> id;  // none: a guardian's
    Revision expected;
    std::shared_ptr<const StoreValue> value;
    std::uint64_t incarnation = 0;  // whose answer it is
    bool late_already = false;
  };
  struct Outcome {
    coord::WriteId id;
    coord::WriteOutcome outcome;
    Revision stored;
  };
  struct LockWrite {
    coord::WriteLock write{};
    std::uint64_t incarnation = 0;
    bool late_already = false;
  };
  struct LockOutcome {
    std::string key{};
    std::uint64_t number = 0;
    coord::WriteOutcome outcome{};
    Revision stored = 0;
  };
  struct LockRead {
    std::string key{};
    std::uint64_t incarnation = 0;
  };
  struct LockAnswer {
    std::string key{};
    Revision rev = 0;
    std::shared_ptr<const coord::LockRecord> record{};
  };
  struct LockVersion {
    Revision rev = 0;
    std::shared_ptr<const coord::LockRecord> record{};  // none: removed
    Nanos at = 0;
  };
  /// What a client of a node has claimed.
  struct Client {
    int lock = 0;
    Nanos hold = 0;
    bool granted = false;
  };
  struct GuardianStep {
    std::string session{};
    std::string boot{};
    bool first = true;
  };
  using What = std::variant<Tick, coord::Heartbeat, coord::HeartbeatAck, coord::Withdrawal, Pump,
                            StoreWrite, Outcome, GuardianStep, std::function<void()>, LockWrite,
                            LockOutcome, LockRead, LockAnswer, coord::LockNotice>;
  struct Event {
    int node = kStore;
    std::uint64_t incarnation = 0;
    What what;
  };
  struct Scheduled {
    Nanos at;
    std::uint64_t order;
    std::uint32_t slot;
    bool operator>(const Scheduled& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  struct Node {
    std::unique_ptr<coord::Coordination> process;
    std::uint64_t incarnation = 0;
    std::uint64_t tick_generation = 0;
    Nanos tick_at = 0;
    double rate = 1;
    Nanos clock_offset = 0;
    bool paused = false;
    bool leaving = false;
    std::deque<What> backlog;
    std::string boot;
    bool locked = false;  // the folder, by a guardian that still ends what the process had started
    Revision delivered[2] = {0, 0};
    bool known[2] = {false, false};
    std::map<std::uint64_t, Client> clients;  // by claim
    std::uint64_t last_claim = 0;             // of this process: others have the same numbers
  };

  Time local(const Node& node) const;
  Nanos true_time(const Node& node, Time local_time) const;
  void schedule(Nanos when, Event event);
  void step(Event event);
  void handle(int index, What& what);
  void perform(int index, coord::Actions& actions);
  void arm(int index);
  void send(int from, int to, What what);
  void write(int from, Bucket bucket, std::optional<coord::WriteId> id, Revision expected,
             StoreValue value);
  void apply(int from, StoreWrite& write);
  void pump(int index, Bucket bucket, Revision upto, coord::Actions& actions);
  void guardian_step(int index, GuardianStep step);
  void begin_watch(int index, Bucket bucket);
  void apply_lock(int from, LockWrite& write);
  void answer_read(int from, const LockRead& read);
  void lock_news(int index, const coord::LockNews& news);
  void release_claim(int index, std::uint64_t claim);
  void release_later(int index, std::uint64_t claim, Nanos delay);
  void check_locks(int index);
  void perform_lock(int index, coord::Action& action);
  bool handle_lock(int index, What& what, coord::Actions& actions);
  static std::string lock_key(int lock) { return "app0.l" + std::to_string(lock); }
  static coord::LockKind lock_kind(int lock) {
    return lock % 3 == 0   ? coord::LockKind::lock
           : lock % 3 == 1 ? coord::LockKind::semaphore
                           : coord::LockKind::barrier;
  }
  static int lock_limit(int lock) { return lock % 3 == 1 ? 2 : 1; }
  bool is_cut(int from, int to) const;
  Nanos delay();
  BucketState& bucket(Bucket b) { return buckets_[b == Bucket::members ? 0 : 1]; }
  void check_after(int index);
  void check_session_end(const std::string& node, const coord::SessionRecord& before,
                         const coord::SessionRecord& after);
  void note(const std::string& line);

  Options options_;
  Random random_;
  Weather weather_;
  Nanos now_ = 0;
  std::uint64_t order_ = 0;
  std::uint64_t steps_ = 0;
  std::uint64_t digest_ = 0;
  std::vector<Event> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::priority_queue<Scheduled, std::vector<Scheduled>, std::greater<>> queue_;
  std::vector<Node> nodes_;
  BucketState buckets_[2];
  Nanos store_down_until_ = 0;
  std::map<std::pair<int, int>, bool> cuts_;
  std::map<std::string, std::uint64_t> last_epoch_;        // newest epoch that anybody led with
  std::map<std::string, std::vector<LockVersion>> locks_;  // oldest first; some are forgotten
  Revision last_lock_rev_ = 0;
  std::map<int, Revision> last_token_;
  std::uint64_t grants_ = 0;
  std::set<std::string> ended_sessions_;
  std::uint64_t next_id_ = 0;
  std::uint64_t sessions_ended_ = 0;
  std::uint64_t elections_ = 0;
  std::string violation_;
  bool keep_trace_ = false;
  std::deque<std::string> trace_;
};

}  // namespace cluster::sim
