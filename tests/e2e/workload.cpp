#include "e2e/workload.h"

#include <algorithm>
#include <iostream>
#include <limits>
#include <optional>

namespace cluster::e2e {
namespace {

using linearizability::MutexCall;
using linearizability::MutexOperation;
using linearizability::Outcome;
using linearizability::RegisterCall;
using linearizability::RegisterOperation;

constexpr int kHistory = 64;          // values that the bucket keeps of a key
constexpr std::size_t kEnough = 100;  // calls for a key or a lock, for a history that tells much
constexpr const char* kApp = "work";

const std::map<std::string, RegisterCall>& register_calls() {
  static const std::map<std::string, RegisterCall> all = {
      {"get", RegisterCall::get},       {"put", RegisterCall::put},
      {"create", RegisterCall::create}, {"update", RegisterCall::update},
      {"remove", RegisterCall::remove}, {"remove_revision", RegisterCall::remove_revision}};
  return all;
}

Outcome outcome_from(const std::string& text) {
  return text == "done" ? Outcome::done : text == "refused" ? Outcome::refused : Outcome::unknown;
}

std::uint64_t revision(const json& line) { return line.value("revision", std::uint64_t{0}); }

std::uint64_t token(const json& line) { return line.value("token", std::uint64_t{0}); }

std::int64_t ns(const json& line) { return line.at("ns"); }

}  // namespace

void Workload::start(const std::string& node, const json& other) {
  json work = options;
  work.update(other);
  work["log"] = c.path("calls");
  work["stop"] = c.path("stop-work");
  work["timeout_ms"] = 1000 * slowness();
  clients_[node] = work.at("kv_clients").get<int>() + work.at("lock_clients").get<int>() +
                   (work.contains("hold") ? 1 : 0);
  json node_options = c.node_options(node);
  node_options["apps"] = {
      {{"name", kApp}, {"spread", true}, {"kv_history", kHistory}, {"workload", work}}};
  c.start(node_options);
}

void Workload::start(int count) {
  std::vector<std::string> names;
  for (int i = 1; i <= count; ++i) names.push_back("node-" + std::to_string(i));
  for (const auto& name : names) start(name);
  ASSERT_TRUE(c.wait_watched(names));
  ASSERT_TRUE(wait_more("", "done", 300));
}

void Workload::read() {
  each_new_line(c.path("calls"), read_, [&](const std::string& text) {
    json line = json::parse(text);
    const std::string kind = line.at("line");
    if (kind != "call" && kind != "return") {
      notes_[kind].push_back(std::move(line));
      return;
    }
    Call& call = calls_[{line.at("client"), line.at("id")}];
    if (kind == "call") {
      if (line.contains("value")) writers_[line["value"]] = &call;
      call.call = std::move(line);
    } else {
      call.told = std::move(line);
      const std::string what = call.call.at("what"), outcome = call.outcome();
      ++returned_[{what, outcome}];
      const std::string of = call.call.value(call.call.contains("key") ? "key" : "lock", "");
      if (outcome != "failed") ++told_of_[of];
      if (what == "acquire" && outcome == "done") acquisitions_[of][token(call.told)] = call.told;
    }
  });
}

std::size_t Workload::count(const std::string& what, const std::string& outcome) {
  read();
  std::size_t count = 0;
  for (const auto& [key, times] : returned_)
    if ((what.empty() || key.first == what) && (outcome.empty() || key.second == outcome))
      count += times;
  return count;
}

std::size_t Workload::keys_troubled() {
  std::size_t troubled = 0;
  for (const auto& [what, call] : register_calls())
    troubled += count(what, "failed") + count(what, "unknown");
  return troubled;
}

const std::vector<json>& Workload::noted(const std::string& what) {
  read();
  return notes_[what];
}

json Workload::next_holder(const std::string& lock, std::uint64_t than) {
  read();
  const auto& all = acquisitions_[lock];
  const auto next = all.upper_bound(than);
  return next == all.end() ? json() : next->second;
}

std::size_t Workload::held_after(std::uint64_t of, std::int64_t since) const {
  return static_cast<std::size_t>(
      std::count_if(calls_.begin(), calls_.end(), [&](const auto& call) {
        const json& line = call.second.call;
        return line.at("what") == "holds" && token(line) == of && ns(line) > since;
      }));
}

testing::AssertionResult Workload::wait_more(const std::string& what, const std::string& outcome,
                                             std::size_t more) {
  const std::size_t wanted = count(what, outcome) + more;
  return c.wait_for(std::to_string(more) + " more calls: " + what + " " + outcome,
                    [&] { return count(what, outcome) >= wanted; });
}

testing::AssertionResult Workload::wait_for_histories() {
  std::vector<std::string> all = options.at("keys");
  for (const std::string lock : options.at("locks")) all.push_back(lock);
  return c.wait_for("enough calls for each key and lock", [&] {
    read();
    return std::all_of(all.begin(), all.end(),
                       [&](const auto& one) { return told_of_[one] > kEnough; });
  });
}

void Workload::end() {
  EXPECT_TRUE(wait_for_histories());
  write_file(c.path("stop-work"), "");
  EXPECT_TRUE(c.wait_for("all clients to end", [&] {
    std::map<pid_t, int> ended;
    for (const auto& line : noted("ended")) ++ended[line.at("pid")];
    const auto running = c.running_nodes();
    return std::all_of(running.begin(), running.end(), [&](const auto& node) {
      return ended[c.node(node).pid()] >= clients_.at(node);
    });
  }));
}

void Workload::finish() {
  end();
  read_what_is_left();
  check_keys();
  check_locks();
  check_fences();
  check_watches();
  std::string counts;
  for (const auto& [key, times] : returned_)
    counts += ' ' + key.first + ' ' + key.second + ' ' + std::to_string(times);
  std::cerr << "calls:" << counts << '\n';
}

bool Workload::holds(std::uint64_t revision, const std::string& value) {
  const std::string stream = "KV_" + c.platform() + "_" + kApp;
  const json found = c.request("$JS.API.STREAM.MSG.GET." + stream, {{"seq", revision}});
  const auto data = nats::from_base64(found.value("message", json::object()).value("data", ""));
  return data && *data == value;
}

std::string Workload::contradiction() {
  read_what_is_left();
  std::vector<json> told = noted("watched");
  for (const auto& [key, entries] : left_) told.insert(told.end(), entries.begin(), entries.end());
  for (const auto& entry : told) {
    if (entry.value("removed", false)) continue;
    const auto writer = writers_.find(entry.value("value", ""));
    if (writer == writers_.end() || writer->second->outcome() != "done") continue;
    const auto acknowledged = revision(writer->second->told);
    // Where both are there our client has written twice: check_watches() says so.
    if (acknowledged != revision(entry) && !holds(acknowledged, writer->first))
      return writer->first + " was acknowledged as revision " + std::to_string(acknowledged) +
             " and is told of as " + std::to_string(revision(entry));
  }
  return {};
}

void Workload::read_what_is_left() {
  for (const std::string key : options.at("keys")) {
    Cluster::Told told;
    EXPECT_TRUE(c.wait_for("the history of " + key, [&] {
      told = c.command("kv history " + std::string(kApp) + " " + key + " --output json");
      return told.status == 0;
    })) << told.out;
    const auto all = json::parse(told.out, nullptr, false);
    EXPECT_TRUE(all.is_object()) << told.out;
    if (all.is_object()) left_[key] = all.at("entries").get<std::vector<json>>();
  }
}

// ---- keys

Workload::Registers Workload::registers() const {
  Registers all;
  std::int64_t last = 0;
  for (const auto& [id, one] : calls_) {
    const auto what = register_calls().find(one.call.at("what"));
    if (what == register_calls().end()) continue;
    EXPECT_NE(one.outcome(), "error") << one.call << one.told;
    if (one.outcome() == "failed") continue;  // so nothing was done
    RegisterOperation o;
    o.client = id.first;
    o.call = ns(one.call);
    o.returned = one.told.is_null() ? 0 : ns(one.told);
    o.outcome = outcome_from(one.outcome());
    o.what = what->second;
    const json& value = o.what == RegisterCall::get ? one.told : one.call;
    if (value.contains("value")) o.value = value["value"];
    o.revision = one.told.is_null() ? 0 : revision(one.told);
    o.expected = one.call.value("expected", std::uint64_t{0});
    last = std::max(last, o.returned);
    all[one.call.at("key")].push_back(std::move(o));
  }
  for (const auto& [key, entries] : left_) {
    RegisterOperation o;
    o.client = "the test, at the end";
    o.call = o.returned = last + 1;
    if (!entries.empty() && !entries.back().value("removed", false)) {
      o.value = entries.back().at("value");
      o.revision = revision(entries.back());
    }
    all[key].push_back(std::move(o));
  }
  return all;
}

void Workload::check_keys() {
  std::vector<RegisterOperation> together;
  for (const auto& [key, history] : registers()) {
    const auto verdict = linearizability::check_register(history);
    EXPECT_TRUE(verdict) << key << ", " << history.size() << " operations: " << verdict.why;
    EXPECT_GT(history.size(), kEnough) << key;
    together.insert(together.end(), history.begin(), history.end());
  }
  EXPECT_EQ(linearizability::revision_fault(together), "");
}

// ---- locks

std::multimap<std::uint64_t, std::int64_t> Workload::losses() const {
  std::multimap<std::uint64_t, std::int64_t> losses;
  std::multimap<std::uint64_t, std::int64_t> sure;  // by token, when its holder held it
  for (const auto& [id, one] : calls_) {
    const std::string what = one.call.at("what");
    if (what == "holds")
      sure.emplace(token(one.call), ns(one.call));
    else if (what == "acquire" && one.outcome() == "done")
      sure.emplace(token(one.told), ns(one.call));
  }
  // A process that this machine runs late hears of it late, and asks late whether it still holds.
  for (const char* kind : {"lost", "not_held"}) {
    const auto noted = notes_.find(kind);
    if (noted == notes_.end()) continue;
    for (const auto& line : noted->second) {
      std::int64_t since = 0;
      const auto [first, last] = sure.equal_range(token(line));
      for (auto at = first; at != last; ++at)
        if (at->second < ns(line)) since = std::max(since, at->second);
      losses.emplace(token(line), since);
    }
  }
  for (const auto& [pid, since] : harmed_)
    for (const auto& [id, one] : calls_)
      if (one.call.at("pid") == pid && one.call.at("what") == "acquire" && ns(one.call) < since &&
          one.outcome() == "done")
        losses.emplace(token(one.told), since);
  return losses;
}

Workload::Mutexes Workload::mutexes() const {
  Mutexes all;
  std::map<std::uint64_t, std::string> lock_of;
  for (const auto& [id, one] : calls_) {
    const std::string what = one.call.at("what");
    if (!one.call.contains("lock")) continue;
    EXPECT_NE(one.outcome(), "error") << one.call << one.told;
    if (one.outcome() == "failed" || (what == "holds" && one.told.is_null())) continue;
    MutexOperation o;
    o.client = id.first;
    o.call = ns(one.call);
    o.returned = one.told.is_null() ? 0 : ns(one.told);
    o.outcome = outcome_from(one.outcome());
    o.what = what == "acquire"   ? MutexCall::acquire
             : what == "release" ? MutexCall::release
                                 : MutexCall::holds;
    o.token = what == "acquire" && !one.told.is_null() ? token(one.told) : token(one.call);
    if (o.token != 0) lock_of[o.token] = one.call.at("lock");
    all[one.call.at("lock")].push_back(std::move(o));
  }
  for (const auto& [token, since] : losses()) {
    MutexOperation o;
    o.client = "its session";
    o.call = since;
    o.what = MutexCall::expire;
    o.token = token;
    all[lock_of[token]].push_back(std::move(o));
  }
  return all;
}

void Workload::check_locks() {
  for (const auto& [lock, history] : mutexes()) {
    const auto verdict = linearizability::check_mutex(history);
    EXPECT_TRUE(verdict) << lock << ", " << history.size() << " operations: " << verdict.why;
    EXPECT_GT(history.size(), kEnough) << lock;
  }
}

// What guards itself by tokens refuses only those who may have lost the lock.
void Workload::check_fences() {
  const auto all = losses();
  for (const auto& line : noted("fenced")) {
    if (line.at("outcome") != "refused") continue;
    const auto [first, last] = all.equal_range(token(line));
    EXPECT_TRUE(std::any_of(first, last, [&](const auto& loss) { return loss.second <= ns(line); }))
        << "refused, though it had not been lost: " << line;
  }
}

// ---- watches

void Workload::check_watches() {
  std::uint64_t newest = 0;
  for (const auto& [key, entries] : left_)
    for (const auto& entry : entries) newest = std::max(newest, revision(entry));
  for (const auto& node : c.running_nodes())
    EXPECT_TRUE(
        c.wait_for("the watch of " + node + " to tell revision " + std::to_string(newest), [&] {
          const auto& told = noted("watched");
          return std::any_of(told.begin(), told.end(), [&](const json& line) {
            return line.at("pid") == c.node(node).pid() && revision(line) == newest;
          });
        }));
  EXPECT_TRUE(noted("watch_lost").empty());
  std::map<pid_t, std::vector<json>> watches;
  for (const char* kind : {"watched", "caught_up"})
    for (const auto& line : noted(kind)) watches[line.at("pid")].push_back(line);
  for (auto& [pid, lines] : watches) {
    // Each process told them in the order of its clock.
    std::stable_sort(lines.begin(), lines.end(),
                     [](const json& a, const json& b) { return ns(a) < ns(b); });
    check_watch(pid, lines);
  }
}

// Each told write was one, and of those that were done, all from the beginning to the last are
// told, once and in order.
void Workload::check_watch(pid_t pid, const std::vector<json>& lines) {
  std::map<std::uint64_t, json> told;
  std::uint64_t begin = std::numeric_limits<std::uint64_t>::max(), last = 0;
  for (const auto& line : lines) {
    if (line.at("line") == "caught_up") {
      begin = last;
      continue;
    }
    EXPECT_GT(revision(line), last) << "process " << pid << " was told again: " << line;
    last = revision(line);
    told[last] = line;
    check_watched(line);
  }
  std::size_t compared = 0;
  for (const auto& [id, one] : calls_) {
    if (!one.call.contains("value") || one.outcome() != "done") continue;
    const std::uint64_t written = revision(one.told);
    if (written <= begin || written > last) continue;
    ++compared;
    if (told.contains(written)) continue;
    const auto next = told.upper_bound(written);
    EXPECT_TRUE(next != told.end() && may_be_gone(one, next->second))
        << "process " << pid << " was not told: " << one.call << one.told;
  }
  EXPECT_GT(compared, 5u) << "process " << pid;
  for (const auto& [key, entries] : left_)
    for (const auto& entry : entries)
      if (revision(entry) > begin && revision(entry) <= last) {
        EXPECT_TRUE(told.contains(revision(entry))) << "process " << pid << ": " << entry;
      }
}

void Workload::check_watched(const json& event) {
  if (event.at("removed") == true) return;
  const auto writer = writers_.find(event.at("value"));
  ASSERT_NE(writer, writers_.end()) << "nobody wrote " << event;
  const Call& write = *writer->second;
  EXPECT_EQ(write.call.at("key"), event.at("key")) << event;
  EXPECT_TRUE(write.outcome() == "done" || write.outcome() == "unknown")
      << write.told << " but it is there: " << event;
  if (write.outcome() == "done") {
    EXPECT_EQ(revision(write.told), revision(event)) << event;
  }
}

// A bucket keeps so many values of a key. Who was away may miss those that went meanwhile.
bool Workload::may_be_gone(const Call& write, const json& next) const {
  int newer = 0;
  for (const auto& [id, one] : calls_) {
    const std::string what = one.call.at("what");
    if (one.outcome() != "done" ||
        one.call.value("key", "") != write.call.at("key").get<std::string>() ||
        ns(one.call) >= ns(next))
      continue;
    // Nobody is told the revision of a removal.
    newer += what.starts_with("remove")
                 ? ns(one.told) > ns(write.call)
                 : one.call.contains("value") && revision(one.told) > revision(write.told);
  }
  return newer >= kHistory;
}

}  // namespace cluster::e2e
