// The audit log: what has happened to a platform, where and when, and what its users add to that
// (docs/audit.md).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/error.h"

namespace cluster {

class AuditTrail;

/// Names and values; of a name that is there twice the last value counts.
using AuditFields = std::vector<std::pair<std::string, std::string>>;

/// Something that happened.
struct AuditEntry {
  std::string category{};  ///< of what: "database"; "user" in entries of Audit::record()
  std::string action{};    ///< what happened: "primary"
  std::string app{};       ///< empty: to none alone
  std::string level{};     ///< "info", "warn", "error"
  AuditFields fields{};    ///< sorted by name when it was read
  std::string node{};      ///< that tells of it; empty: the program cpp-cluster
  std::chrono::system_clock::time_point time{};  ///< when it happened, by that node's clock
  std::uint64_t sequence = 0;                    ///< its place in the log
};

/// Which entries are wanted: those that fit all that is given. Category and action are looked for
/// by the NATS server, the others here.
struct AuditFilter {
  std::string category{};
  /// `_`: those of no app, `*`: of all. Empty: the app's own for App::audit(), all for
  /// Platform::audit()
  std::string app{};
  std::string node{};
  std::string action{};
  std::optional<std::chrono::system_clock::time_point> since{}, until{};  ///< both included
  std::size_t limit = 100;  ///< of query(): the newest that fit, 1 to 10,000
};

struct AuditFollowOptions {
  std::chrono::milliseconds timeout{5'000};  ///< of follow()
  /// Called on the subscription's strand when something is wrong and goes on by itself, or entries
  /// may have been missed; the log has it, too.
  std::function<void(const Error&)> on_trouble{};
};

/// What a subscription has done since it began.
struct AuditCounts {
  std::uint64_t handled = 0;      ///< handlers that returned
  std::uint64_t failed = 0;       ///< handlers that threw
  std::uint64_t interrupted = 0;  ///< how often the handler was too slow, and reading had to be
                                  ///< taken up again later; no entry is missed by that
  std::uint64_t gaps = 0;         ///< how often entries may have been missed
};

/// From Audit::follow(), while it lives. May outlive its platform, and is then over.
class AuditSubscription {
 public:
  class Core;

  AuditSubscription() = default;
  explicit AuditSubscription(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  AuditSubscription(AuditSubscription&&) noexcept = default;
  AuditSubscription& operator=(AuditSubscription&& other) noexcept;
  /// Ends delivery, and waits for the handler if it runs, unless this is called from it.
  ~AuditSubscription();

  AuditCounts counts() const;  ///< any thread

 private:
  std::shared_ptr<Core> core_;
};

/// From App::audit() and Platform::audit(); to be copied. May outlive the platform.
///
///     app.audit().record("order_refunded", {{"order", "4711"}, {"by", "alice"}});
///     for (const auto& entry : platform.audit().query({.category = "lease"})) show(entry);
class Audit {
 public:
  using Timeout = std::chrono::milliseconds;

  Audit(std::shared_ptr<AuditTrail> trail, std::string app)
      : trail_(std::move(trail)), app_(std::move(app)) {}

  /// Adds an entry of category "user" with the time it has now; any thread, never blocks. It is
  /// stored a moment later, or when NATS answers again; 1,000 of this node wait at most. False:
  /// there was no room, or the platform has stopped; that is counted in dropped(). `action`: 1 to
  /// 64 of `A-Z a-z 0-9 _ -`. `fields`: 64 at most, with names of 1 to 64 bytes, 16 KiB in all.
  /// Throws Error{invalid_argument}.
  bool record(std::string_view action, AuditFields fields = {});
  /// Entries of record() on this node, of all its apps, that are certainly not stored: there was no
  /// room, or JetStream refused them. Any thread.
  std::uint64_t dropped() const noexcept;

  // Both block, for the timeout at most, and may be called from any thread, hook and handler, but
  // not from that of Platform::run(). They throw Error{invalid_argument} (also for that thread),
  // Error{unavailable} (NATS is away, or not there yet: before Platform::run()), Error{timeout},
  // Error{permission_denied} (the NATS user may not) and Error{shutting_down}.

  /// The newest entries that fit, in the order in which they were stored, the newest last. Reads
  /// the log backwards as far as it has to.
  std::vector<AuditEntry> query(const AuditFilter& filter = {},
                                Timeout timeout = Timeout(5'000)) const;
  /// Has `handler` called for each entry that fits, one at a time and in the order in which they
  /// were stored: those since filter.since, if that is given, and all that are stored after this
  /// has returned. Each once, also across reconnects and restarts of NATS; what a handler throws is
  /// logged. filter.limit does not count, and filter.until can't be given.
  [[nodiscard]] AuditSubscription follow(const AuditFilter& filter,
                                         std::function<void(const AuditEntry&)> handler,
                                         AuditFollowOptions options = {}) const;

 private:
  std::shared_ptr<AuditTrail> trail_;
  std::string app_;
};

}  // namespace cluster
