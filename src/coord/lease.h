// The lease of one app: when this node may take it, that it holds it, how it gives it up
// (docs/protocols.md, Leases). Pure.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "coord/session_owner.h"
#include "coord/session_view.h"

namespace cluster::coord {

class Lease {
 public:
  struct Output {
    std::optional<std::uint64_t> acquired{};  ///< this node leads now, with this epoch
    bool released = false;  ///< a release is complete (or the lease has passed on meanwhile)
    bool changed = false;   ///< another record was seen
    struct Write {
      std::uint64_t id = 0;
      Revision expected = 0;
      LeaseRecord record{};
    };
    std::optional<Write> write{};  ///< compare-and-set; answer with on_write()
  };
  /// What a lease needs to know of its surroundings at each step.
  struct Context {
    const SessionOwner& session;
    const SessionView& view;
    const SessionTiming& timing;
    bool leases_known = false;  ///< the first contents of the leases' bucket have been seen
    const std::function<int(const std::string& app)>&
        rank;  ///< this node's place among the live candidates, from 0
  };

  Lease(std::string app, std::string node) : app_(std::move(app)), node_(std::move(node)) {}

  /// Whether this node takes the lease when it can. `not_before`: a cooldown.
  void set_candidate(bool candidate, Time not_before = {}) {
    candidate_ = candidate;
    not_before_ = not_before;
  }
  /// Gives the lease up, to be taken by `target` first if one is named. The caller has stopped
  /// leading before.
  void release(const std::string& target, Time now, Output& out);

  void on_record(Revision rev, const LeaseRecord& record, const Context& context, Time now,
                 Output& out);
  void on_write(std::uint64_t id, WriteOutcome outcome, Revision stored, const Context& context,
                Time now, Output& out);
  /// The own session has ended, and the lead with it.
  void on_session_ended();
  void tick(const Context& context, Time now, Output& out);
  Time due() const { return due_; }

  /// This node holds the lease by its present session. It leads while that is in force, too.
  bool held() const { return held_; }
  std::uint64_t epoch() const { return record_ ? record_->epoch : 0; }
  const std::optional<LeaseRecord>& record() const { return record_; }
  /// Who leads as far as is known: a held lease whose holder's session has not ended.
  std::optional<std::string> leader(const SessionView& view) const;
  const std::string& app() const { return app_; }

 private:
  struct InFlight {
    std::uint64_t id = 0;
    Revision expected = 0;
    LeaseRecord record{};
    Time last_sent{};
  };
  bool takeable(const Context& context, Time now);
  void settled(bool landed, const Context& context, Time now, Output& out);

  std::string app_;
  std::string node_;
  bool candidate_ = false;
  Time not_before_{};
  Revision rev_ = 0;
  std::optional<LeaseRecord> record_;
  Time released_seen_{};
  bool held_ = false;
  std::optional<InFlight> in_flight_;
  std::uint64_t last_write_id_ = 0;
  std::optional<Time> takeable_since_;
  Time due_ = Time::max();
};

}  // namespace cluster::coord
