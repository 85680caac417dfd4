// Carries out what a Coordination decides: feeds it from NATS and timers, sends its messages,
// writes its records. Decides nothing itself. On the loop's thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coord/coordination.h"
#include "coord/lock_store.h"
#include "core/loop.h"
#include "core/repeat_limit.h"
#include "nats/key_value.h"

namespace cluster::coord {

/// What a driver's user is told, on the loop.
struct DriverEvents {
  std::function<void(const SessionId& id, Revision rev)> session_began{};
  std::function<void(const std::string& why)>
      session_ended{};  ///< stop what it entitled to, by force, now
  std::function<void()> left{};
  std::function<void(const std::string& app, std::uint64_t epoch)> acquired{};
  std::function<void(const std::string& app)> released{};
  std::function<void(const std::string& app)> lease_changed{};
  std::function<void(const std::string& node)> member_changed{};
  std::function<void(const LockNews& news)> lock_news{};
  /// Until when the session's rules hold, as far as is known now; Time{} without a session. Called
  /// when it has changed, before any other event that comes with that change.
  std::function<void(Time limit)> limit_changed{};
  /// Somebody else's session stands under this node's name and has not ended. Once for each
  /// revision seen of it.
  std::function<void(const SessionRecord& other)> blocked{};
  /// Something on NATS is not as it should be; the driver goes on.
  std::function<void(const Error&)> trouble{};
};

class Driver {
 public:
  struct Options {
    std::string platform{};
    Coordination::Options coordination{};
    int replicas = 1;  ///< of the buckets, where this node makes them
  };

  Driver(Loop& loop, nats::JetStream& jetstream, Options options, DriverEvents events);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  /// Makes the buckets where they are missing; `done` tells whether that worked. Can be called
  /// again after a failure.
  void prepare(Completion done);
  /// Joins: from now on a session is kept. After prepare().
  void start();
  /// Leaves; DriverEvents::left follows.
  void leave();
  /// What the record of this node says of it has changed: it is written again soon.
  void facts_changed();
  void set_candidate(const std::string& app, bool candidate, Time not_before = {});
  void release(const std::string& app, const std::string& target = {});

  void claim_lock(LockClaim claim);
  void release_lock(std::uint64_t claim, bool open = false);

  const Coordination& coordination() const { return *coordination_; }

 private:
  void run(const std::function<void(Coordination&, Actions&)>& event);
  void carry_out(Action action);
  LockStore::Events lock_events();
  void lock_news(const LockNews& news);
  void write(nats::KeyValue& bucket, WriteId id, const std::string& key, std::string value,
             Revision expected);
  void subscribe();
  void follow();
  void rewound(const char* bucket);
  void arm();
  void tell_limit();
  void trouble(const Error& error);

  Loop& loop_;
  nats::JetStream& jetstream_;
  Options options_;
  DriverEvents events_;
  std::string subjects_;  // `<p>._.session.`
  nats::KeyValue members_;
  nats::KeyValue leases_;
  std::unique_ptr<Coordination> coordination_;
  LockStore locks_;
  std::map<std::uint64_t, LockClaim>
      claims_;  // that have not ended: asked for, also after a rewind
  std::vector<nats::Subscription> subscriptions_;
  std::unique_ptr<nats::KvWatch> members_watch_;
  std::unique_ptr<nats::KvWatch> leases_watch_;
  std::vector<Action> waiting_;
  bool carrying_out_ = false;
  bool leaving_ = false;
  std::vector<std::pair<std::string, Time>>
      candidates_;  // app, not before: asked for, also after a rewind
  Revision blocked_told_ = 0;
  RepeatLimit told_;  // of what is tried several times a second
  Time limit_told_{};
  Time armed_{};
  LoopSource timer_;
  std::shared_ptr<bool> alive_;
};

}  // namespace cluster::coord
