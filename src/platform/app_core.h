// One app on this node: its hooks, its backend, and the life between standby and active. On the
// loop, but for what says otherwise.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cluster/app.h"
#include "core/audit.h"
#include "core/journal.h"
#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"
#include "data/call_client.h"
#include "data/call_server.h"
#include "data/event_bus.h"
#include "data/kv_bucket.h"
#include "nats/exchange.h"
#include "nats/jetstream.h"
#include "ops/audit_trail.h"
#include "ops/process_backend.h"
#include "platform/hand_over.h"
#include "platform/lead_messages.h"
#include "platform/lock_service.h"
#include "platform/peer_requests.h"
#include "platform/step_times.h"
#include "platform/tell.h"
#include "platform/transition.h"
#include "sqlite/replicated_database.h"

namespace cluster {

/// What an app needs of its platform.
class AppHost {
 public:
  virtual ~AppHost() = default;
  virtual Loop& loop() = 0;
  virtual StrandPool& strands() = 0;
  virtual const std::string& platform_name() const = 0;
  virtual const std::string& node_name() const = 0;
  virtual const std::string& folder_id() const = 0;
  virtual const Timing& timing() const = 0;
  virtual void group_began(pid_t group) = 0;
  virtual void group_ended(pid_t group) = 0;
  virtual void set_candidate(const std::string& app, bool candidate, Time not_before) = 0;
  virtual bool holds(const std::string& app) const = 0;
  virtual void release(const std::string& app, const std::string& target) = 0;
  /// Nanoseconds of BootClock until which the node's session holds; 0: none does. Any thread.
  virtual std::int64_t limit_ns() const noexcept = 0;
  /// Once a session has begun.
  virtual nats::JetStream& jetstream() = 0;
  /// For threads that are not the loop's; there from the beginning, connected or not. Any thread.
  virtual const std::shared_ptr<nats::Exchange>& exchange() const noexcept = 0;
  virtual const std::shared_ptr<LockService>& locks() const noexcept = 0;
  virtual const std::shared_ptr<EventBus>& events_bus() const noexcept = 0;
  virtual const std::shared_ptr<CallClient>& calls() const noexcept = 0;
  /// Once a session has begun.
  virtual nats::Connection& connection() = 0;
  virtual const std::shared_ptr<AuditTrail>& audit_trail() const noexcept = 0;
  virtual int stream_replicas() const = 0;
  virtual void audit(AuditEntry entry) = 0;
  virtual bool is_live(const std::string& node) const = 0;
  /// How many live nodes with that app come before this one, by their names.
  virtual std::size_t rank_among(const std::string& app) const = 0;
  /// Live nodes with that app, this one among them. Any thread.
  virtual std::vector<std::string> nodes_with(const std::string& app) const = 0;
  virtual void app_is_down(const std::string& app) = 0;  ///< after stop(): its on_stop is done
  /// Until when a node that stops may take its time.
  virtual Time stop_by() const = 0;
  /// No node on another machine can reach the NATS server that this platform uses.
  virtual bool alone() const = 0;
  /// All other nodes that the platform has or had, with what they say of the app's database.
  virtual std::vector<sqlite::FoundingNode> others_with(const std::string& app) const = 0;
  /// What held_database() says has changed.
  virtual void held_changed() = 0;
};

/// How a lead was given up.
struct SteppedDown {
  std::uint64_t epoch = 0;  ///< of that lead
  std::string next{};       ///< who may take it first; empty: anybody
  Duration stopped{};       ///< so long before the lease was released the app had been stopped
  sqlite::Unsent left{};    ///< what of its database JetStream has not
};

struct App::Core {
  Core(AppHost& host, AppOptions options);
  ~Core();

  // The loop's side.
  void session_began();
  void session_ended(const std::string& why);
  void acquired(std::uint64_t epoch);
  void lease_gone();  ///< released, or taken by somebody: this node does not hold it any more
  void invited();     ///< the last leader released the lease in favour of this node
  void leader_seen(std::optional<Leader> leader, std::uint64_t epoch);
  void member_joined(const Member& member);
  void member_left(const Member& member);
  void records_changed();  ///< of other nodes
  /// Hands the lead over; `done` once the lease is released, or with why that was called off:
  /// as Election::step_down says.
  void step_down(const StepDown& how, Callback<SteppedDown> done);
  /// What this node says of itself to whoever hands the lead over, or follows how that goes.
  void lead_state(const LeadQuery& query, Callback<LeadState> done);
  void stop();      ///< demote in order, then on_stop; AppHost::app_is_down follows
  void kill_now();  ///< what runs, at once; hooks are told to return
  void over();      ///< nothing follows: whoever waits in a call of the API is told
  bool down() const { return down_; }  ///< AppHost::app_is_down was told
  std::string why_up() const;          ///< what is not down yet, for people
  /// What of this node's last lead is not in JetStream, now that it stops.
  sqlite::Unsent unsent_at_stop() const;
  bool singleton() const { return std::holds_alternative<Singleton>(options.mode); }

  struct Seen {
    Role role{};
    std::string phase;
    std::optional<Leader> leader;
    std::string last_error;
    std::vector<StepTimes::Times> steps;
    CallServer::Counts calls;
    std::optional<ProcessBackend::Status> backend;
    std::optional<sqlite::ReplicatedDatabase::Status> database;
  };
  Seen seen() const;
  /// Nothing before the first session and after the end.
  sqlite::ReplicatedDatabase* replicated() const { return database_.get(); }
  /// What this node's record is to say of its database; What::unknown before the first session.
  sqlite::HeldDatabase held_database() const { return database_ ? database_->held() : held_last_; }
  /// Calls `done` once this node's database has all up to there, or with an error after `limit`.
  void wait_for_position(const DatabasePosition& position, Duration limit, Completion done);

  // Any thread.
  bool is_leader() const noexcept;
  std::optional<Leader> leader() const;
  bool wait_for_leadership(std::chrono::milliseconds timeout);
  void step_down_and_wait(const StepDown& how);
  void forbid_from_hooks(const char* what) const;
  /// Throws invalid_argument on the loop and before it runs, shutting_down after: nobody would
  /// answer there.
  void check_answered(const char* what) const;
  /// Runs `task` on the loop, unless this object is gone by then.
  void on_loop(std::function<void()> task);
  std::string database_file() const;  ///< where it is now

  AppHost& host;
  AppOptions options;
  std::vector<Hook> start_hooks, active_hooks, passive_hooks, stop_hooks;
  std::vector<std::function<void(const LeaderChange&)>> leader_hooks;
  std::vector<std::function<void(const Member&)>> join_hooks, leave_hooks;
  std::unique_ptr<Election::Core> election_core;
  std::unique_ptr<Election> election;
  std::unique_ptr<Database::Core> database_core;
  std::unique_ptr<Database> database;
  std::unique_ptr<Snapshots::Core> snapshots_core;
  std::unique_ptr<Snapshots> snapshots;
  const std::shared_ptr<KvBucket> kv;
  const std::shared_ptr<CallServer> methods;
  std::atomic<std::uint64_t> epoch{0};         // of this node's lead, or its last one
  std::atomic<std::uint64_t> newest_epoch{0};  // of anybody's
  std::atomic<Role> role{Role::standby};
  std::atomic<bool> held{false};   // the lease
  std::atomic<bool> leads{false};  // the lease, and it is not being given up
  // This node's copy is the primary. Connections that outlive this object ask it, too.
  const std::shared_ptr<std::atomic<bool>> database_leads =
      std::make_shared<std::atomic<bool>>(false);

 private:
  Duration hook_timeout() const;
  void make_backend();
  void make_database();
  void ready_changed(bool ready);
  void check_position_waiters();
  void ask_peer(const std::string& node, const PeerRequest& request, Callback<std::string> done);
  void ask_leader_for_page(const sqlite::PageRequest& request, Callback<std::string> done);
  void database_is_unsound(const std::string& why);
  std::vector<StepPlan> plan() const;
  void carry_out(Transition::Output& out);
  void step(const std::function<void(Transition&, Time, Transition::Output&)>& event);
  void run_hooks(const char* what, const std::vector<Hook>& hooks, std::stop_source stop,
                 std::function<void(std::optional<std::string>)> done);
  /// Puts into the audit log what hooks throw that are only told of something.
  HookThrew hook_threw();
  void promote();
  void demotion_begins();
  void step_is_over(const StepDone& done);
  void became_active();
  void tell_of_transition(log::Level level, const char* event, log::Fields fields);
  std::string why_down() const;
  std::string phase_text() const;
  void up(Step step, std::uint64_t ticket);
  void undo(Step step, std::uint64_t ticket);
  void standby_reached(const std::optional<std::string>& failure);
  void hand_over(const StepDown& how);
  HandOver::Surroundings surroundings();
  void called_off(const Error& why);
  void drop_hand_over();
  void stepped_down();
  void step_down_is_late(std::uint64_t waiter);
  void ask_node(const std::string& node, const LeadQuery& query, Callback<LeadState> done);
  std::vector<std::string> candidates() const;
  LeadState lead_state_now(std::uint64_t sequence) const;
  std::string why_not_ready() const;
  void end_without_release();
  sqlite::DrainLimits drain_limits() const;
  void answer_step_down(const Result<SteppedDown>& result);
  void arm();
  void offer();  ///< become a candidate, or active, when nothing stands in the way
  void finish_stop();
  void set_group(pid_t group);
  bool past_limit() const;
  std::stop_source limited_stop();

  const AuditSink audit_;
  const Journal leases_, transitions_, hooks_;
  std::unique_ptr<Strand> strand_;
  Transition transition_;
  StepTimes step_times_;
  std::vector<StepDone> steps_;  // of the transition under way
  Time transition_begun_{};
  bool was_active_ = false;  // since the last promotion began
  std::unique_ptr<ProcessBackend> backend_;
  std::unique_ptr<sqlite::ReplicatedDatabase> database_;
  sqlite::HeldDatabase held_last_;  // once that is gone
  struct PositionWaiter {
    DatabasePosition position{};
    Completion done{};
    LoopSource limit{};
  };
  std::map<std::uint64_t, PositionWaiter> position_waiters_;
  std::uint64_t last_waiter_ = 0;
  Time handed_over_unsound_{};  // when that was last tried
  pid_t group_ = 0;
  bool in_force_ = false;  // the node has a session
  bool start_hooks_done_ = false;
  bool start_hooks_begun_ = false;
  bool stopping_ = false;
  bool stopped_ = false;  // it is not active any more, and on_stop has begun
  bool down_ = false;
  bool offered_ = false;
  int failures_ = 0;  // promotions that failed in a row
  Time not_before_{};
  bool resting_ = false;  // not_before_ is for the sake of others, not after a failure
  std::string target_;    // of the step-down under way
  struct StepDownWaiter {
    Callback<SteppedDown> done{};
    std::chrono::milliseconds timeout{};
    LoopSource limit{};
  };
  std::map<std::uint64_t, StepDownWaiter> step_down_waiters_;
  std::uint64_t last_step_down_waiter_ = 0;
  std::shared_ptr<HandOver> hand_over_;
  bool forced_ = false;       // the step-down under way
  bool handed_over_ = false;  // what could be sent was, and the app is stopped
  sqlite::Unsent left_{};     // by the lead that ended last
  std::string last_error_;
  std::stop_source active_stop_{std::nostopstate};  // of on_active
  std::stop_source other_stop_{std::nostopstate};   // of on_start, on_passive or on_stop
  LoopSource hook_limit_;
  LoopSource timer_;
  LoopSource cooldown_;
  LoopSource stop_limit_, release_limit_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  mutable std::mutex mutex_;  // over what other threads wait for
  std::condition_variable changed_;
  std::optional<Leader> leader_;
  bool active_ = false;
  bool shut_down_ = false;
};

struct Election::Core {
  App::Core& app;
};

struct Database::Core {
  App::Core& app;

  /// Runs `ask` on the loop with a callback for its answer, and waits for that.
  template <typename T>
  T wait(std::chrono::milliseconds limit, const std::string& what,
         std::function<void(sqlite::ReplicatedDatabase&, Callback<T>)> ask);
};

}  // namespace cluster
