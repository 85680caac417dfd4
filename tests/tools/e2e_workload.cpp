#include "tools/e2e_workload.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "tools/e2e_journal.h"

namespace cluster::e2e {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kShortWait{60}, kLongestHold{8};
constexpr milliseconds kLook{5};  // at a lock that is kept

const char* outcome_of(const Error& error, bool writes) {
  switch (error.errc()) {
    case Errc::wrong_revision: return "refused";
    case Errc::unavailable: return "failed";
    case Errc::unknown_outcome:
    case Errc::timeout:
    case Errc::shutting_down: return writes ? "unknown" : "failed";
    default: return "error";
  }
}

}  // namespace

CallLog::CallLog(const std::string& path)
    : fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ >= 0) return;
  std::perror(path.c_str());
  std::exit(2);
}

CallLog::~CallLog() { ::close(fd_); }

void CallLog::line(json line) const {
  line["pid"] = ::getpid();
  const std::string text = line.dump() + '\n';
  if (::write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size())) return;
  std::perror("calls");
  std::exit(2);
}

/// One thread, with one call under way at a time.
class Workload::Client {
 public:
  Client(const Workload& work, std::string name)
      : work_(work),
        name_(work.platform_.node() + '/' + std::to_string(::getpid()) + '/' + std::move(name)),
        random_(work.options_.value("seed", 0u) +
                static_cast<unsigned>(std::hash<std::string>()(name_))) {}

  unsigned below(unsigned limit) {
    return std::uniform_int_distribution<unsigned>(0, limit - 1)(random_);
  }
  std::string one_of(const char* names) {
    const auto& all = work_.options_.at(names);
    return all.at(below(static_cast<unsigned>(all.size())));
  }
  void pause() {
    const auto mean = static_cast<unsigned>(work_.options_.value("pace_ms", 5));
    std::this_thread::sleep_for(milliseconds(below(2 * mean + 1)));
  }
  std::string next_value() { return name_ + '#' + std::to_string(++values_); }
  milliseconds timeout() const { return milliseconds(work_.options_.value("timeout_ms", 1000)); }

  /// Calls and writes down; `act` adds to the line of the return.
  bool call(const char* what, json line, bool writes, const std::function<void(json&)>& act) {
    line["id"] = ++calls_;
    line["client"] = name_;
    json told = {{"line", "return"}, {"id", calls_}, {"client", name_}, {"outcome", "done"}};
    line["line"] = "call";
    line["what"] = what;
    line["ns"] = boot_ns();
    work_.log_.line(std::move(line));
    try {
      act(told);
    } catch (const Error& error) {
      told["outcome"] = outcome_of(error, writes);
      told["why"] = error.what();
    }
    told["ns"] = boot_ns();
    const bool done = told["outcome"] == "done";
    work_.log_.line(std::move(told));
    return done;
  }

  void note(const char* what, json line) const {
    line["line"] = what;
    line["client"] = name_;
    line["ns"] = boot_ns();
    work_.log_.line(std::move(line));
  }

  /// Whether the guard says that it holds the lock; that it was sure of it is part of the history.
  bool holds(const std::string& lock, const LockGuard& guard) {
    json line = {{"line", "call"},  {"what", "holds"},        {"lock", lock},   {"id", ++calls_},
                 {"client", name_}, {"token", guard.token()}, {"ns", boot_ns()}};
    if (!guard.held()) return false;
    json told = {{"line", "return"},
                 {"id", calls_},
                 {"client", name_},
                 {"outcome", "done"},
                 {"ns", boot_ns()}};
    work_.log_.line(std::move(line));
    work_.log_.line(std::move(told));
    return true;
  }

  /// Writes to what refuses late writers: a record that keeps the highest token it has seen. False
  /// when it came to nothing, so that nothing is known of it.
  bool write_fenced(const std::string& lock, std::uint64_t token) {
    Kv kv = work_.app_.kv();
    const std::string key = "fenced." + lock;
    const char* outcome = "done";
    try {
      const auto there = kv.get(key, timeout());
      if (there && std::stoull(there->value) > token)
        outcome = "refused";
      else if (there)
        kv.update(key, std::to_string(token), there->revision, timeout());
      else
        kv.create(key, std::to_string(token), timeout());
    } catch (const Error& error) {
      // That somebody else has written it since tells nothing of his token.
      outcome = error.errc() == Errc::wrong_revision ? "overtaken" : "failed";
    }
    note("fenced", {{"lock", lock}, {"token", token}, {"outcome", outcome}});
    return outcome != std::string("failed");
  }

 private:
  const Workload& work_;
  const std::string name_;
  std::mt19937 random_;
  std::uint64_t calls_ = 0, values_ = 0;
};

Workload::Workload(Platform& platform, App& app, const json& options)
    : platform_(platform), app_(app), options_(options), log_(options.at("log")) {
  watch();
  for (int i = 0; i < options_.value("kv_clients", 0); ++i)
    threads_.emplace_back([this, i] { keys_client(i); });
  for (int i = 0; i < options_.value("lock_clients", 0); ++i)
    threads_.emplace_back([this, i] { locks_client(i); });
  if (options_.contains("hold")) threads_.emplace_back([this] { keep_lock(); });
}

Workload::~Workload() {
  ended_.store(true);
  for (auto& thread : threads_) thread.join();
}

bool Workload::stopped() const {
  return ended_.load() || ::access(options_.at("stop").get<std::string>().c_str(), F_OK) == 0;
}

void Workload::watch() {
  const std::string node = platform_.node();
  watch_ = app_.kv().watch(
      "key.",
      [this, node](const KvEntry& entry) {
        log_.line({{"line", "watched"},
                   {"node", node},
                   {"key", entry.key},
                   {"value", entry.value},
                   {"revision", entry.revision},
                   {"removed", entry.removed},
                   {"ns", boot_ns()}});
      },
      {.caught_up =
           [this, node] { log_.line({{"line", "caught_up"}, {"node", node}, {"ns", boot_ns()}}); },
       .lost =
           [this, node](const std::string& why) {
             log_.line({{"line", "watch_lost"}, {"node", node}, {"why", why}, {"ns", boot_ns()}});
           }});
}

// Revisions that a client expects are those it has seen last: others may have written since.
void Workload::keys_client(int number) {
  Client client(*this, "k" + std::to_string(number));
  Kv kv = app_.kv();
  std::map<std::string, std::uint64_t> seen;
  while (!stopped()) {
    const std::string key = client.one_of("keys");
    const std::string value = client.next_value();
    const auto timeout = client.timeout();
    const std::uint64_t expected = seen[key];
    unsigned what = client.below(16);
    if (expected == 0 && what >= 8 && what <= 13) what = 0;
    const auto wrote = [&](json& told, std::uint64_t revision) {
      told["revision"] = seen[key] = revision;
    };
    if (what < 6) {
      client.call("get", {{"key", key}}, false, [&](json& told) {
        if (const auto entry = kv.get(key, timeout)) {
          told["value"] = entry->value;
          wrote(told, entry->revision);
        }
      });
    } else if (what < 8) {
      client.call("put", {{"key", key}, {"value", value}}, true,
                  [&](json& told) { wrote(told, kv.put(key, value, timeout)); });
    } else if (what < 12) {
      client.call("update", {{"key", key}, {"value", value}, {"expected", expected}}, true,
                  [&](json& told) { wrote(told, kv.update(key, value, expected, timeout)); });
    } else if (what < 14) {
      client.call("remove_revision", {{"key", key}, {"expected", expected}}, true,
                  [&](json&) { kv.remove_revision(key, expected, timeout); });
    } else if (what < 15) {
      client.call("create", {{"key", key}, {"value", value}}, true,
                  [&](json& told) { wrote(told, kv.create(key, value, timeout)); });
    } else {
      client.call("remove", {{"key", key}}, true, [&](json&) { kv.remove(key, timeout); });
    }
    client.pause();
  }
  client.note("ended", {});
}

void Workload::locks_client(int number) {
  Client client(*this, "l" + std::to_string(number));
  while (!stopped()) {
    const std::string name = client.one_of("locks");
    Lock lock = app_.lock(name);
    std::optional<LockGuard> guard;
    const unsigned how = client.below(4);
    client.call("acquire", {{"lock", name}}, true, [&](json& told) {
      if (how == 0)
        guard = lock.try_acquire(client.timeout());
      else
        guard = lock.acquire(how == 1 ? kShortWait : client.timeout());
      if (guard)
        told["token"] = guard->token();
      else
        told["outcome"] = "refused";
    });
    if (guard) {
      const std::uint64_t token = guard->token();
      const std::stop_callback lost(
          guard->lost(), [&] { client.note("lost", {{"lock", name}, {"token", token}}); });
      client.holds(name, *guard);
      if (client.below(2) == 0) client.write_fenced(name, token);
      std::this_thread::sleep_for(milliseconds(client.below(kLongestHold.count())));
      if (!client.holds(name, *guard)) client.note("not_held", {{"lock", name}, {"token", token}});
      client.call("release", {{"lock", name}, {"token", token}}, true,
                  [&](json&) { guard->release(client.timeout()); });
    }
    client.pause();
  }
  client.note("ended", {});
}

// And when it is lost, still writes what it meant to: that is what fences are for.
void Workload::keep_lock() {
  Client client(*this, "keeper");
  const std::string name = options_.at("hold");
  std::optional<LockGuard> guard;
  client.call("acquire", {{"lock", name}}, true, [&](json& told) {
    guard = app_.lock(name).acquire(std::chrono::minutes(1));
    told["token"] = guard->token();
  });
  if (guard) {
    const std::uint64_t token = guard->token();
    const std::stop_callback lost(guard->lost(),
                                  [&] { client.note("lost", {{"lock", name}, {"token", token}}); });
    client.write_fenced(name, token);
    client.note("kept", {{"lock", name}, {"token", token}});
    while (!stopped() && client.holds(name, *guard)) std::this_thread::sleep_for(kLook);
    if (!stopped()) {
      client.note("not_held", {{"lock", name}, {"token", token}});
      // A process that has just woken may find that NATS has given it up.
      while (!stopped() && !client.write_fenced(name, token)) std::this_thread::sleep_for(kLook);
      // Released before that is said, it would be given up, not lost.
      while (!stopped() && !guard->lost().stop_requested()) std::this_thread::sleep_for(kLook);
    }
    client.call("release", {{"lock", name}, {"token", token}}, true,
                [&](json&) { guard->release(client.timeout()); });
  }
  client.note("ended", {});
}

}  // namespace cluster::e2e
