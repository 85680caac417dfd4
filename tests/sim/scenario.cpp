#include "sim/scenario.h"

#include <algorithm>

namespace cluster::sim {
namespace {

Outcome finish(World& world, bool keep_trace) {
  return {world.violation(), world.steps(), world.digest(), static_cast<double>(world.now()) / 1e9,
          keep_trace ? world.trace() : std::string()};
}

void start_all(World& world) {
  for (int i = 0; i < world.options().nodes; ++i) world.start_node(i);
}

/// All that run are in force, and each app has exactly one leader.
bool settled(const World& world) {
  for (int i = 0; i < world.options().nodes; ++i)
    if (!world.in_force(i)) return false;
  for (int app = 0; app < world.options().apps; ++app)
    if (!world.leader(app)) return false;
  return true;
}

bool start_and_settle(World& world) {
  start_all(world);
  if (!world.run_until([&] { return settled(world); }, 10 * kSecond)) {
    world.violate("no start within 10 s");
    return false;
  }
  // Every node has its voters.
  world.run_until(world.now() + 3 * kSecond);
  return world.violation().empty();
}

class Chaos {
 public:
  Chaos(World& world, Nanos end) : world_(world), random_(world.random()), end_(end) {
    kinds_ = 1 + static_cast<int>(random_.below(3));
    for (int i = 0; i < kinds_; ++i)
      favourites_.push_back(static_cast<int>(random_.below(kFaults)));
    mean_gap_ = random_.between(100 * kMillisecond, 4 * kSecond);
  }

  void begin() { next(); }

 private:
  static constexpr std::uint64_t kFaults = 12;

  void next() {
    Nanos when = world_.now() + random_.between(kMillisecond, 2 * mean_gap_);
    if (when >= end_) return;
    world_.at(when, [this] {
      strike();
      next();
    });
  }

  int any_node() {
    return static_cast<int>(random_.below(static_cast<std::uint64_t>(world_.options().nodes)));
  }
  int leader_or_any() {
    auto leader = world_.leader(0);
    return leader && random_.chance(0.6) ? *leader : any_node();
  }

  void strike() {
    int fault = random_.chance(0.7) ? favourites_[random_.below(favourites_.size())]
                                    : static_cast<int>(random_.below(kFaults));
    int node = leader_or_any();
    const auto& timing = world_.options().timing;
    Nanos timeout = timing.session_timeout.count();
    switch (fault) {
      case 0: {  // paused about as long as it takes to be given up
        Nanos duration = random_.chance(0.5) ? random_.between(timeout / 2, 2 * timeout)
                                             : random_.between(0, 6 * kSecond);
        world_.pause(node, duration);
        break;
      }
      case 1:
        world_.crash_process(node);
        restart_later(node);
        break;
      case 2:
        world_.crash_machine(node);
        restart_later(node);
        break;
      case 3: cut_off(node, true, true); break;
      case 4: cut_off(node, true, false); break;
      case 5: cut_off(node, false, true); break;
      case 6: world_.store_down(random_.between(kMillisecond, 10 * kSecond)); break;
      case 7: {  // a bad spell of the network
        auto& weather = world_.weather();
        weather.drop = random_.unit() * 0.3;
        weather.slow = random_.unit() * 0.2;
        weather.duplicate = random_.unit() * 0.1;
        end_spell();
        break;
      }
      case 8: {  // a bad spell of the store
        auto& weather = world_.weather();
        weather.answer_lost = random_.unit() * 0.8;
        weather.write_late = random_.unit() * 0.5;
        weather.watch_slow = random_.unit() * 0.5;
        end_spell();
        break;
      }
      case 9:
        world_.step_down(
            node,
            static_cast<int>(random_.below(static_cast<std::uint64_t>(world_.options().apps))),
            random_.chance(0.5) ? World::node_name(any_node()) : std::string());
        break;
      case 10:
        if (random_.chance(0.3)) {
          world_.leave(node);
          world_.at(world_.now() + 500 * kMillisecond, [this, node] {
            world_.crash_process(node);
            restart_later(node);
          });
        } else if (coord::mutant(coord::Mutation::forget_withdrawals)) {
          world_.forget_withdrawals(any_node());
        }
        break;
      case 11: rolling_cut(node); break;
      default: break;
    }
    // What a stopped or cut-off owner may still do shows best when its record is changing.
    if (world_.options().locks == 0 && random_.chance(0.2)) world_.facts_changed(node);
    if (random_.chance(0.1)) world_.pause(any_node(), random_.between(timeout / 4, timeout));
  }

  void restart_later(int node) {
    world_.at(world_.now() + random_.between(kMillisecond, 3 * kSecond),
              [this, node] { world_.start_node(node); });
  }

  void end_spell() {
    world_.at(world_.now() + random_.between(100 * kMillisecond, 8 * kSecond),
              [this] { world_.weather() = Weather{}; });
  }

  /// Cuts a node from some or all others, and perhaps from the store, in one direction or both.
  void cut_off(int node, bool outgoing, bool incoming) {
    bool with_store = random_.chance(0.4);
    Nanos until = world_.now() + random_.between(10 * kMillisecond, 6 * kSecond);
    double share = random_.chance(0.5) ? 1.0 : random_.unit();
    for (int other = with_store ? World::kStore : 0; other < world_.options().nodes; ++other) {
      if (other == node || (other >= 0 && !random_.chance(share))) continue;
      if (outgoing) cut(node, other, until);
      if (incoming) cut(other, node, until);
    }
  }
  /// One after the other, the others hear nothing from a node for about session_timeout, while its
  /// record can't change: withdrawals of different times meet at one revision.
  void rolling_cut(int node) {
    Nanos timeout = world_.options().timing.session_timeout.count();
    Nanos start =
        world_.now() + random_.between(0, world_.options().timing.rewrite_period().count());
    Nanos at = start;
    int first = any_node();
    for (int i = 0; i < world_.options().nodes; ++i) {
      int other = (first + i) % world_.options().nodes;
      if (other == node) continue;
      Nanos length = random_.between(timeout, timeout + timeout / 2);
      bool both = random_.chance(0.2);
      world_.at(at, [this, node, other, both, end = at + length] {
        cut(node, other, end);
        if (both) cut(other, node, end);
      });
      at += length + random_.between(-timeout / 4, timeout / 4);
    }
    if (random_.chance(0.8))
      world_.store_down(at - world_.now() + random_.between(-timeout, timeout));
  }
  void cut(int from, int to, Nanos until) {
    world_.cut(from, to, true);
    world_.at(until, [this, from, to] { world_.cut(from, to, false); });
  }

  World& world_;
  Random& random_;
  Nanos end_;
  Nanos mean_gap_ = kSecond;
  int kinds_ = 1;
  std::vector<int> favourites_;
};

/// Clients on all nodes that claim, hold and give up locks at random.
class Claims {
 public:
  Claims(World& world, Nanos end, double withdrawals)
      : world_(world), random_(world.random()), end_(end), withdrawals_(withdrawals) {
    mean_gap_ = random_.between(5 * kMillisecond, 500 * kMillisecond);
    mean_hold_ = random_.between(kMillisecond, kSecond);
  }

  void begin() { next(); }

 private:
  void next() {
    Nanos when = world_.now() + random_.between(0, 2 * mean_gap_);
    if (when >= end_) return;
    world_.at(when, [this] {
      const auto nodes = static_cast<std::uint64_t>(world_.options().nodes);
      const auto locks = static_cast<std::uint64_t>(world_.options().locks);
      const int node = static_cast<int>(random_.below(nodes));
      const int lock = static_cast<int>(random_.below(locks));
      if (random_.chance(withdrawals_))
        world_.withdraw_claim(node);
      else if (random_.chance(0.05))
        world_.sweep_lock(lock);
      else if (world_.claims() < 20)
        world_.claim_lock(node, lock, random_.chance(0.8), random_.between(0, 2 * mean_hold_));
      next();
    });
  }

  World& world_;
  Random& random_;
  Nanos end_;
  double withdrawals_ = 0;
  Nanos mean_gap_ = kSecond;
  Nanos mean_hold_ = kSecond;
};

}  // namespace

Outcome lock_chaos(std::uint64_t seed, bool keep_trace) {
  Random draw(seed * 2 + 1);
  Options options;
  options.seed = seed;
  options.nodes = 2 + static_cast<int>(draw.below(5));
  options.apps = 1;
  options.locks = 1 + static_cast<int>(draw.below(3));
  options.worst_clocks = draw.chance(0.7);
  options.guardians = draw.chance(0.7);
  options.timing.lease_ttl =
      std::chrono::milliseconds(draw.chance(0.6) ? draw.between(1'000, 5'000) : 15'000);
  options.timing.stop_margin = std::chrono::milliseconds(draw.chance(0.6) ? 0 : 100);

  World world(options);
  world.keep_trace(keep_trace);
  start_all(world);
  Nanos end = draw.between(10 * kSecond, 30 * kSecond);
  Chaos faults(world, end);
  if (draw.chance(0.8)) faults.begin();
  if (draw.chance(0.3)) {
    auto& weather = world.weather();
    weather.answer_lost = draw.unit() * 0.6;
    weather.write_late = draw.unit() * 0.6;
    weather.watch_slow = draw.unit() * 0.6;
    weather.late_high = kSecond;
  }
  Claims claims(world, end, draw.chance(0.3) ? 0.4 : 0.1);
  claims.begin();
  world.run_until(end);
  if (world.violation().empty()) {
    world.heal();
    world.run_until(end + 10 * kSecond);
    world.heal();
    start_all(world);
    // Each claim that is left gets its lock, holds it for at most two seconds, and is done.
    Nanos bound = world.now() + 2 * options.timing.lease_ttl.count() + 80 * kSecond;
    const auto done = [&] { return world.claims() == 0 && world.known_claims() == 0; };
    if (!done() && !world.run_until(done, bound) && world.violation().empty())
      world.violate("all has healed, but " + std::to_string(world.claims()) +
                    " claims wait for locks still, of " + std::to_string(world.known_claims()) +
                    " that nodes know");
    // And whoever asks for one now gets it soon.
    if (world.violation().empty()) {
      world.run_until([&] { return settled(world); }, bound);
      for (int lock = 0; lock < options.locks; ++lock) world.claim_lock(0, lock, true, 0);
      if (!world.run_until(done, world.now() + 10 * kSecond) && world.violation().empty())
        world.violate("all has healed, but a free lock can't be had");
    }
  }
  auto outcome = finish(world, keep_trace);
  outcome.grants = world.grants();
  return outcome;
}

Outcome chaos(std::uint64_t seed, bool keep_trace) {
  Random draw(seed * 2 + 1);
  Options options;
  options.seed = seed;
  options.nodes = 2 + static_cast<int>(draw.below(5));
  options.apps = 1 + static_cast<int>(draw.below(2));
  options.worst_clocks = draw.chance(0.7);
  options.guardians = draw.chance(0.7);
  options.zones = draw.chance(0.2);
  // Shorter limits are reached more often; no margin shows what the limits themselves are worth.
  options.timing.lease_ttl =
      std::chrono::milliseconds(draw.chance(0.6) ? draw.between(1'000, 5'000) : 15'000);
  options.timing.stop_margin = std::chrono::milliseconds(draw.chance(0.6) ? 0 : 100);
  if (draw.chance(0.3)) options.timing.settle_in = std::chrono::milliseconds(100);
  if (draw.chance(0.3)) options.timing.drift = 0.1;

  World world(options);
  world.keep_trace(keep_trace);
  if (draw.chance(0.3)) world.weather().delay_high = draw.between(kMillisecond, 100 * kMillisecond);
  start_all(world);
  Nanos end = draw.between(10 * kSecond, 40 * kSecond);
  Chaos faults(world, end);
  faults.begin();
  world.run_until(end);
  if (world.violation().empty()) {
    world.heal();
    // Faults that were still to end do so within 10 s.
    world.run_until(end + 10 * kSecond);
    world.heal();
    start_all(world);
    Nanos bound = world.now() + 2 * options.timing.lease_ttl.count() + 10 * kSecond;
    if (!world.run_until([&] { return settled(world); }, bound) && world.violation().empty())
      world.violate("all has healed, but not every node has a session and every app a leader");
  }
  return finish(world, keep_trace);
}

Outcome store_outage(std::uint64_t seed, bool keep_trace) {
  Random draw(seed * 2 + 1);
  Options options;
  options.seed = seed;
  options.nodes = 3 + static_cast<int>(draw.below(5));
  options.worst_clocks = draw.chance(0.5);
  World world(options);
  world.keep_trace(keep_trace);
  if (start_and_settle(world)) {
    world.run_until(world.now() + draw.between(0, 4 * kSecond));
    auto before = world.sessions_ended();
    Nanos outage = 9 * kSecond;
    world.store_down(outage);
    int dead = -1;
    if (draw.chance(0.6)) {
      dead = static_cast<int>(draw.below(static_cast<std::uint64_t>(options.nodes)));
      world.at(world.now() + draw.between(0, outage),
               [&world, dead] { world.crash_machine(dead); });
    }
    world.run_until(world.now() + outage + 8 * kSecond);
    if (world.violation().empty() && world.sessions_ended() != before)
      world.violate(std::to_string(world.sessions_ended() - before) +
                    " healthy sessions ended in a store outage of 9 s" +
                    (dead >= 0 ? ", with the death of " + World::node_name(dead) : ""));
  }
  return finish(world, keep_trace);
}

Failover machine_loss(std::uint64_t seed, bool keep_trace) {
  Random draw(seed * 2 + 1);
  Options options;
  options.seed = seed;
  options.nodes = 2 + static_cast<int>(draw.below(9));
  options.apps = 1;
  World world(options);
  world.keep_trace(keep_trace);
  Failover result;
  if (start_and_settle(world)) {
    world.run_until(world.now() + draw.between(0, kSecond));
    Nanos lost_at = world.now();
    world.crash_machine(*world.leader(0));
    if (!world.run_until([&] { return world.leader(0).has_value(); }, lost_at + 60 * kSecond))
      world.violate("no new leader within a minute");
    result.gap = world.now() - lost_at;
  }
  result.outcome = finish(world, keep_trace);
  return result;
}

Outcome hand_over(std::uint64_t seed, bool keep_trace) {
  Random draw(seed * 2 + 1);
  Options options;
  options.seed = seed;
  options.nodes = 2 + static_cast<int>(draw.below(4));
  options.apps = 1;
  World world(options);
  world.keep_trace(keep_trace);
  if (start_and_settle(world)) {
    int from = *world.leader(0);
    int to =
        (from + 1 + static_cast<int>(draw.below(static_cast<std::uint64_t>(options.nodes - 1)))) %
        options.nodes;
    world.step_down(from, 0, World::node_name(to));
    world.run_until([&] { return world.leader(0).has_value(); }, world.now() + kSecond);
    if (world.leader(0) != to) world.violate("the target of a step-down did not become the leader");
  }
  return finish(world, keep_trace);
}

}  // namespace cluster::sim
