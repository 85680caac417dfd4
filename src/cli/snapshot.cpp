#include "cli/snapshot.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include <nlohmann/json.hpp>

#include "cli/table.h"
#include "coord/records_json.h"

namespace cluster::cli {
namespace {

using nlohmann::json;

constexpr const char* kCoordinator = "_coordinator";

// Fields of a status, which comes from another program: what is not as expected reads as nothing.
const json& at(const json& object, const char* key) {
  static const json none;
  if (!object.is_object()) return none;
  const auto it = object.find(key);
  return it == object.end() ? none : *it;
}

std::string word(const json& object, const char* key) {
  const json& value = at(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::string number_text(const json& object, const char* key) {
  const json& value = at(object, key);
  return value.is_number() ? value.dump() : std::string();
}

struct Status {
  json document;  // null: no usable answer
  std::string problem;
};

Status status_of(const Snapshot& snapshot, const std::string& node) {
  const auto it = snapshot.answers.find(node);
  if (it == snapshot.answers.end()) return {};
  if (!it->second.problem.empty()) return {{}, it->second.problem};
  json document = json::parse(it->second.status, nullptr, false);
  if (!document.is_object()) return {{}, "its answer can't be read"};
  const json& version = at(document, "v");
  if (!version.is_number_integer() || version.get<std::int64_t>() > 1)
    return {{}, "incompatible: its answer is of another version"};
  return {std::move(document), ""};
}

const json& app_in(const json& status, const std::string& app) {
  for (const auto& entry : at(status, "apps"))
    if (word(entry, "name") == app) return entry;
  static const json none;
  return none;
}

std::string state_of(const SeenMember& member) {
  return member.record ? coord::to_text(member.record->state) : "unreadable";
}

bool live(const SeenMember& member) { return member.record && member.record->live(); }

Cell state_cell(const SeenMember& member) {
  const std::string state = state_of(member);
  if (state == "live") return {state, Colour::good};
  return {state, state == "left" ? Colour::dim : Colour::bad};
}

std::string join(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += (all.empty() ? "" : ", ") + part;
  return all;
}

std::string labels_text(const coord::SessionRecord& record) {
  std::vector<std::string> parts;
  if (record.facts)
    for (const auto& [name, value] : record.facts->labels) parts.push_back(name + "=" + value);
  return join(parts);
}

std::string load_text(const coord::SessionRecord& record) {
  if (!record.facts) return "";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.2f", record.facts->load);
  return buffer;
}

// What a live node does at the moment, or why nobody knows.
Cell answer_cell(const Snapshot& snapshot, const SeenMember& member) {
  if (!member.problem.empty()) return {member.problem, Colour::bad};
  if (!live(member)) return {member.record->ended_by, Colour::dim};
  if (snapshot.answers.count(member.node) == 0) return "";
  const Status status = status_of(snapshot, member.node);
  if (!status.problem.empty()) return {status.problem, Colour::bad};
  const std::string state = word(status.document, "state");
  return {state, state == "running" ? Colour::good : Colour::none};
}

Table node_table(const Snapshot& snapshot) {
  Table table({"NODE", "STATE", "HOST", "VERSION", "LOAD", "STARTED", "LABELS", "SAYS"});
  for (const auto& member : snapshot.members) {
    const coord::SessionRecord record = member.record.value_or(coord::SessionRecord{});
    const coord::NodeFacts facts = record.facts ? *record.facts : coord::NodeFacts{};
    table.add({member.node, state_cell(member), facts.host, facts.version, load_text(record),
               facts.started, labels_text(record), answer_cell(snapshot, member)});
  }
  return table;
}

// Names of the apps that a lease or a live node knows.
std::set<std::string> app_names(const Snapshot& snapshot) {
  std::set<std::string> names;
  for (const auto& lease : snapshot.leases)
    if (lease.app != kCoordinator) names.insert(lease.app);
  for (const auto& member : snapshot.members)
    if (live(member) && member.record->facts)
      names.insert(member.record->facts->apps.begin(), member.record->facts->apps.end());
  return names;
}

struct AppOnNode {
  std::string node;
  std::string role;  // empty: not known
  std::string phase;
  std::string last_error;
  std::string backend;
};

struct AppView {
  std::string mode;
  std::vector<AppOnNode> nodes;
};

std::string backend_text(const json& backend) {
  if (!backend.is_object()) return "";
  std::string text = word(backend, "state");
  if (const auto pid = number_text(backend, "pid"); !pid.empty() && pid != "0")
    text += " pid " + pid;
  if (const auto n = number_text(backend, "restarts"); !n.empty() && n != "0")
    text += ", restarts " + n;
  return text;
}

AppView view_of(const Snapshot& snapshot, const std::string& app) {
  AppView view;
  for (const auto& member : snapshot.members) {
    if (!live(member) || !member.record->facts) continue;
    const auto& apps = member.record->facts->apps;
    const json document = status_of(snapshot, member.node).document;
    const json& entry = app_in(document, app);
    if (!entry.is_object() && std::find(apps.begin(), apps.end(), app) == apps.end()) continue;
    if (const auto mode = word(entry, "mode"); !mode.empty()) view.mode = mode;
    view.nodes.push_back({member.node, word(entry, "role"), word(entry, "phase"),
                          word(entry, "last_error"), backend_text(at(entry, "backend"))});
  }
  if (view.mode.empty() && find_lease(snapshot, app) != nullptr) view.mode = "singleton";
  return view;
}

std::string placed_text(const AppView& view) {
  std::vector<std::string> parts;
  for (const auto& n : view.nodes)
    parts.push_back(n.node + " " + (n.phase.empty() ? n.role.empty() ? "?" : n.role : n.phase));
  return join(parts);
}

void add_app(Table& table, const Snapshot& snapshot, const std::string& app, std::string& errors) {
  const SeenLease* lease = find_lease(snapshot, app);
  const AppView view = view_of(snapshot, app);
  Cell leader("");
  std::string epoch;
  if (lease != nullptr && !lease->record) {
    leader = {lease->problem, Colour::bad};
  } else if (lease != nullptr) {
    const std::string who = leader_of(snapshot, *lease);
    leader = who.empty() ? Cell("none", Colour::bad) : Cell(who, Colour::good);
    epoch = std::to_string(lease->record->epoch);
  } else if (view.mode == "singleton") {
    leader = {"none", Colour::bad};
  }
  std::vector<std::string> backends;
  for (const auto& n : view.nodes) {
    if (!n.backend.empty()) backends.push_back(n.node + " " + n.backend);
    if (!n.last_error.empty())
      errors += "  " + n.node + ", " + app + ": " + harmless(n.last_error) + "\n";
  }
  table.add({app, view.mode, leader, epoch, placed_text(view), join(backends)});
}

std::string server_text(const Snapshot& snapshot) {
  std::string text =
      harmless(snapshot.nats_url) + "  nats-server " + harmless(snapshot.nats_version);
  if (!snapshot.nats_cluster.empty())
    text +=
        ", " + harmless(snapshot.nats_server) + " of cluster " + harmless(snapshot.nats_cluster);
  return text;
}

std::string coordinator_text(const Snapshot& snapshot) {
  const SeenLease* lease = find_lease(snapshot, kCoordinator);
  if (lease == nullptr) return "none yet";
  if (!lease->record) return lease->problem;
  const std::string leader = leader_of(snapshot, *lease);
  return leader.empty() ? "none" : leader + "  epoch " + std::to_string(lease->record->epoch);
}

json member_json(const Snapshot& snapshot, const SeenMember& member) {
  json out{{"node", member.node},
           {"state", state_of(member)},
           {"revision", member.revision},
           {"problem", member.problem}};
  if (member.record) {
    const coord::NodeFacts facts =
        member.record->facts ? *member.record->facts : coord::NodeFacts{};
    out["session"] = member.record->session;
    out["host"] = facts.host;
    out["version"] = facts.version;
    out["labels"] = json(facts.labels);
    out["apps"] = json(facts.apps);
    out["load"] = facts.load;
    out["started"] = facts.started;
    out["ended_by"] = member.record->ended_by;
  }
  const Status status = status_of(snapshot, member.node);
  out["answered"] = status.document.is_object();
  out["status"] = status.document;
  if (!status.problem.empty()) out["problem"] = status.problem;
  return out;
}

json app_json(const Snapshot& snapshot, const std::string& app) {
  const SeenLease* lease = find_lease(snapshot, app);
  const AppView view = view_of(snapshot, app);
  json out{{"app", app}, {"mode", view.mode}, {"leader", nullptr}, {"epoch", 0}};
  out["problem"] = lease == nullptr ? "" : lease->problem;
  if (lease != nullptr && lease->record) {
    const std::string leader = leader_of(snapshot, *lease);
    if (!leader.empty()) out["leader"] = leader;
    out["epoch"] = lease->record->epoch;
    out["state"] = lease->record->held ? "held" : "released";
    out["holder"] = lease->record->holder;
    out["target"] = lease->record->target;
  }
  out["nodes"] = json::array();
  for (const auto& n : view.nodes)
    out["nodes"].push_back(
        {{"node", n.node}, {"role", n.role}, {"phase", n.phase}, {"last_error", n.last_error}});
  return out;
}

// Text from records may hold anything: what is no UTF-8 is replaced, never thrown over.
std::string dump(const json& document, bool compact) {
  return document.dump(compact ? -1 : 2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string describe(const Error& error) {
  return error.errc() == Errc::incompatible ? "incompatible: " + std::string(error.what())
                                            : std::string(error.what());
}

}  // namespace

SeenMember read_member(const std::string& node, coord::Revision revision, const std::string& text) {
  SeenMember member{.node = node, .revision = revision};
  auto record = coord::session_record_from(node, text);
  if (record.ok())
    member.record = std::move(record.value());
  else
    member.problem = describe(record.error());
  return member;
}

SeenLease read_lease(const std::string& app, coord::Revision revision, const std::string& text) {
  SeenLease lease{.app = app, .revision = revision};
  auto record = coord::lease_record_from(app, text);
  if (record.ok())
    lease.record = std::move(record.value());
  else
    lease.problem = describe(record.error());
  return lease;
}

const SeenMember* find_member(const Snapshot& snapshot, const std::string& node) {
  for (const auto& member : snapshot.members)
    if (member.node == node) return &member;
  return nullptr;
}

const SeenLease* find_lease(const Snapshot& snapshot, const std::string& app) {
  for (const auto& lease : snapshot.leases)
    if (lease.app == app) return &lease;
  return nullptr;
}

std::string leader_of(const Snapshot& snapshot, const SeenLease& lease) {
  if (!lease.record || !lease.record->held) return {};
  const SeenMember* holder = find_member(snapshot, lease.record->holder);
  const bool seen = holder != nullptr && holder->revision >= lease.record->session_rev;
  if (seen && holder->record &&
      (!holder->record->live() || holder->record->session != lease.record->session))
    return {};
  return lease.record->holder;
}

std::string status_text(const Snapshot& snapshot, bool colour) {
  std::string text = paint("Platform     ", Colour::bold, colour) + snapshot.platform + "\n" +
                     paint("NATS         ", Colour::bold, colour) + server_text(snapshot) + "\n" +
                     paint("Coordinator  ", Colour::bold, colour) +
                     harmless(coordinator_text(snapshot)) + "\n\n" +
                     node_table(snapshot).text(colour);
  Table apps({"APP", "MODE", "LEADER", "EPOCH", "NODES", "BACKEND"});
  std::string errors;
  for (const auto& app : app_names(snapshot)) add_app(apps, snapshot, app, errors);
  text += apps.empty() ? "\nNo apps.\n" : "\n" + apps.text(colour);
  if (!errors.empty()) text += "\n" + paint("Last errors", Colour::bold, colour) + "\n" + errors;
  return text;
}

std::string nodes_text(const Snapshot& snapshot, bool colour) {
  Table table(
      {"NODE", "STATE", "HOST", "VERSION", "LOAD", "STARTED", "LABELS", "APPS", "ENDED BY"});
  for (const auto& member : snapshot.members) {
    const coord::SessionRecord record = member.record.value_or(coord::SessionRecord{});
    const coord::NodeFacts facts = record.facts ? *record.facts : coord::NodeFacts{};
    table.add({member.node, state_cell(member), facts.host, facts.version, load_text(record),
               facts.started, labels_text(record), join(facts.apps),
               member.problem.empty() ? record.ended_by : member.problem});
  }
  return table.empty() ? "No nodes.\n" : table.text(colour);
}

std::string node_text(const Snapshot& snapshot, const SeenMember& member, bool colour) {
  const coord::SessionRecord record = member.record.value_or(coord::SessionRecord{});
  const coord::NodeFacts facts = record.facts ? *record.facts : coord::NodeFacts{};
  const Status status = status_of(snapshot, member.node);
  std::string text;
  const auto line = [&](std::string name, const std::string& value) {
    if (value.empty()) return;
    name.resize(13, ' ');
    text += paint(name, Colour::bold, colour) + harmless(value) + "\n";
  };
  line("Node", member.node);
  line("State", state_of(member) + (record.ended_by.empty() ? "" : ", " + record.ended_by));
  line("Problem", member.problem.empty() ? status.problem : member.problem);
  line("Session", record.session);
  line("Host", facts.host);
  line("Version", facts.version);
  line("Started", facts.started);
  line("Labels", labels_text(record));
  const json& session = at(status.document, "session");
  line("Says", word(status.document, "state"));
  if (at(session, "in_force").is_boolean())
    line("In force", at(session, "in_force").get<bool>()
                         ? "yes, " + number_text(session, "left_ms") + " ms left"
                         : "no");
  const json& nats = at(status.document, "nats");
  if (nats.is_object())
    line("NATS", word(nats, "url") + "  nats-server " + word(nats, "version") + ", " +
                     word(nats, "state") + ", sync " + word(nats, "sync"));
  line("Coordinator", word(status.document, "coordinator"));
  Table apps({"APP", "MODE", "ROLE", "PHASE", "LEADER", "EPOCH", "BACKEND", "LAST ERROR"});
  for (const auto& entry : at(status.document, "apps"))
    apps.add({word(entry, "name"), word(entry, "mode"), word(entry, "role"), word(entry, "phase"),
              word(entry, "leader"), number_text(entry, "epoch"),
              backend_text(at(entry, "backend")), word(entry, "last_error")});
  return apps.empty() ? text : text + "\n" + apps.text(colour);
}

std::string status_json(const Snapshot& snapshot, bool compact) {
  json out{{"v", 1},
           {"platform", snapshot.platform},
           {"nats",
            {{"url", snapshot.nats_url},
             {"server", snapshot.nats_server},
             {"version", snapshot.nats_version},
             {"cluster", snapshot.nats_cluster}}},
           {"coordinator", nullptr},
           {"nodes", json::array()},
           {"apps", json::array()}};
  if (const SeenLease* lease = find_lease(snapshot, kCoordinator))
    if (const auto leader = leader_of(snapshot, *lease); !leader.empty())
      out["coordinator"] = leader;
  for (const auto& member : snapshot.members) out["nodes"].push_back(member_json(snapshot, member));
  for (const auto& app : app_names(snapshot)) out["apps"].push_back(app_json(snapshot, app));
  return dump(out, compact);
}

std::string nodes_json(const Snapshot& snapshot, bool compact) {
  json out{{"v", 1}, {"platform", snapshot.platform}, {"nodes", json::array()}};
  for (const auto& member : snapshot.members) {
    json entry = member_json(snapshot, member);
    entry.erase("answered");
    entry.erase("status");
    out["nodes"].push_back(std::move(entry));
  }
  return dump(out, compact);
}

std::string node_json(const Snapshot& snapshot, const SeenMember& member, bool compact) {
  json out = member_json(snapshot, member);
  out["v"] = 1;
  out["platform"] = snapshot.platform;
  return dump(out, compact);
}

}  // namespace cluster::cli
