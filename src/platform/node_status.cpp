#include "platform/node_status.h"

#include <algorithm>
#include <chrono>

#include <nlohmann/json.hpp>

#include "cluster/version.h"
#include "core/json_fields.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

using Json = nlohmann::json;

const char* to_text(MemberState state) {
  switch (state) {
    case MemberState::live: return "live";
    case MemberState::left: return "left";
    case MemberState::expired: return "expired";
  }
  return "unknown";
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json json_of(const sqlite::SnapshotKeeper::Status& s) {
  Json json{{"newest", nullptr},
            {"count", s.snapshots},
            {"merged", s.merged},
            {"reach", s.reach},
            {"stream_first", s.stream_first},
            {"bytes", s.bytes},
            {"taken", s.taken},
            {"failures", s.failures},
            {"under_way", nullptr},
            {"foreign", s.foreign},
            {"trouble", s.trouble}};
  if (s.newest)
    json["newest"] = {
        {"object", s.newest->name()},
        {"txid", s.newest->max},
        {"time", nats::rfc3339_from(s.newest->time_ns)},
        {"age_ms", std::chrono::duration_cast<std::chrono::milliseconds>(s.age).count()},
        {"bytes", s.newest->size},
        {"ms", s.took.count()}};
  if (s.busy) json["under_way"] = {{"pages", s.done}, {"of", s.all}};
  return json;
}

Json json_of(const sqlite::Verified& v, std::int64_t time_ms) {
  return {{"time", nats::rfc3339_from(time_ms * 1'000'000)},
          {"sound", v.sound()},
          {"epoch", v.epoch},
          {"txid", v.txid},
          {"pages", v.pages},
          {"wrong", v.wrong},
          {"damage", v.damage}};
}

Json json_of(const sqlite::Scrub::Status& s) {
  const auto time = [](std::int64_t ms) {
    return ms == 0 ? Json() : Json(nats::rfc3339_from(ms * 1'000'000));
  };
  const auto& r = s.record;
  Json json{{"on", s.on},
            {"since", time(r.since_ms)},
            {"completed", time(r.ended_ms)},
            {"completed_pages", r.last_pages},
            {"begun", time(r.begun_ms)},
            {"pages", r.under_way() ? r.next - 1 : 0},
            {"of", s.pages},
            {"compared", s.compared},
            {"found", s.found},
            {"repaired", s.repaired},
            {"overdue", s.overdue},
            {"wrong", Json::array()},
            {"waiting", s.waiting},
            {"trouble", s.trouble}};
  for (const auto& page : s.wrong) json["wrong"].push_back(page.number);
  return json;
}

Json json_of(const sqlite::QuarantineSummary& q) {
  Json json{{"newest", q.newest}};
  for (const auto kind : sqlite::kQuarantineKinds)
    json[sqlite::to_text(kind)] = {{"count", q.of(kind).count}, {"bytes", q.of(kind).bytes}};
  return json;
}

Json json_of(const sqlite::ReplicatedDatabase::Status& d) {
  const auto& c = d.counts;
  return {{"path", d.path},
          {"role", sqlite::to_text(d.role)},
          {"copy", sqlite::to_text(d.copy)},
          {"restored_percent", d.restored_percent},
          {"ready", d.ready},
          {"epoch", d.epoch},
          {"txid", d.txid},
          {"sequence", d.sequence},
          {"lag",
           {{"transactions", d.lag_transactions},
            {"records", d.lag_records},
            {"bytes", d.lag_bytes},
            {"ms", d.lag_time.count()}}},
          {"wal_bytes", d.wal_bytes},
          {"counts",
           {{"promotions", c.promotions},
            {"failed_promotions", c.failed_promotions},
            {"demotions", c.demotions},
            {"fenced", c.fenced},
            {"lost", c.lost},
            {"degraded", c.degraded},
            {"divergences", c.copy.divergences},
            {"foreign_writes", c.copy.foreign_writes},
            {"foreign_messages", c.copy.foreign_messages},
            {"damages", c.copy.damages},
            {"had_anew", c.copy.had_anew},
            {"restores", c.copy.restores},
            {"left_over", c.left_over},
            {"replaced", c.replaced},
            {"unreplicated", c.unreplicated},
            {"wal_gaps", c.gaps},
            {"corrupt_records", c.copy.corrupt_records},
            {"streams_made_anew", c.copy.streams_made_anew},
            {"stream_ends_lost", c.copy.stream_ends_lost}}},
          {"divergences", c.copy.divergences},
          {"quarantine", json_of(d.quarantine)},
          {"scrub", json_of(d.scrub)},
          {"verified", d.verified ? json_of(*d.verified, d.verified_ms) : Json()},
          {"trouble", d.trouble},
          {"snapshots", d.snapshots ? json_of(*d.snapshots) : Json()}};
}

Json json_of(const AppStatus& app) {
  Json json{{"name", app.name},
            {"mode", app.singleton ? "singleton" : "spread"},
            {"role", app.active ? "active" : "standby"},
            {"phase", app.phase},
            {"leader", or_null(app.leader)},
            {"epoch", app.epoch},
            {"target", app.target},
            {"last_error", app.last_error},
            {"backend", nullptr},
            {"database", nullptr}};
  if (const auto& backend = app.backend)
    json["backend"] = {{"kind", "process"},
                       {"state", ProcessBackend::name(backend->state)},
                       {"pid", backend->pid},
                       {"restarts", backend->restarts},
                       {"last_exit", backend->last_exit},
                       {"health", backend->last_health}};
  if (app.database) json["database"] = json_of(*app.database);
  return json;
}

Json json_of(const Member& m) {
  return {{"node", m.node},       {"state", to_text(m.state)},
          {"session", m.session}, {"session_rev", m.session_rev},
          {"labels", m.labels},   {"host", m.host},
          {"version", m.version}, {"apps", m.apps},
          {"load", m.load},       {"ended_by", m.ended_by},
          {"started", m.started}};
}

Health judged(const NodeStatus& status, const std::vector<std::string>& faults, const char* good,
              const char* bad) {
  Json json{{"status", faults.empty() ? good : bad},
            {"platform", status.platform},
            {"node", status.node},
            {"faults", faults}};
  return {faults.empty(), json.dump()};
}

Json document_of(const NodeStatus& s) {
  Json apps = Json::array();
  for (const auto& app : s.apps) apps.push_back(json_of(app));
  Json members = Json::array();
  for (const auto& member : s.members) members.push_back(json_of(member));
  Json json{{"v", 1},
            {"platform", s.platform},
            {"node", s.node},
            {"version", CLUSTER_VERSION},
            {"state", s.state},
            {"waiting_for", s.waiting_for},
            {"trouble", s.trouble},
            {"uptime_s", s.uptime_s},
            {"session",
             {{"id", s.session},
              {"rev", s.session_rev},
              {"in_force", s.in_force},
              {"voters", s.voters},
              {"left_ms", s.left_ms}}},
            {"nats",
             {{"url", s.nats_url},
              {"server", s.nats_server},
              {"version", s.nats_version},
              {"state", s.nats_connected ? "connected" : "disconnected"},
              {"sync", s.nats_sync}}},
            {"guardian", {{"pid", s.guardian_pid}, {"running", s.guardian_pid > 0}}},
            {"coordinator", or_null(s.coordinator)},
            {"audit",
             {{"stored", s.audit.stored},
              {"dropped", s.audit.dropped},
              {"waiting", s.audit.waiting},
              {"trouble", s.audit.trouble}}},
            {"apps", std::move(apps)},
            {"members", std::move(members)}};
  return json;
}

}  // namespace

std::string to_json(const NodeStatus& status) { return text_of(document_of(status)); }

std::string to_json(NodeStatus status, const std::string& after, std::size_t most) {
  std::erase_if(status.apps, [&](const auto& app) { return !after.empty() && app.name <= after; });
  std::string text = to_json(status);
  while (text.size() > most && status.apps.size() > 1) {
    // As many as fit when they are all as large, and some fewer.
    const std::size_t fit = status.apps.size() * most / text.size() * 9 / 10;
    status.apps.erase(status.apps.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(
                                                std::min(fit, status.apps.size() - 1), 1)),
                      status.apps.end());
    Json json = document_of(status);
    json["more"] = true;
    text = text_of(json);
  }
  return text;
}

Health health_of(const NodeStatus& status) {
  std::vector<std::string> faults;
  if (!status.nats_connected)
    faults.push_back("NATS: not connected" +
                     (status.waiting_for.empty() ? "" : ": " + status.waiting_for));
  if (status.state == "waiting") faults.push_back("session: none is in force");
  if (status.state == "stopping") faults.push_back("node: it is stopping");
  for (const auto& app : status.apps) {
    if (app.phase == "cooldown") faults.push_back("app " + app.name + ": " + app.last_error);
    if (app.database && !app.database->trouble.empty())
      faults.push_back("app " + app.name + ": database: " + app.database->trouble);
    if (app.backend && app.backend->state == ProcessBackend::State::backing_off)
      faults.push_back("app " + app.name + ": its backend has ended and will be started again: " +
                       app.backend->last_exit);
  }
  return judged(status, faults, "passing", "critical");
}

Health ready_of(const NodeStatus& status) {
  std::vector<std::string> faults;
  if (!status.in_force) faults.push_back("session: none is in force");
  for (const auto& app : status.apps)
    if (app.phase == "promoting" || app.phase == "demoting")
      faults.push_back("app " + app.name + ": " + app.phase);
  return judged(status, faults, "ready", "not_ready");
}

}  // namespace cluster
