#include "coord/driver.h"

#include <algorithm>

#include "coord/records_json.h"
#include "core/log.h"

namespace cluster::coord {
namespace {

constexpr Duration kWriteTimeout = std::chrono::seconds(1);
constexpr Duration kTellAgain = std::chrono::seconds(10);

}  // namespace

Driver::Driver(Loop& loop, nats::JetStream& jetstream, Options options, DriverEvents events)
    : loop_(loop),
      jetstream_(jetstream),
      options_(std::move(options)),
      events_(std::move(events)),
      subjects_(options_.platform + "._.session."),
      members_(jetstream, options_.platform + "_members"),
      leases_(jetstream, options_.platform + "_leases"),
      coordination_(std::make_unique<Coordination>(options_.coordination)),
      locks_(jetstream, options_.platform, options_.coordination.session.node, options_.replicas,
             lock_events()),
      told_(kTellAgain),
      alive_(std::make_shared<bool>(true)) {}

Driver::~Driver() { *alive_ = false; }

void Driver::trouble(const Error& error) {
  if (events_.trouble) events_.trouble(error);
}

void Driver::prepare(Completion done) {
  auto config = [this](const nats::KeyValue& bucket, const char* what) {
    nats::BucketConfig c;
    c.bucket = bucket.bucket();
    c.description = what;
    c.replicas = options_.replicas;
    return c;
  };
  members_.ensure(config(members_, "cpp-cluster: sessions of nodes"),
                  [this, done, alive = alive_,
                   second = config(leases_, "cpp-cluster: leases of apps")](Failure failure) {
                    if (!*alive) return;
                    if (failure) return done(failure);
                    leases_.ensure(second, done);
                  });
}

void Driver::start() {
  subscribe();
  follow();
  run([](Coordination& c, Actions& actions) { c.start(BootClock::now(), actions); });
}

void Driver::leave() {
  leaving_ = true;
  run([](Coordination& c, Actions& actions) { c.leave(BootClock::now(), actions); });
}

void Driver::facts_changed() {
  run([](Coordination& c, Actions& actions) { c.facts_changed(BootClock::now(), actions); });
}

void Driver::set_candidate(const std::string& app, bool candidate, Time not_before) {
  std::erase_if(candidates_, [&](const auto& c) { return c.first == app; });
  if (candidate) candidates_.emplace_back(app, not_before);
  run([&](Coordination& c, Actions& actions) {
    c.set_candidate(app, candidate, not_before, BootClock::now(), actions);
  });
}

void Driver::release(const std::string& app, const std::string& target) {
  run([&](Coordination& c, Actions& actions) {
    if (c.holds(app)) c.release(app, target, BootClock::now(), actions);
  });
}

void Driver::claim_lock(LockClaim claim) {
  claims_.emplace(claim.id, claim);
  run([&](Coordination& c, Actions& actions) {
    c.claim_lock(std::move(claim), BootClock::now(), actions);
  });
}

void Driver::release_lock(std::uint64_t claim, bool open) {
  run([&](Coordination& c, Actions& actions) {
    c.release_lock(claim, open, BootClock::now(), actions);
  });
}

void Driver::lock_news(const LockNews& news) {
  if (news.what != LockNews::What::granted) claims_.erase(news.claim);
  if (events_.lock_news) events_.lock_news(news);
}

LockStore::Events Driver::lock_events() {
  LockStore::Events events;
  events.read = [this](const std::string& key, Revision rev,
                       const std::optional<LockRecord>& record) {
    run([&](Coordination& c, Actions& actions) {
      c.on_lock_read(key, rev, record, BootClock::now(), actions);
    });
  };
  events.written = [this](const std::string& key, std::uint64_t number, WriteOutcome outcome,
                          Revision stored) {
    run([&](Coordination& c, Actions& actions) {
      c.on_lock_write(key, number, outcome, stored, BootClock::now(), actions);
    });
  };
  events.told = [this](const LockNotice& notice) {
    run([&](Coordination& c, Actions& actions) {
      c.on_lock_notice(notice, BootClock::now(), actions);
    });
  };
  events.doubt = [this] {
    run([](Coordination& c, Actions& actions) { c.doubt_locks(BootClock::now(), actions); });
  };
  events.trouble = [this](const Error& error) { trouble(error); };
  return events;
}

void Driver::run(const std::function<void(Coordination&, Actions&)>& event) {
  Actions actions;
  event(*coordination_, actions);
  // Before anything is sent: a process that is stopped in between must not be left with a limit
  // that what it has sent makes void.
  tell_limit();
  std::move(actions.begin(), actions.end(), std::back_inserter(waiting_));
  if (carrying_out_) return;  // called from an event of ours: the outer call goes on with it
  carrying_out_ = true;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    Action action = std::move(waiting_[i]);
    carry_out(std::move(action));
  }
  waiting_.clear();
  carrying_out_ = false;

  if (coordination_->session().blocked()) {
    const auto* seen = coordination_->view().find(options_.coordination.session.node);
    if (seen && seen->rev != blocked_told_) {
      blocked_told_ = seen->rev;
      if (events_.blocked) events_.blocked(seen->record);
    }
  }
  arm();
}

void Driver::tell_limit() {
  const auto& session = coordination_->session();
  const Time limit = session.live() ? session.limit() : Time{};
  if (limit == limit_told_) return;
  limit_told_ = limit;
  if (events_.limit_changed) events_.limit_changed(limit);
}

void Driver::arm() {
  Time due = coordination_->due();
  if (due == armed_ && timer_) return;
  armed_ = due;
  if (due == Time::max()) {
    timer_.reset();
    return;
  }
  timer_ = loop_.at(due, [this] {
    timer_.reset();
    run([](Coordination& c, Actions& actions) { c.tick(BootClock::now(), actions); });
  });
}

void Driver::write(nats::KeyValue& bucket, WriteId id, const std::string& key, std::string value,
                   Revision expected) {
  auto done = [this, id, alive = alive_, who = coordination_.get()](Result<std::uint64_t> result) {
    if (!*alive || who != coordination_.get()) return;
    auto outcome = WriteOutcome::stored;
    if (!result)
      outcome = result.error().errc() == Errc::wrong_revision ? WriteOutcome::refused
                                                              : WriteOutcome::unknown;
    if (outcome == WriteOutcome::unknown) trouble(result.error());
    Revision stored = result ? result.value() : 0;
    run([&](Coordination& c, Actions& actions) {
      c.on_write(id, outcome, stored, BootClock::now(), actions);
    });
  };
  bucket.update(key, std::move(value), expected, kWriteTimeout, done);
}

void Driver::carry_out(Action action) {
  auto& connection = jetstream_.connection();
  auto send = [&](const std::string& to, const char* what, std::string data) {
    nats::Message message;
    message.subject = subjects_ + to + "." + what;
    message.data = std::move(data);
    connection.publish(
        message);  // lost while disconnected, as core NATS is: the protocol counts on nothing else
  };
  if (auto* heartbeat = std::get_if<Heartbeat>(&action)) {
    send(heartbeat->to, "heartbeat", to_json(*heartbeat));
  } else if (auto* ack = std::get_if<HeartbeatAck>(&action)) {
    send(ack->owner.node, "ack", to_json(*ack));
  } else if (auto* withdrawal = std::get_if<Withdrawal>(&action)) {
    const std::string from = withdrawal->owner.text();
    if (told_.tell("withdrawal " + from + ' ' + std::to_string(withdrawal->rev), BootClock::now()))
      log::info("voter_withdraws", {{"from", from}, {"rev", withdrawal->rev}});
    send("_", "withdrawal", to_json(*withdrawal));
  } else if (auto* member = std::get_if<WriteMember>(&action)) {
    const SessionRecord& record = member->record;
    if (record.state == SessionState::expired &&
        told_.tell("end " + record.node + '/' + record.session, BootClock::now()))
      log::info("ending_session",
                {{"node", record.node}, {"session", record.session}, {"why", record.ended_by}});
    write(members_, member->id, record.node, to_json(record), member->expected);
  } else if (auto* lease = std::get_if<WriteLease>(&action)) {
    write(leases_, lease->id, lease->record.app, to_json(lease->record), lease->expected);
  } else if (auto* read = std::get_if<ReadLock>(&action)) {
    locks_.read(*read);
  } else if (auto* lock = std::get_if<WriteLock>(&action)) {
    locks_.write(*lock);
  } else if (auto* notice = std::get_if<LockNotice>(&action)) {
    locks_.tell(*notice);
  } else if (auto* news = std::get_if<LockNews>(&action)) {
    lock_news(*news);
  } else if (auto* began = std::get_if<SessionBegan>(&action)) {
    if (events_.session_began) events_.session_began(began->id, began->rev);
  } else if (auto* ended = std::get_if<SessionEnded>(&action)) {
    if (events_.session_ended) events_.session_ended(ended->why);
  } else if (std::get_if<SessionLeft>(&action)) {
    if (events_.left) events_.left();
  } else if (auto* acquired = std::get_if<LeaseAcquired>(&action)) {
    if (events_.acquired) events_.acquired(acquired->app, acquired->epoch);
  } else if (auto* released = std::get_if<LeaseReleased>(&action)) {
    if (events_.released) events_.released(released->app);
  } else if (auto* changed = std::get_if<LeaseChanged>(&action)) {
    if (events_.lease_changed) events_.lease_changed(changed->app);
  } else if (auto* moved = std::get_if<MemberChanged>(&action)) {
    if (events_.member_changed) events_.member_changed(moved->node);
  }
}

void Driver::subscribe() {
  if (!subscriptions_.empty()) return;
  auto& connection = jetstream_.connection();
  auto on = [&](const std::string& subject, auto parse, auto event) {
    subscriptions_.push_back(
        connection.subscribe(subjects_ + subject, [this, parse, event](nats::Message message) {
          auto parsed = parse(message.data);
          if (!parsed) return trouble(parsed.error());
          run([&](Coordination& c, Actions& actions) { event(c, parsed.value(), actions); });
        }));
  };
  const std::string& node = options_.coordination.session.node;
  on(node + ".heartbeat", heartbeat_from, [](Coordination& c, const Heartbeat& h, Actions& a) {
    c.on_heartbeat(h, BootClock::now(), a);
  });
  on(node + ".ack", heartbeat_ack_from, [](Coordination& c, const HeartbeatAck& ack, Actions& a) {
    c.on_ack(ack, BootClock::now(), a);
  });
  on("_.withdrawal", withdrawal_from, [](Coordination& c, const Withdrawal& w, Actions& a) {
    c.on_withdrawal(w, BootClock::now(), a);
  });
}

void Driver::follow() {
  nats::KvWatch::Handlers members;
  members.entry = [this](nats::KvEntry entry) {
    if (entry.operation != nats::KvEntry::Operation::put) {
      trouble(Error(Errc::corrupt, "the record of node \"" + entry.key + "\" in bucket \"" +
                                       members_.bucket() +
                                       "\" was deleted by somebody: that ends its session"));
      SessionRecord gone;
      gone.node = entry.key;
      gone.state = SessionState::expired;
      gone.ended_by = "its record was deleted";
      return run([&](Coordination& c, Actions& a) {
        c.on_member(entry.revision, gone, BootClock::now(), a);
      });
    }
    auto record = session_record_from(entry.key, entry.value);
    if (!record) return trouble(record.error());
    run([&](Coordination& c, Actions& a) {
      c.on_member(entry.revision, record.value(), BootClock::now(), a);
    });
  };
  members.caught_up = [this] {
    run([](Coordination& c, Actions& a) { c.on_members_known(BootClock::now(), a); });
  };
  members.rewound = [this](std::uint64_t, std::uint64_t) { rewound("members"); };
  members.trouble = [this](const Error& error) { trouble(error); };
  members_watch_ = members_.watch(">", std::move(members));

  nats::KvWatch::Handlers leases;
  leases.entry = [this](nats::KvEntry entry) {
    if (entry.operation != nats::KvEntry::Operation::put) {
      trouble(Error(Errc::corrupt, "the lease of app \"" + entry.key + "\" in bucket \"" +
                                       leases_.bucket() +
                                       "\" was deleted by somebody: it counts as released, with "
                                       "the newest epoch that this node has seen"));
      const auto& apps = options_.coordination.apps;
      if (std::find(apps.begin(), apps.end(), entry.key) == apps.end()) return;
      LeaseRecord gone;
      gone.app = entry.key;
      gone.epoch = coordination_->lease(entry.key).epoch();
      return run([&](Coordination& c, Actions& a) {
        c.on_lease(entry.revision, gone, BootClock::now(), a);
      });
    }
    auto record = lease_record_from(entry.key, entry.value);
    if (!record) return trouble(record.error());
    run([&](Coordination& c, Actions& a) {
      c.on_lease(entry.revision, record.value(), BootClock::now(), a);
    });
  };
  leases.caught_up = [this] {
    run([](Coordination& c, Actions& a) { c.on_leases_known(BootClock::now(), a); });
  };
  leases.rewound = [this](std::uint64_t, std::uint64_t) { rewound("leases"); };
  leases.trouble = [this](const Error& error) { trouble(error); };
  leases_watch_ = leases_.watch(">", std::move(leases));
}

void Driver::rewound(const char* bucket) {
  trouble(Error(Errc::corrupt,
                options_.platform + "_" + bucket +
                    ": JetStream has lost revisions that it had acknowledged (a crash without "
                    "sync_interval: always, or a restored backup); this node's session ends and "
                    "everything is read again"));
  // Not from within the watch's own callback.
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    run([](Coordination& c, Actions& a) { c.on_store_rewound(BootClock::now(), a); });
    members_watch_.reset();
    leases_watch_.reset();
    coordination_ = std::make_unique<Coordination>(options_.coordination);
    for (const auto& [id, claim] : std::map(claims_))
      run([&](Coordination& c, Actions& actions) {
        c.claim_lock(claim, BootClock::now(), actions);
      });
    for (const auto& [app, not_before] : candidates_)
      run([&](Coordination& c, Actions& a) {
        c.set_candidate(app, true, not_before, BootClock::now(), a);
      });
    follow();
    if (!leaving_) run([](Coordination& c, Actions& a) { c.start(BootClock::now(), a); });
  });
}

}  // namespace cluster::coord
