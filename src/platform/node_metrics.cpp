#include "platform/node_metrics.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/version.h"

namespace cluster {
namespace {

using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

std::string escaped(std::string_view value) {
  std::string text;
  for (const char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    if (c == '\n')
      text += "\\n";
    else
      text += c;
  }
  return text;
}

std::string number(double value) {
  char text[32];
  // Whole numbers up to 2^53 without an exponent.
  std::snprintf(text, sizeof text,
                value == static_cast<double>(static_cast<std::int64_t>(value)) ? "%.0f" : "%.6f",
                value);
  return text;
}

// A metric's lines, which must stand together.
class Metric {
 public:
  Metric(std::string& out, std::string_view name, std::string_view type, std::string_view help)
      : out_(out), name_(name) {
    head_ = "# HELP " + name_ + " " + std::string(help) + "\n# TYPE " + name_ + " " +
            std::string(type) + "\n";
  }
  /// `part`: behind the metric's name, as a histogram has it ("_sum").
  void add(double value, Labels labels = {}, std::string_view part = {}) {
    out_ += std::exchange(head_, {}) + name_ + std::string(part);
    char before = '{';
    for (const auto& [key, text] : labels) {
      out_ += before + std::string(key) + "=\"" + escaped(text) + "\"";
      before = ',';
    }
    if (before == ',') out_ += '}';
    out_ += ' ' + number(value) + '\n';
  }

 private:
  std::string& out_;
  const std::string name_;
  std::string head_;
};

using Database = sqlite::ReplicatedDatabase::Status;

/// One figure of each app's database; none where it is not known.
struct DatabaseMetric {
  const char* name;
  const char* type;
  const char* help;
  std::optional<double> (*value)(const Database&);
};

double real(std::uint64_t value) { return static_cast<double>(value); }

template <typename T>
std::optional<double> of_snapshots(const Database& d, T value) {
  if (!d.snapshots) return std::nullopt;
  return value(*d.snapshots);
}

constexpr auto kDatabaseMetrics = std::to_array<DatabaseMetric>({
    {"cluster_database_primary", "gauge", "1 while this node leads the database",
     [](const Database& d) -> std::optional<double> {
       return d.role == sqlite::ReplicatedDatabase::Role::primary ? 1 : 0;
     }},
    {"cluster_database_ready", "gauge", "1 while this node leads, or has a copy that may lead",
     [](const Database& d) -> std::optional<double> { return d.ready ? 1 : 0; }},
    {"cluster_database_trouble", "gauge", "1 while something is wrong; /status says what",
     [](const Database& d) -> std::optional<double> { return d.trouble.empty() ? 0 : 1; }},
    {"cluster_database_epoch", "gauge", "Epoch under which the last transaction was committed",
     [](const Database& d) -> std::optional<double> { return real(d.epoch); }},
    {"cluster_database_txid", "gauge", "Last transaction that the node's copy has",
     [](const Database& d) -> std::optional<double> { return real(d.txid); }},
    {"cluster_database_sequence", "gauge", "Last record of the stream that the node's copy has",
     [](const Database& d) -> std::optional<double> { return real(d.sequence); }},
    {"cluster_database_lag_transactions", "gauge",
     "Of a primary: transactions that JetStream has not acknowledged; of a standby: that it lacks",
     [](const Database& d) -> std::optional<double> { return real(d.lag_transactions); }},
    {"cluster_database_lag_records", "gauge",
     "Of a standby: records of the stream that it has not applied",
     [](const Database& d) -> std::optional<double> { return real(d.lag_records); }},
    {"cluster_database_lag_bytes", "gauge", "Bytes of these; of a standby, as far as it has read",
     [](const Database& d) -> std::optional<double> { return real(d.lag_bytes); }},
    {"cluster_database_lag_seconds", "gauge", "Age of the oldest of these",
     [](const Database& d) -> std::optional<double> {
       return static_cast<double>(d.lag_time.count()) / 1000;
     }},
    {"cluster_database_wal_bytes", "gauge", "Bytes of the database's WAL in use",
     [](const Database& d) -> std::optional<double> { return real(d.wal_bytes); }},
    {"cluster_database_promotions_total", "counter", "Times that this node became its primary",
     [](const Database& d) -> std::optional<double> { return real(d.counts.promotions); }},
    {"cluster_database_failed_promotions_total", "counter", "Times that this failed",
     [](const Database& d) -> std::optional<double> { return real(d.counts.failed_promotions); }},
    {"cluster_database_demotions_total", "counter", "Times that a primary became a standby",
     [](const Database& d) -> std::optional<double> { return real(d.counts.demotions); }},
    {"cluster_database_fenced_total", "counter", "Leads that another leader's fence has ended",
     [](const Database& d) -> std::optional<double> { return real(d.counts.fenced); }},
    {"cluster_database_lost_total", "counter", "Leads that ended since the stream took no more",
     [](const Database& d) -> std::optional<double> { return real(d.counts.lost); }},
    {"cluster_database_degraded_total", "counter", "Times that a primary could not be followed",
     [](const Database& d) -> std::optional<double> { return real(d.counts.degraded); }},
    {"cluster_database_divergences_total", "counter",
     "Copies that had transactions of their own, and were quarantined",
     [](const Database& d) -> std::optional<double> { return real(d.counts.copy.divergences); }},
    {"cluster_database_foreign_writes_total", "counter",
     "Copies that somebody else had written to, and were quarantined",
     [](const Database& d) -> std::optional<double> {
       return real(d.counts.copy.foreign_writes);
     }},
    {"cluster_database_foreign_messages_total", "counter",
     "Messages in the database's stream that are none of ours, and were passed over",
     [](const Database& d) -> std::optional<double> {
       return real(d.counts.copy.foreign_messages);
     }},
    {"cluster_database_damages_total", "counter", "Copies that were damaged, and were quarantined",
     [](const Database& d) -> std::optional<double> { return real(d.counts.copy.damages); }},
    {"cluster_database_restores_total", "counter", "Copies that were had anew from a snapshot",
     [](const Database& d) -> std::optional<double> { return real(d.counts.copy.restores); }},
    {"cluster_database_had_anew_total", "counter",
     "Copies that lacked what the stream has no more, and were given up",
     [](const Database& d) -> std::optional<double> { return real(d.counts.copy.had_anew); }},
    {"cluster_database_left_over_total", "counter",
     "Leads that began by sending what this node's last one had left unsent",
     [](const Database& d) -> std::optional<double> { return real(d.counts.left_over); }},
    {"cluster_database_replaced_total", "counter",
     "Times that somebody put another file in the primary's place",
     [](const Database& d) -> std::optional<double> { return real(d.counts.replaced); }},
    {"cluster_database_corrupt_records_total", "counter",
     "Records of the stream that were damaged, and passed with a snapshot",
     [](const Database& d) -> std::optional<double> {
       return real(d.counts.copy.corrupt_records);
     }},
    {"cluster_database_streams_made_anew_total", "counter",
     "Times that somebody had deleted the stream",
     [](const Database& d) -> std::optional<double> {
       return real(d.counts.copy.streams_made_anew);
     }},
    {"cluster_database_stream_ends_lost_total", "counter",
     "Times that the stream had lost what it had acknowledged",
     [](const Database& d) -> std::optional<double> {
       return real(d.counts.copy.stream_ends_lost);
     }},
    {"cluster_database_unreplicated_total", "counter",
     "Transactions that this node's leads ended without having stored in JetStream",
     [](const Database& d) -> std::optional<double> { return real(d.counts.unreplicated); }},
    {"cluster_database_wal_gaps_total", "counter",
     "Times that all pages were compared since a part of the WAL was gone",
     [](const Database& d) -> std::optional<double> { return real(d.counts.gaps); }},
    {"cluster_database_verified_timestamp_seconds", "gauge", "When it was verified last",
     [](const Database& d) -> std::optional<double> {
       if (!d.verified) return std::nullopt;
       return static_cast<double>(d.verified_ms) / 1000;
     }},
    {"cluster_database_verified_sound", "gauge", "1 when nothing was found wrong then",
     [](const Database& d) -> std::optional<double> {
       if (!d.verified) return std::nullopt;
       return d.verified->sound() ? 1 : 0;
     }},
    {"cluster_database_scrub_completed_timestamp_seconds", "gauge",
     "When all of its file had been scrubbed last",
     [](const Database& d) -> std::optional<double> {
       if (d.scrub.record.ended_ms == 0) return std::nullopt;
       return static_cast<double>(d.scrub.record.ended_ms) / 1000;
     }},
    {"cluster_database_scrub_running", "gauge", "1 while it is scrubbed",
     [](const Database& d) -> std::optional<double> {
       return d.scrub.record.under_way() ? 1 : 0;
     }},
    {"cluster_database_scrub_overdue", "gauge",
     "1 when all of it has not been scrubbed for twice sqlite.scrub_interval",
     [](const Database& d) -> std::optional<double> { return d.scrub.overdue ? 1 : 0; }},
    {"cluster_database_scrub_pages_total", "counter", "Pages that were read and compared",
     [](const Database& d) -> std::optional<double> { return real(d.scrub.compared); }},
    {"cluster_database_scrub_wrong_pages", "gauge", "Pages that are known to be wrong now",
     [](const Database& d) -> std::optional<double> { return real(d.scrub.wrong.size()); }},
    {"cluster_database_scrub_wrong_pages_total", "counter", "Pages that were found wrong",
     [](const Database& d) -> std::optional<double> { return real(d.scrub.found); }},
    {"cluster_database_scrub_repaired_pages_total", "counter",
     "Of these, pages that were had from the leader",
     [](const Database& d) -> std::optional<double> { return real(d.scrub.repaired); }},
    {"cluster_database_snapshot_txid", "gauge", "Transaction of the newest snapshot",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> {
         if (!s.newest) return std::nullopt;
         return real(s.newest->max);
       });
     }},
    {"cluster_database_snapshot_timestamp_seconds", "gauge",
     "When JetStream stored what the newest snapshot ends with, by its clock",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> {
         if (!s.newest) return std::nullopt;
         return static_cast<double>(s.newest->time_ns) / 1e9;
       });
     }},
    {"cluster_database_snapshot_age_seconds", "gauge",
     "How old the newest snapshot is, by JetStream's clock; 0 when nothing was stored since",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> {
         if (!s.newest) return std::nullopt;
         return std::chrono::duration<double>(s.age).count();
       });
     }},
    {"cluster_database_snapshot_seconds", "gauge", "What the newest one took that was taken here",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> {
         return static_cast<double>(s.took.count()) / 1000;
       });
     }},
    {"cluster_database_snapshots", "gauge", "Snapshots that are kept",
     [](const Database& d) {
       return of_snapshots(
           d, [](const auto& s) -> std::optional<double> { return real(s.snapshots); });
     }},
    {"cluster_database_snapshot_bytes", "gauge", "Bytes of all files in the snapshot bucket",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> { return real(s.bytes); });
     }},
    {"cluster_database_snapshot_foreign_objects", "gauge",
     "Objects of the snapshot bucket that are not ours, or claim what can't be",
     [](const Database& d) {
       return of_snapshots(d,
                           [](const auto& s) -> std::optional<double> { return real(s.foreign); });
     }},
    {"cluster_database_snapshots_taken_total", "counter", "Snapshots that this lead has taken",
     [](const Database& d) {
       return of_snapshots(d, [](const auto& s) -> std::optional<double> { return real(s.taken); });
     }},
    {"cluster_database_snapshot_failures_total", "counter", "Snapshots and merges that failed",
     [](const Database& d) {
       return of_snapshots(
           d, [](const auto& s) -> std::optional<double> { return real(s.failures); });
     }},
});

void add_databases(const NodeStatus& status, std::string& out) {
  for (const auto& metric : kDatabaseMetrics) {
    Metric lines(out, metric.name, metric.type, metric.help);
    for (const auto& app : status.apps)
      if (app.database)
        if (const auto value = metric.value(*app.database)) lines.add(*value, {{"app", app.name}});
  }
}

void add_quarantine(const NodeStatus& status, std::string& out) {
  const auto each = [&](const char* name, const char* help, auto value) {
    Metric metric(out, name, "gauge", help);
    for (const auto& app : status.apps)
      for (const auto kind : sqlite::kQuarantineKinds)
        if (app.database)
          metric.add(real(value(app.database->quarantine.of(kind))),
                     {{"app", app.name}, {"kind", sqlite::to_text(kind)}});
  };
  using Total = sqlite::QuarantineSummary::Total;
  each("cluster_database_quarantined",
       "Databases in quarantine, for a person to look at; kind diverged: with transactions that "
       "are nowhere else, or may be",
       [](const Total& total) { return total.count; });
  each("cluster_database_quarantined_bytes", "Bytes of these",
       [](const Total& total) { return total.bytes; });
}

void add_transitions(const NodeStatus& status, std::string& out) {
  Metric seconds(out, "cluster_transition_seconds", "histogram",
                 "What the steps of promotions and demotions have taken");
  for (const auto& app : status.apps) {
    for (const auto& of : app.steps) {
      const std::string_view step = to_text(of.step), direction = of.up ? "up" : "down";
      std::uint64_t count = 0;
      for (std::size_t i = 0; i < of.in.size(); ++i) {
        count += of.in[i];
        char bound[16] = "+Inf";
        if (i < StepTimes::kBounds.size())
          std::snprintf(bound, sizeof bound, "%g", StepTimes::kBounds[i]);
        seconds.add(real(count),
                    {{"app", app.name}, {"step", step}, {"direction", direction}, {"le", bound}},
                    "_bucket");
      }
      const Labels labels{{"app", app.name}, {"step", step}, {"direction", direction}};
      seconds.add(of.sum_s, labels, "_sum");
      seconds.add(real(count), labels, "_count");
    }
  }
  Metric failures(out, "cluster_transition_failures_total", "counter",
                  "Steps of promotions and demotions that failed, or were not done in time");
  for (const auto& app : status.apps)
    for (const auto& of : app.steps)
      failures.add(
          real(of.failures),
          {{"app", app.name}, {"step", to_text(of.step)}, {"direction", of.up ? "up" : "down"}});
}

void add_calls(const NodeStatus& status, std::string& out) {
  const auto each = [&](const char* name, const char* help, auto value) {
    Metric metric(out, name, "counter", help);
    for (const auto& app : status.apps)
      for (const auto& method : app.calls.methods)
        metric.add(value(method), {{"app", app.name}, {"method", method.method}});
  };
  using Method = CallServer::MethodCounts;
  each("cluster_calls_handled_total", "Calls to the app's methods that were taken here",
       [](const Method& m) { return real(m.requests); });
  each("cluster_calls_failed_total", "Of these, those that were answered with an error",
       [](const Method& m) { return real(m.errors); });
  each("cluster_calls_handling_seconds_total", "Time until they were answered",
       [](const Method& m) { return static_cast<double>(m.busy_ns) / 1e9; });
  Metric overloaded(out, "cluster_calls_overloaded_total", "counter",
                    "Calls that were refused because as many as may be were under way");
  Metric running(out, "cluster_calls_running", "gauge", "Calls that are under way");
  for (const auto& app : status.apps)
    if (!app.calls.methods.empty()) overloaded.add(real(app.calls.overloaded), {{"app", app.name}});
  for (const auto& app : status.apps)
    if (!app.calls.methods.empty()) running.add(real(app.calls.running), {{"app", app.name}});
  const auto made = [&](const char* name, const char* type, const char* help, auto value) {
    Metric metric(out, name, type, help);
    for (const auto& calls : status.calls) metric.add(value(calls), {{"to", calls.app}});
  };
  using Made = CallClient::Counts;
  made("cluster_outgoing_calls_total", "counter", "Calls that this node has made",
       [](const Made& m) { return real(m.calls); });
  made("cluster_outgoing_call_errors_total", "counter", "Of these, those that ended in an error",
       [](const Made& m) { return real(m.errors); });
  made("cluster_outgoing_call_retries_total", "counter", "Further tries of calls",
       [](const Made& m) { return real(m.retries); });
  made("cluster_outgoing_calls_not_tried_total", "counter",
       "Calls that a circuit breaker has kept back",
       [](const Made& m) { return real(m.refused_by_breaker); });
  made("cluster_open_breakers", "gauge", "Circuit breakers that are open",
       [](const Made& m) { return m.open_breakers; });
}

}  // namespace

std::string to_metrics(const NodeStatus& status) {
  std::string out;
  Metric(out, "cluster_node_info", "gauge", "Always 1; what the node is")
      .add(1, {{"platform", status.platform},
               {"node", status.node},
               {"version", CLUSTER_VERSION},
               {"nats_version", status.nats_version}});
  Metric(out, "cluster_node_uptime_seconds", "gauge", "Since the node's start")
      .add(static_cast<double>(status.uptime_s));
  Metric(out, "cluster_node_session", "gauge", "1 while the node's session is in force")
      .add(status.in_force ? 1 : 0);
  Metric(out, "cluster_node_nats_connected", "gauge", "1 while it is connected to NATS")
      .add(status.nats_connected ? 1 : 0);
  Metric members(out, "cluster_members", "gauge", "Live members of the platform that it sees");
  std::size_t live = 0;
  for (const auto& member : status.members) live += member.state == MemberState::live ? 1 : 0;
  members.add(real(live));
  Metric active(out, "cluster_app_active", "gauge", "1 while the app is active on this node");
  for (const auto& app : status.apps) active.add(app.active ? 1 : 0, {{"app", app.name}});
  Metric epochs(out, "cluster_app_epoch", "gauge", "Epoch of the app's leader that it sees");
  for (const auto& app : status.apps) epochs.add(real(app.epoch), {{"app", app.name}});
  add_transitions(status, out);
  add_databases(status, out);
  add_quarantine(status, out);
  add_calls(status, out);
  Metric(out, "cluster_audit_stored_total", "counter", "Audit entries that JetStream has")
      .add(real(status.audit.stored));
  Metric(out, "cluster_audit_dropped_total", "counter", "Audit entries that found no room")
      .add(real(status.audit.dropped));
  Metric(out, "cluster_audit_waiting", "gauge", "Audit entries that wait for JetStream")
      .add(real(status.audit.waiting));
  return out;
}

}  // namespace cluster
