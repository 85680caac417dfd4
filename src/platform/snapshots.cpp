// The public face of an app's snapshots.
#include "cluster/snapshots.h"

#include <algorithm>
#include <utility>

#include "core/ask_loop.h"
#include "core/deadline.h"
#include "core/pause.h"
#include "core/wall_time.h"
#include "platform/snapshot_messages.h"
#include "platform/snapshots_core.h"
#include "sqlite/snapshot_removal.h"
#include "sqlite/snapshot_restore.h"
#include "sqlite/stored_claims.h"

namespace cluster {
namespace {

using sqlite::SnapshotStore;
using std::chrono::milliseconds;

constexpr milliseconds kAnswerLimit{5'000};  // of the leader, to one question

// A thread that may block waits, unless it is to stop.
void pause_or_throw(milliseconds time, const std::stop_token& stop) {
  pause(time, stop);
  if (stop.stop_requested()) throw Error(Errc::shutting_down, "it was stopped");
}

}  // namespace

// ---- the loop's side

void Snapshots::Core::open() {
  const std::lock_guard lock(mutex_);
  if (closed_ || store_) return;
  store_ = std::make_shared<SnapshotStore>(
      app_.host.jetstream(), sqlite::snapshot_bucket(app_.host.platform_name(), app_.options.name));
}

void Snapshots::Core::close() {
  std::shared_ptr<SnapshotStore> store;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    store = std::exchange(store_, nullptr);
    for (const auto& call : calls_) {
      call->limit.reset();
      call->stop.request_stop();
    }
  }
  if (store) store->close();
}

// ---- of other threads

std::string Snapshots::Core::name() const { return "app \"" + app_.options.name + "\""; }

std::string Snapshots::Core::stream() const {
  return sqlite::wal_stream(app_.host.platform_name(), app_.options.name);
}

std::shared_ptr<Snapshots::Core::Call> Snapshots::Core::begin(
    const std::string& what, milliseconds limit, std::shared_ptr<SnapshotStore>& store) {
  app_.check_answered(what.c_str());
  const auto call = std::make_shared<Call>();
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Error(Errc::shutting_down, name() + ": the platform has stopped");
    if (!store_)
      throw Error(Errc::unavailable,
                  what + " of " + name() + ": NATS is there from the first session on");
    store = store_;
    calls_.insert(call);
  }
  app_.on_loop([call, limit, &loop = app_.host.loop()] {
    if (call->stop.stop_requested()) return;
    call->limit = loop.after(std::min(limit, kLongestWait), [known = std::weak_ptr(call)] {
      const auto late = known.lock();
      if (!late) return;
      late->late = true;
      late->stop.request_stop();
    });
  });
  return call;
}

void Snapshots::Core::end(const std::shared_ptr<Call>& call) {
  app_.on_loop([call] { call->limit.reset(); });
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

template <typename T>
T Snapshots::Core::call(const std::string& what, milliseconds limit,
                        const std::function<T(SnapshotStore&, std::stop_token)>& work) {
  std::shared_ptr<SnapshotStore> store;
  const auto call = begin(what, limit, store);
  const Ending ending{*this, call};
  try {
    return work(*store, call->stop.get_token());
  } catch (const Error& error) {
    if (error.errc() != Errc::shutting_down) throw;
    if (call->late)
      throw Error(Errc::timeout, what + " of " + name() + ": not complete within " +
                                     std::to_string(limit.count()) + " ms");
    throw Error(Errc::shutting_down, what + " of " + name() + ": the platform stops");
  }
}

std::string Snapshots::Core::ask(const std::string& leader, const std::string& request,
                                 std::stop_token stop) {
  const std::string what = "snapshot of " + name() + " by node \"" + leader + "\"";
  const std::string subject = app_.host.platform_name() + "._.node." + leader + ".snapshot";
  const auto answer = ask_loop<nats::Message>(
      app_.host.loop(), what, 2 * kAnswerLimit, std::move(stop),
      [this, subject, request](Callback<nats::Message> done) {
        {
          const std::lock_guard lock(mutex_);
          if (closed_) return done(Error(Errc::shutting_down, "the platform has stopped"));
        }
        app_.host.jetstream().connection().request(
            {.subject = subject, .data = request}, kAnswerLimit, [done](Result<nats::Message> m) {
              if (m) return done(std::move(m.value()));
              if (m.error().errc() == Errc::shutting_down) return done(m.error());
              done(Error(Errc::unavailable, m.error().what()));
            });
      });
  const std::string code(answer.header("Nats-Service-Error-Code"));
  if (code.empty()) return answer.data;
  throw Error(code == "409" ? Errc::not_leader : Errc::unavailable,
              what + ": " + std::string(answer.header("Nats-Service-Error")));
}

DatabaseSnapshot Snapshots::create(milliseconds timeout) {
  App::Core& app = core_.app();
  return core_.call<DatabaseSnapshot>(
      "snapshot", timeout, [&](SnapshotStore&, const std::stop_token& stop) {
        const auto leader = app.leader();
        if (!leader)
          throw Error(Errc::no_leader, "snapshot of " + core_.name() + ": nobody leads it");
        return take_snapshot(
            app.options.name,
            [&](const std::string& request) { return core_.ask(leader->node, request, stop); },
            [&](const SnapshotAnswer&, milliseconds time) { pause_or_throw(time, stop); });
      });
}

std::vector<DatabaseSnapshot> Snapshots::list(milliseconds timeout) {
  return core_.call<std::vector<DatabaseSnapshot>>(
      "list of snapshots", timeout, [&](SnapshotStore& store, const std::stop_token& stop) {
        std::vector<DatabaseSnapshot> all;
        for (const auto& file : sqlite::kept_files(store, core_.stream(), stop).listing.files)
          if (file.snapshot()) all.push_back(snapshot_from(file));
        return all;
      });
}

RestoredDatabase Snapshots::restore(const RestoreOptions& options) {
  if (options.to.empty())
    throw Error(Errc::invalid_argument, "restore of " + core_.name() + ": `to` names no file");
  sqlite::RestoreRequest request;
  request.stream = core_.stream();
  request.target.txid = options.txid;
  request.object = options.object;
  if (!options.object.empty() && (options.txid || options.time))
    throw Error(Errc::invalid_argument,
                "restore of " + core_.name() + ": give an object, or a transaction or a time");
  if (options.time) request.target.time_ns = wall_ns_from(*options.time);
  request.path = options.to;
  request.force = options.force;
  request.progress = options.progress;
  return core_.call<RestoredDatabase>(
      "restore", options.timeout, [&](SnapshotStore& store, const std::stop_token& stop) {
        auto restored = sqlite::restore_database(store, request, stop);
        return RestoredDatabase{restored.state.txid,
                                restored.epoch,
                                wall_time_from(std::chrono::nanoseconds(restored.time_ns)),
                                restored.bytes(),
                                std::move(restored.damaged),
                                std::move(restored.complaint),
                                restored.newest,
                                restored.stream_gone};
      });
}

void Snapshots::remove(std::uint64_t txid, bool newest, milliseconds timeout) {
  core_.call<sqlite::StoredFile>(
      "removal of a snapshot", timeout, [&](SnapshotStore& store, const std::stop_token& stop) {
        return sqlite::remove_snapshot(store, core_.stream(), txid, newest, stop);
      });
}

}  // namespace cluster
