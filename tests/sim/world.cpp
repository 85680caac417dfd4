#include "sim/world.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace cluster::sim {

using namespace coord;

namespace {
constexpr Nanos kWriteTimeout = 400 * kMillisecond;
constexpr std::size_t kTraceLines = 400;
}  // namespace

Random::Random(std::uint64_t seed) {
  for (auto& word : s_) {
    seed += 0x9e3779b97f4a7c15u;
    std::uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    word = z ^ (z >> 31);
  }
}

std::uint64_t Random::next() {
  auto rotl = [](std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); };
  std::uint64_t result = rotl(s_[1] * 5, 7) * 9;
  std::uint64_t t = s_[1] << 17;
  s_[2] ^= s_[0];
  s_[3] ^= s_[1];
  s_[1] ^= s_[2];
  s_[0] ^= s_[3];
  s_[2] ^= t;
  s_[3] = rotl(s_[3], 45);
  return result;
}

World::World(Options options) : options_(options), random_(options.seed) {
  nodes_.resize(static_cast<std::size_t>(options_.nodes));
  double fastest = 1.0 / (1.0 - options_.timing.drift);
  for (auto& node : nodes_) {
    double share = options_.worst_clocks ? (random_.chance(0.5) ? 1.0 : 0.0) : random_.unit();
    node.rate = 1.0 + share * (fastest - 1.0);
    node.clock_offset = random_.between(kSecond, 1'000'000 * kSecond);
    node.boot = "boot-" + std::to_string(next_id_++);
  }
}

Time World::local(const Node& node) const {
  return Time(
      Duration(node.clock_offset + static_cast<Nanos>(static_cast<double>(now_) * node.rate)));
}

Nanos World::true_time(const Node& node, Time local_time) const {
  auto since = local_time.time_since_epoch().count() - node.clock_offset;
  return static_cast<Nanos>(static_cast<double>(since) / node.rate) + 1;
}

void World::schedule(Nanos when, Event event) {
  std::uint32_t slot = 0;
  if (free_slots_.empty()) {
    slot = static_cast<std::uint32_t>(slots_.size());
    slots_.push_back(std::move(event));
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
    slots_[slot] = std::move(event);
  }
  queue_.push({std::max(when, now_), order_++, slot});
}

void World::at(Nanos when, std::function<void()> fault) {
  schedule(when, {kStore, 0, std::move(fault)});
}

void World::run_until(Nanos end) {
  run_until([] { return false; }, end);
}

bool World::run_until(const std::function<bool()>& condition, Nanos end) {
  while (violation_.empty() && !queue_.empty() && queue_.top().at <= end) {
    auto next = queue_.top();
    queue_.pop();
    now_ = next.at;
    Event event = std::move(slots_[next.slot]);
    free_slots_.push_back(next.slot);
    digest_ =
        (digest_ ^ static_cast<std::uint64_t>(now_) ^ (event.what.index() << 56)) * 0x100000001b3u +
        event.incarnation;
    step(std::move(event));
    if (condition()) return true;
  }
  if (violation_.empty()) now_ = std::max(now_, end);
  return false;
}

void World::step(Event event) {
  ++steps_;
  if (auto* fault = std::get_if<std::function<void()>>(&event.what)) {
    (*fault)();
    return;
  }
  if (auto* write = std::get_if<StoreWrite>(&event.what)) {
    apply(event.node, *write);
    return;
  }
  if (auto* guardian = std::get_if<GuardianStep>(&event.what)) {
    guardian_step(event.node, *guardian);
    return;
  }
  if (auto* lock = std::get_if<LockWrite>(&event.what)) return apply_lock(event.node, *lock);
  if (auto* read = std::get_if<LockRead>(&event.what)) return answer_read(event.node, *read);
  auto& node = nodes_[static_cast<std::size_t>(event.node)];
  if (!node.process || event.incarnation != node.incarnation) return;
  if (node.paused) {
    if (!std::holds_alternative<Tick>(event.what)) node.backlog.push_back(std::move(event.what));
    return;
  }
  handle(event.node, event.what);
}

void World::handle(int index, What& what) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  Actions actions;
  Time now = local(node);
  if (auto* tick = std::get_if<Tick>(&what)) {
    if (tick->generation != node.tick_generation) return;
    node.process->tick(now, actions);
  } else if (auto* heartbeat = std::get_if<Heartbeat>(&what)) {
    node.process->on_heartbeat(*heartbeat, now, actions);
  } else if (auto* ack = std::get_if<HeartbeatAck>(&what)) {
    node.process->on_ack(*ack, now, actions);
  } else if (auto* withdrawal = std::get_if<Withdrawal>(&what)) {
    node.process->on_withdrawal(*withdrawal, now, actions);
  } else if (auto* delivery = std::get_if<Pump>(&what)) {
    pump(index, delivery->bucket, delivery->upto, actions);
  } else if (auto* outcome = std::get_if<Outcome>(&what)) {
    node.process->on_write(outcome->id, outcome->outcome, outcome->stored, now, actions);
  } else {
    handle_lock(index, what, actions);
  }
  perform(index, actions);
  check_after(index);
  arm(index);
}

void World::arm(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.process->due() == Time::max()) return;
  Nanos when = std::max(true_time(node, node.process->due()), now_ + 1);
  if (node.tick_at == when) return;
  node.tick_at = when;
  schedule(when, {index, node.incarnation, Tick{++node.tick_generation}});
}

Nanos World::delay() {
  if (weather_.slow > 0 && random_.chance(weather_.slow))
    return random_.between(weather_.delay_low, weather_.slow_high);
  return random_.between(weather_.delay_low, weather_.delay_high);
}

bool World::is_cut(int from, int to) const {
  if (cuts_.empty()) return false;
  auto it = cuts_.find({from, to});
  return it != cuts_.end() && it->second;
}

void World::send(int from, int to, What what) {
  if (is_cut(from, to) || (weather_.drop > 0 && random_.chance(weather_.drop))) return;
  auto incarnation = nodes_[static_cast<std::size_t>(to)].incarnation;
  if (weather_.duplicate > 0 && random_.chance(weather_.duplicate))
    schedule(now_ + delay(), {to, incarnation, what});
  schedule(now_ + delay(), {to, incarnation, std::move(what)});
}

void World::write(int from, Bucket b, std::optional<WriteId> id, Revision expected,
                  StoreValue value) {
  auto shared = std::make_shared<const StoreValue>(std::move(value));
  if (id) {
    auto& node = nodes_[static_cast<std::size_t>(from)];
    schedule(now_ + kWriteTimeout,
             {from, node.incarnation, Outcome{*id, WriteOutcome::unknown, 0}});
  }
  if (is_cut(from, kStore)) return;
  schedule(now_ + delay(), {from, 0,
                            StoreWrite{b, id, expected, shared,
                                       nodes_[static_cast<std::size_t>(from)].incarnation}});
}

void World::apply(int from, StoreWrite& write) {
  if (now_ < store_down_until_) {
    // No leader: most requests are lost, some were taken up and land when there is one again.
    if (random_.chance(0.3)) {
      write.late_already = true;
      schedule(store_down_until_ + random_.between(0, 2 * kSecond), {from, 0, write});
    }
    return;
  }
  if (!write.late_already && weather_.write_late > 0 && random_.chance(weather_.write_late)) {
    write.late_already = true;
    schedule(now_ + random_.between(0, weather_.late_high), {from, 0, write});
    return;
  }
  auto& state = bucket(write.bucket);
  const bool member = write.bucket == Bucket::members;
  const std::string& key =
      member ? std::get<SessionRecord>(*write.value).node : std::get<LeaseRecord>(*write.value).app;
  auto& latest = state.latest[key];
  bool unconditional = false;
  if (member) {
    unconditional = mutant(Mutation::expire_without_revision) &&
                    std::get<SessionRecord>(*write.value).state == SessionState::expired &&
                    latest.second &&
                    std::get<SessionRecord>(*latest.second).session ==
                        std::get<SessionRecord>(*write.value).session;
  } else {
    unconditional =
        mutant(Mutation::release_without_revision) && !std::get<LeaseRecord>(*write.value).held;
  }
  WriteOutcome outcome = WriteOutcome::refused;
  if (latest.first == write.expected || unconditional) {
    outcome = WriteOutcome::stored;
    auto before = latest.second;
    state.log.push_back({key, write.value});
    latest = {state.log.size(), write.value};
    if (keep_trace_)
      note("store " + std::string(member ? "members/" : "leases/") + key + " rev " +
           std::to_string(latest.first) + " " +
           (member ? std::get<SessionRecord>(*write.value).session +
                         (std::get<SessionRecord>(*write.value).live() ? " live" : " ended") +
                         " voters " +
                         std::to_string(std::get<SessionRecord>(*write.value).voters.size()) +
                         (std::get<SessionRecord>(*write.value).ended_by.empty()
                              ? ""
                              : " by " + std::get<SessionRecord>(*write.value).ended_by)
                   : std::get<LeaseRecord>(*write.value).holder + " epoch " +
                         std::to_string(std::get<LeaseRecord>(*write.value).epoch) +
                         (std::get<LeaseRecord>(*write.value).held ? " held" : " released")));
    if (member && before)
      check_session_end(key, std::get<SessionRecord>(*before),
                        std::get<SessionRecord>(*write.value));
    if (!member) {
      const auto& lease = std::get<LeaseRecord>(*write.value);
      std::uint64_t epoch_before = before ? std::get<LeaseRecord>(*before).epoch : 0;
      if (lease.epoch != epoch_before + (lease.held ? 1 : 0))
        violate("lease " + key + ": epoch " + std::to_string(lease.epoch) + " follows " +
                std::to_string(epoch_before));
    }
    for (int i = 0; i < options_.nodes; ++i) {
      auto& node = nodes_[static_cast<std::size_t>(i)];
      if (!node.process) continue;
      Nanos lag = random_.between(0, weather_.watch_lag_high);
      if (weather_.watch_slow > 0 && random_.chance(weather_.watch_slow))
        lag = random_.between(0, weather_.watch_slow_high);
      schedule(now_ + lag, {i, node.incarnation, Pump{write.bucket, latest.first}});
    }
  }
  if (!write.id) return;
  if (is_cut(kStore, from) || (weather_.answer_lost > 0 && random_.chance(weather_.answer_lost)))
    return;
  auto& node = nodes_[static_cast<std::size_t>(from)];
  if (node.process)
    schedule(now_ + delay(),
             {from, write.incarnation,
              Outcome{*write.id, outcome, outcome == WriteOutcome::stored ? latest.first : 0}});
}

void World::begin_watch(int index, Bucket b) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  node.delivered[b == Bucket::members ? 0 : 1] = 0;
  node.known[b == Bucket::members ? 0 : 1] = false;
  // The first answer may come from a replica that lags behind.
  Revision upto = bucket(b).log.size();
  if (weather_.watch_slow > 0) upto -= std::min<Revision>(upto, random_.below(4));
  schedule(now_ + delay(), {index, node.incarnation, Pump{b, upto}});
  if (upto < bucket(b).log.size())
    schedule(now_ + random_.between(0, weather_.watch_slow_high),
             {index, node.incarnation, Pump{b, bucket(b).log.size()}});
}

void World::pump(int index, Bucket b, Revision upto, Actions& actions) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  int which = b == Bucket::members ? 0 : 1;
  if (is_cut(kStore, index)) {
    schedule(now_ + 50 * kMillisecond, {index, node.incarnation, Pump{b, upto}});
    return;
  }
  auto& state = bucket(b);
  bool skip_superseded = !node.known[which] || random_.chance(0.5);
  Time now = local(node);
  for (Revision rev = node.delivered[which] + 1; rev <= upto; ++rev) {
    const auto& change = state.log[rev - 1];
    if (skip_superseded) {
      bool superseded = false;
      for (Revision later = rev + 1; later <= upto && !superseded; ++later)
        superseded = state.log[later - 1].key == change.key;
      if (superseded) continue;
    }
    if (which == 0)
      node.process->on_member(rev, std::get<SessionRecord>(*change.value), now, actions);
    else
      node.process->on_lease(rev, std::get<LeaseRecord>(*change.value), now, actions);
  }
  node.delivered[which] = std::max(node.delivered[which], upto);
  if (!node.known[which]) {
    node.known[which] = true;
    if (which == 0)
      node.process->on_members_known(now, actions);
    else
      node.process->on_leases_known(now, actions);
  }
}

void World::perform(int index, Actions& actions) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  for (auto& action : actions) {
    if (auto* heartbeat = std::get_if<Heartbeat>(&action)) {
      int to = std::stoi(heartbeat->to.substr(1));
      send(index, to, std::move(*heartbeat));
    } else if (auto* ack = std::get_if<HeartbeatAck>(&action)) {
      int to = std::stoi(ack->owner.node.substr(1));
      send(index, to, std::move(*ack));
    } else if (auto* withdrawal = std::get_if<Withdrawal>(&action)) {
      if (keep_trace_)
        note(node_name(index) + " withdraws from " + withdrawal->owner.text() + " at " +
             std::to_string(withdrawal->rev));
      for (int to = 0; to < options_.nodes; ++to)
        if (to != index) send(index, to, *withdrawal);
    } else if (auto* member = std::get_if<WriteMember>(&action)) {
      write(index, Bucket::members, member->id, member->expected, std::move(member->record));
    } else if (auto* lease = std::get_if<WriteLease>(&action)) {
      write(index, Bucket::leases, lease->id, lease->expected, std::move(lease->record));
    } else if (auto* ended = std::get_if<SessionEnded>(&action)) {
      if (!node.leaving) ++sessions_ended_;
      if (keep_trace_) note(node_name(index) + " session ended: " + ended->why);
    } else if (auto* began = std::get_if<SessionBegan>(&action)) {
      if (keep_trace_) note(node_name(index) + " session began: " + began->id.text());
      if (ended_sessions_.contains(began->id.text()))
        violate("session " + began->id.text() + " began after it had ended");
    } else if (auto* acquired = std::get_if<LeaseAcquired>(&action)) {
      ++elections_;
      if (keep_trace_)
        note(node_name(index) + " leads " + acquired->app + " epoch " +
             std::to_string(acquired->epoch));
      auto& last = last_epoch_[acquired->app];
      if (acquired->epoch <= last)
        violate(acquired->app + ": " + node_name(index) + " leads with epoch " +
                std::to_string(acquired->epoch) + ", but " + std::to_string(last) +
                " was there before");
      last = acquired->epoch;
    } else {
      perform_lock(index, action);
    }
  }
  actions.clear();
}

void World::check_session_end(const std::string& name, const SessionRecord& before,
                              const SessionRecord& after) {
  if (!before.live() || (after.live() && after.session == before.session)) return;
  ended_sessions_.insert(before.node + "/" + before.session);
  int index = std::stoi(name.substr(1));
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process) return;
  const auto& session = node.process->session();
  if (session.id().session == before.session && session.in_force(local(node)))
    violate("session " + before.node + "/" + before.session + " ended (" + after.ended_by +
            ") while its owner may act for " +
            std::to_string((session.limit() - local(node)).count() / 1000) + " us more");
}

void World::check_after(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process) return;
  const auto& session = node.process->session();
  if (session.in_force(local(node))) {
    auto it = buckets_[0].latest.find(node_name(index));
    const auto* record =
        it == buckets_[0].latest.end() ? nullptr : &std::get<SessionRecord>(*it->second.second);
    if (!record || !record->live() || record->session != session.id().session)
      violate(node_name(index) + " may act by session " + session.id().session +
              ", which does not stand in the store");
  }
  for (int app = 0; app < options_.apps; ++app) {
    if (!leads(index, app)) continue;
    for (int other = 0; other < options_.nodes; ++other)
      if (other != index && leads(other, app))
        violate(app_name(app) + ": both " + node_name(index) + " and " + node_name(other) +
                " lead");
  }
  check_locks(index);
}

bool World::in_force(int index) const {
  const auto& node = nodes_[static_cast<std::size_t>(index)];
  return node.process && node.process->session().in_force(local(node));
}

bool World::leads(int index, int app) const {
  const auto& node = nodes_[static_cast<std::size_t>(index)];
  return node.process && node.process->leads(app_name(app), local(node));
}

std::optional<int> World::leader(int app) const {
  for (int i = 0; i < options_.nodes; ++i)
    if (leads(i, app)) return i;
  return std::nullopt;
}

void World::violate(const std::string& what) {
  if (violation_.empty())
    violation_ = "at " + std::to_string(static_cast<double>(now_) / 1e9) + " s: " + what;
}

void World::note(const std::string& line) {
  char stamp[32];
  std::snprintf(stamp, sizeof stamp, "%12.6f ", static_cast<double>(now_) / 1e9);
  trace_.push_back(stamp + line);
  if (trace_.size() > kTraceLines) trace_.pop_front();
}

std::string World::trace() const {
  std::string text;
  for (const auto& line : trace_) text += line + "\n";
  return text;
}

void World::start_node(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (node.process) return;
  if (node.locked) {
    at(now_ + 20 * kMillisecond, [this, index] { start_node(index); });
    return;
  }
  ++node.incarnation;
  node.paused = false;
  node.leaving = false;
  node.backlog.clear();
  node.tick_at = 0;
  auto facts = std::make_shared<NodeFacts>();
  facts->boot = node.boot;
  facts->folder = "folder-" + std::to_string(index);
  if (options_.zones) facts->labels["zone"] = "z" + std::to_string(index % 2);
  for (int app = 0; app < options_.apps; ++app) facts->apps.push_back(app_name(app));
  Coordination::Options options;
  options.session.node = node_name(index);
  options.session.timing = options_.timing;
  options.session.boot = node.boot;
  options.session.folder = facts->folder;
  options.session.new_id = [this] { return "s" + std::to_string(++next_id_); };
  options.session.facts = [facts] { return facts; };
  for (int app = 0; app < options_.apps; ++app) options.apps.push_back(app_name(app));
  options.random = [this] { return random_.unit(); };
  node.clients.clear();
  node.last_claim = 0;
  node.process = std::make_unique<Coordination>(std::move(options));
  if (keep_trace_) note(node_name(index) + " starts");
  Actions actions;
  for (int app = 0; app < options_.apps; ++app)
    node.process->set_candidate(app_name(app), true, Time{}, local(node), actions);
  node.process->start(local(node), actions);
  perform(index, actions);
  begin_watch(index, Bucket::members);
  begin_watch(index, Bucket::leases);
  arm(index);
}

void World::crash_process(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process) return;
  if (keep_trace_) note(node_name(index) + " process killed");
  std::string session = node.process->session().id().session;
  node.process.reset();
  if (options_.guardians && !session.empty()) {
    node.locked = true;
    schedule(now_ + random_.between(kMillisecond, 10 * kMillisecond),
             {index, 0, GuardianStep{session, node.boot}});
  }
}

void World::crash_machine(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (keep_trace_) note(node_name(index) + " machine lost");
  node.process.reset();
  node.locked = false;
  ++node.incarnation;
  node.boot = "boot-" + std::to_string(next_id_++);
}

// What the process had started is gone at the first step, and the folder free. The guardian goes on
// beside the node's next process.
void World::guardian_step(int index, GuardianStep step) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (node.boot != step.boot) return;
  if (std::exchange(step.first, false)) node.locked = false;
  auto& latest = bucket(Bucket::members).latest[node_name(index)];
  bool stands = latest.second && std::get<SessionRecord>(*latest.second).live() &&
                std::get<SessionRecord>(*latest.second).session == step.session;
  if (now_ >= store_down_until_ && !is_cut(index, kStore) && !is_cut(kStore, index)) {
    if (!stands) return;
    SessionRecord record = std::get<SessionRecord>(*latest.second);
    record.state = SessionState::left;
    record.ended_by = node_name(index) + ": guardian";
    write(index, Bucket::members, std::nullopt, latest.first, std::move(record));
  }
  schedule(now_ + 20 * kMillisecond, {index, 0, std::move(step)});
}

void World::pause(int index, Nanos duration) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused) return;
  node.paused = true;
  if (keep_trace_)
    note(node_name(index) + " paused for " + std::to_string(duration / kMillisecond) + " ms");
  auto incarnation = node.incarnation;
  at(now_ + duration, [this, index, incarnation] {
    auto& sleeper = nodes_[static_cast<std::size_t>(index)];
    if (!sleeper.process || sleeper.incarnation != incarnation) return;
    sleeper.paused = false;
    if (keep_trace_) note(node_name(index) + " wakes");
    check_after(index);
    // What has queued up is read first; then time is judged.
    auto backlog = std::move(sleeper.backlog);
    sleeper.backlog.clear();
    for (auto& what : backlog)
      if (sleeper.process) handle(index, what);
    sleeper.tick_at = 0;
    What tick = Tick{++sleeper.tick_generation};
    handle(index, tick);
  });
}

void World::heal() {
  cuts_.clear();
  weather_ = Weather{};
  store_down_until_ = std::min(store_down_until_, now_);
}

void World::store_down(Nanos duration) {
  store_down_until_ = std::max(store_down_until_, now_ + duration);
  if (keep_trace_) note("store down for " + std::to_string(duration / kMillisecond) + " ms");
}

void World::step_down(int index, int app, const std::string& target) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused || !leads(index, app)) return;
  if (keep_trace_)
    note(node_name(index) + " steps down from " + app_name(app) +
         (target.empty() ? "" : " for " + target));
  Actions actions;
  node.process->set_candidate(app_name(app), true, local(node) + std::chrono::seconds(2),
                              local(node), actions);
  if (node.process->holds(app_name(app)))
    node.process->release(app_name(app), target, local(node), actions);
  perform(index, actions);
  arm(index);
}

void World::facts_changed(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused) return;
  Actions actions;
  node.process->facts_changed(local(node), actions);
  perform(index, actions);
  arm(index);
}

void World::leave(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (!node.process || node.paused) return;
  node.leaving = true;
  Actions actions;
  node.process->leave(local(node), actions);
  perform(index, actions);
  arm(index);
}

void World::forget_withdrawals(int index) {
  auto& node = nodes_[static_cast<std::size_t>(index)];
  if (node.process) node.process->forget_withdrawals();
}

}  // namespace cluster::sim
