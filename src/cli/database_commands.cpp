// cpp-cluster db: where the databases of apps stand on each node, and whether the copies are whole
// and the same. Who begins a history: found_command.cpp. What is in quarantine:
// quarantine_commands.cpp.
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/table.h"
#include "cli/verify_verdict.h"
#include "core/duration.h"
#include "core/log.h"
#include "core/number_text.h"
#include "nats/stored_message.h"
#include "sqlite/snapshot_plan.h"
#include "sqlite/stream_message.h"

namespace cluster::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;
using std::chrono::milliseconds;

constexpr auto kAskAgain = milliseconds(200);
constexpr int kMostTries = 3;  // to compare all copies at one transaction

struct DatabaseArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{};
  std::string node{};
  milliseconds limit{600'000};
};

std::uint64_t number_at(const OrderedJson& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_number_unsigned()
             ? json[key].get<std::uint64_t>()
             : 0;
}

std::string text(const OrderedJson& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string()
             ? json[key].get<std::string>()
             : std::string();
}

std::string indented(const OrderedJson& json, bool compact) {
  return json.dump(compact ? -1 : 2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

// ---- status

/// What a node says of the database; `problem` when it does not.
struct OnNode {
  std::string node{};
  OrderedJson database{};
  std::string problem{};
};

std::vector<OnNode> ask_nodes(const Snapshot& seen, const std::string& app) {
  std::vector<OnNode> nodes;
  for (const auto& member : seen.members) {
    const auto answer = seen.answers.find(member.node);
    if (answer == seen.answers.end()) continue;
    OnNode one{member.node, {}, answer->second.problem};
    const OrderedJson status = OrderedJson::parse(answer->second.status, nullptr, false);
    if (status.is_object() && status.contains("apps") && status["apps"].is_array())
      for (const auto& its : status["apps"])
        if (text(its, "name") == app && its.contains("database") && its["database"].is_object())
          one.database = its["database"];
    if (one.database.is_null() && one.problem.empty()) continue;  // it does not run the app
    nodes.push_back(std::move(one));
  }
  return nodes;
}

OrderedJson status_of(const std::string& app, const std::string& leader, const KeptOfDatabase& kept,
                      const std::vector<OnNode>& nodes) {
  OrderedJson json{{"app", app},
                   {"leader", leader.empty() ? OrderedJson() : OrderedJson(leader)},
                   {"stream", nullptr}};
  sqlite::Files own = kept.listing.files;
  if (kept.stream) {
    json["stream"] = {
        {"first", kept.stream->first}, {"last", kept.stream->last}, {"bytes", kept.stream->bytes}};
    own = files_of(kept.listing.files, *kept.stream);
  }
  std::uint64_t bytes = 0, snapshots = 0;
  const sqlite::StoredFile* newest = nullptr;
  for (const auto& file : own) {
    bytes += file.size;
    if (!file.snapshot()) continue;
    ++snapshots;
    if (newest == nullptr || file.max > newest->max) newest = &file;
  }
  json["snapshots"] = {{"count", snapshots}, {"bytes", bytes}, {"newest", nullptr}};
  if (newest != nullptr)
    json["snapshots"]["newest"] = {{"txid", newest->max},
                                   {"epoch", newest->end.epoch},
                                   {"time", nats::rfc3339_from(newest->time_ns)},
                                   {"bytes", newest->size}};
  json["nodes"] = OrderedJson::array();
  for (const auto& one : nodes)
    json["nodes"].push_back(
        {{"node", one.node}, {"database", one.database}, {"problem", one.problem}});
  return json;
}

std::string lag_text(const OrderedJson& database) {
  if (!database.contains("lag")) return "";
  const OrderedJson& lag = database["lag"];
  const auto transactions = number_at(lag, "transactions");
  const auto records = number_at(lag, "records");
  if (transactions == 0) return records == 0 ? "0" : std::to_string(records) + " records";
  std::string shown =
      std::to_string(transactions) + " (" + size_text(number_at(lag, "bytes")) + ")";
  if (const auto ms = number_at(lag, "ms"); ms > 0)
    shown += ", " + format_duration(milliseconds(ms));
  return shown;
}

// "1 diverged, 3 foreign"
std::string quarantine_text(const OrderedJson& database) {
  if (!database.contains("quarantine")) return "";
  std::string shown;
  for (const char* kind : {"diverged", "foreign", "damaged"}) {
    const OrderedJson& all = database["quarantine"];
    const auto count = all.is_object() && all.contains(kind) ? number_at(all[kind], "count") : 0;
    if (count > 0)
      shown += (shown.empty() ? "" : ", ") + std::to_string(count) + " " + std::string(kind);
  }
  return shown;
}

// "41 %", "2 wrong", or when it was complete: "2025-06-01 09:30".
Cell scrub_cell(const OrderedJson& database) {
  if (!database.contains("scrub") || !database["scrub"].is_object()) return "";
  const OrderedJson& scrub = database["scrub"];
  if (scrub.contains("wrong") && scrub["wrong"].is_array() && !scrub["wrong"].empty())
    return {std::to_string(scrub["wrong"].size()) + " wrong", Colour::bad};
  if (!text(scrub, "begun").empty()) {
    const auto all = number_at(scrub, "of");
    return all == 0 ? "begun"
                    : std::to_string(std::min(all, number_at(scrub, "pages")) * 100 / all) + " %";
  }
  constexpr std::size_t kToMinutes = 16;
  std::string when = text(scrub, "completed").substr(0, kToMinutes);
  std::replace(when.begin(), when.end(), 'T', ' ');
  if (scrub.contains("overdue") && scrub["overdue"] == true)
    return {when.empty() ? "overdue" : "overdue: " + when, Colour::bad};
  return when;
}

std::vector<std::string> named_in_quarantine(const OrderedJson& database) {
  std::vector<std::string> paths;
  if (!database.is_object() || !database.contains("quarantine")) return paths;
  const OrderedJson& all = database["quarantine"];
  if (all.is_object() && all.contains("newest") && all["newest"].is_array())
    for (const auto& path : all["newest"])
      if (path.is_string()) paths.push_back(path.get<std::string>());
  return paths;
}

std::string status_text(const OrderedJson& of, bool colour) {
  const std::string leader = text(of, "leader");
  std::string out =
      text(of, "app") + ": " + (leader.empty() ? "nobody leads" : "led by " + leader) + "\n";
  if (const OrderedJson& stream = of["stream"]; stream.is_object())
    out += "stream: records " + std::to_string(number_at(stream, "first")) + " to " +
           std::to_string(number_at(stream, "last")) + ", " +
           size_text(number_at(stream, "bytes")) + "\n";
  else
    out += "stream: none\n";
  const OrderedJson& snapshots = of["snapshots"];
  out += "snapshots: ";
  if (const OrderedJson& newest = snapshots["newest"]; newest.is_object())
    out += std::to_string(number_at(snapshots, "count")) + ", the newest of transaction " +
           std::to_string(number_at(newest, "txid")) + " at " + text(newest, "time") + "; " +
           size_text(number_at(snapshots, "bytes")) + " in all\n";
  else
    out += "none\n";
  Table table(
      {"NODE", "ROLE", "STATE", "EPOCH", "TXID", "LAG", "WAL", "SCRUB", "QUARANTINE", "TROUBLE"});
  for (const auto& one : of["nodes"]) {
    const OrderedJson& d = one["database"];
    if (!d.is_object()) {
      table.add(
          {text(one, "node"), "", "", "", "", "", "", "", "", {text(one, "problem"), Colour::bad}});
      continue;
    }
    const std::string role = text(d, "role");
    const bool ready = d.contains("ready") && d["ready"] == true;
    const std::string trouble = text(d, "trouble");
    std::string state = role == "primary" ? "" : text(d, "copy");
    if (state == "restoring")
      state += " " + std::to_string(number_at(d, "restored_percent")) + " %";
    table.add({text(one, "node"),
               {role, role == "primary" ? Colour::bold : Colour::none},
               {state, ready ? Colour::none : Colour::bad},
               std::to_string(number_at(d, "epoch")),
               std::to_string(number_at(d, "txid")),
               lag_text(d),
               size_text(number_at(d, "wal_bytes")),
               scrub_cell(d),
               quarantine_text(d),
               {trouble, Colour::bad}});
  }
  out += table.empty() ? "no node runs it\n" : table.text(colour);
  for (const auto& one : of["nodes"])
    for (const auto& path : named_in_quarantine(one["database"]))
      out += "in quarantine on " + text(one, "node") + ": " + harmless(path) + "\n";
  return out;
}

Exit status(const DatabaseArguments& options) {
  Client client(options.common);
  if (!options.app.empty()) check_app(client, options.app);
  return client.show(options.output, [&] {
    Snapshot seen = client.read();
    client.ask(seen);
    auto apps = client.apps_with_databases();
    if (!options.app.empty()) apps = {options.app};
    OrderedJson all{{"v", 1}, {"platform", client.platform()}, {"databases", OrderedJson::array()}};
    std::string out;
    for (const auto& app : apps) {
      const SeenLease* lease = find_lease(seen, app);
      const std::string leader = lease != nullptr && lease->record ? leader_of(seen, *lease) : "";
      const OrderedJson one =
          status_of(app, leader, look_at_store(client, app), ask_nodes(seen, app));
      out += (out.empty() ? "" : "\n") + status_text(one, use_colour());
      all["databases"].push_back(one);
    }
    if (options.output.json) return indented(all, options.output.watch);
    return out.empty() ? "no app of platform " + client.platform() + " has a database\n" : out;
  });
}

// ---- verify

/// A node's copy, and what the node says of it.
struct Asked {
  std::string node{}, role{}, id{};
  OrderedJson result{};
  std::string problem{};   ///< why it was not verified
  std::uint64_t txid = 0;  ///< that it looks at; 0: not known yet
  std::uint64_t done = 0, of = 0;

  bool over() const { return result.is_object() || !problem.empty(); }
};

// Begins it on a node, or asks how it is doing.
void ask(Client& client, const DatabaseArguments& options, Asked& one, std::uint64_t at) {
  OrderedJson request{{"v", 1}, {"app", options.app}};
  if (!one.id.empty()) request["id"] = one.id;
  if (at > 0) request["at"] = at;
  try {
    const OrderedJson answer = OrderedJson::parse(
        client.request(one.node, "verify", request.dump(), options.common.timeout), nullptr, false);
    one.id = text(answer, "id");
    one.role = text(answer, "role");
    if (answer.is_object() && answer.contains("result") && answer["result"].is_object()) {
      one.result = answer["result"];
      one.txid = number_at(one.result, "txid");
      return;
    }
    if (one.id.empty()) one.problem = "its answer is not understood";
    if (!answer.contains("progress")) return;
    one.txid = number_at(answer["progress"], "txid");
    one.done = number_at(answer["progress"], "pages");
    one.of = number_at(answer["progress"], "of");
  } catch (const CommandError& error) {
    one.problem = error.what();
  }
}

// The first of the nodes says which transaction it looks at; the others are asked of that one as
// soon as it is known, before they have dropped what they noted of it.
std::vector<Asked> verify_nodes(Client& client, const DatabaseArguments& options,
                                const std::vector<std::string>& nodes) {
  std::vector<Asked> all;
  for (const auto& node : nodes) all.push_back({.node = node});
  const auto until = std::chrono::steady_clock::now() + options.limit;
  ProgressLine progress;
  while (true) {
    bool over = true;
    std::uint64_t done = 0, of = 0;
    for (auto& one : all) {
      const Asked& first = all.front();
      const bool may_begin = &one == &first || first.txid > 0 || first.over();
      if (!one.over() && may_begin) ask(client, options, one, &one == &first ? 0 : first.txid);
      over = over && one.over();
      done += one.done;
      of += one.of;
    }
    if (over) return all;
    if (std::chrono::steady_clock::now() >= until)
      throw CommandError(Exit::timeout, "not verified within " + format_duration(options.limit) +
                                            "; it goes on: cpp-cluster db status shows the end");
    progress.show("verifying " + options.app, done, of);
    client.pause(kAskAgain);
  }
}

CheckedCopy copy_of(const Asked& asked) {
  CheckedCopy copy{.node = asked.node, .role = asked.role, .problem = asked.problem};
  const OrderedJson& r = asked.result;
  if (!r.is_object()) return copy;
  copy.found = CopyFound{.txid = number_at(r, "txid"),
                         .sequence = number_at(r, "sequence"),
                         .hash = text(r, "hash"),
                         .noted = text(r, "noted"),
                         .noted_at = text(r, "noted_at"),
                         .wrong = number_at(r, "wrong"),
                         .damage = text(r, "damage")};
  if (r.contains("wrong_pages") && r["wrong_pages"].is_array())
    for (const auto& page : r["wrong_pages"])
      if (page.is_number_unsigned()) copy.found->pages.push_back(page.get<std::uint64_t>());
  return copy;
}

// What the stream says that the content is at that record.
std::optional<std::string> stream_hash(DatabaseStore& store, std::uint64_t sequence,
                                       std::uint64_t txid) {
  if (sequence == 0) return std::nullopt;
  std::optional<nats::StoredMessage> message;
  store.work([&](sqlite::SnapshotStore& s, std::stop_token stop) {
    message = s.message(store.stream(), sequence, stop);
  });
  if (!message) return std::nullopt;
  const auto record = sqlite::stream_record_from(message->headers, sequence);
  if (!record || record.value().last != txid || !record.value().final) return std::nullopt;
  return hex(record.value().hash);
}

// Live nodes that run the app; the one that leads first: all others are compared with it.
std::vector<std::string> nodes_to_verify(Client& client, const std::string& app) {
  const Snapshot seen = client.read();
  const SeenLease* lease = find_lease(seen, app);
  const std::string leader = lease != nullptr && lease->record ? leader_of(seen, *lease) : "";
  std::vector<std::string> nodes;
  for (const auto& member : seen.members)
    if (member.record && member.record->live() && member.record->facts &&
        std::ranges::count(member.record->facts->apps, app) > 0)
      nodes.insert(member.node == leader ? nodes.begin() : nodes.end(), member.node);
  if (nodes.empty()) throw CommandError(Exit::unhealthy, "no live node runs app \"" + app + "\"");
  return nodes;
}

struct Verdict {
  std::vector<Asked> asked{};
  std::vector<CheckedCopy>
      copies{};  ///< of the same nodes; the first is what they are compared with

  bool sound() const {
    return std::ranges::all_of(copies, [](const auto& copy) { return copy.wrong.empty(); });
  }
  bool complete() const {
    return std::ranges::all_of(copies, [](const auto& copy) { return copy.problem.empty(); });
  }
  bool compared() const {
    return std::ranges::all_of(copies, [](const auto& copy) { return copy.not_compared.empty(); });
  }
};

// Again where a copy could not be compared: it was behind or ahead for too long, or the lead moved.
Verdict verify_and_compare(Client& client, const DatabaseArguments& options) {
  DatabaseStore store(client, options.app);
  for (int tries = 1;; ++tries) {
    Verdict verdict;
    verdict.asked = verify_nodes(client, options, nodes_to_verify(client, options.app));
    for (const auto& asked : verdict.asked) verdict.copies.push_back(copy_of(asked));
    judge(verdict.copies, 0, [&](std::uint64_t sequence, std::uint64_t txid) {
      return stream_hash(store, sequence, txid);
    });
    if (verdict.compared() || !verdict.sound() || tries == kMostTries) return verdict;
  }
}

Cell shown(const CheckedCopy& copy, const CheckedCopy& first) {
  if (!copy.wrong.empty()) return {copy.wrong, Colour::bad};
  if (!copy.not_compared.empty()) return {"not compared: " + copy.not_compared, Colour::bad};
  if (&copy == &first)
    return {copy.with_stream ? "sound, and as the stream has it" : "sound", Colour::good};
  return {"sound, and at " + std::to_string(first.found->txid) + " the same as " + first.node,
          Colour::good};
}

void show(const DatabaseArguments& options, const Verdict& verdict) {
  const CheckedCopy& first = verdict.copies.front();
  OrderedJson json{{"v", 1},
                   {"app", options.app},
                   {"sound", verdict.sound() && verdict.complete() && verdict.compared()},
                   {"compared", verdict.compared()},
                   {"at", first.found ? OrderedJson(first.found->txid) : OrderedJson()},
                   {"nodes", OrderedJson::array()}};
  Table table({"NODE", "ROLE", "TXID", "PAGES", "HASH", "RESULT"});
  for (std::size_t i = 0; i < verdict.copies.size(); ++i) {
    const CheckedCopy& one = verdict.copies[i];
    const OrderedJson& result = verdict.asked[i].result;
    json["nodes"].push_back({{"node", one.node},
                             {"role", one.role},
                             {"result", result},
                             {"compared_with_stream", one.with_stream},
                             {"compared", one.with_others},
                             {"not_compared", one.not_compared},
                             {"wrong", one.wrong},
                             {"problem", one.problem}});
    if (!one.problem.empty())
      table.add({one.node, one.role, "", "", "", {"not verified: " + one.problem, Colour::bad}});
    else
      table.add({one.node, one.role, std::to_string(number_at(result, "txid")),
                 std::to_string(number_at(result, "pages")), text(result, "hash"),
                 shown(one, first)});
  }
  print(options.output.json ? indented(json, false) : table.text(use_colour()));
}

Exit verify(const DatabaseArguments& options) {
  Client client(options.common);
  check_app(client, options.app);
  const Verdict verdict = verify_and_compare(client, options);
  show(options, verdict);
  if (!verdict.sound()) {
    complain("a copy of " + options.app +
             " is wrong. A standby quarantines its copy and gets another by itself; a primary's "
             "is to be replaced: cpp-cluster stepdown " +
             options.app + ", then look at it again (docs/replication.md, \"Recovery\")");
    return Exit::unhealthy;
  }
  if (!verdict.complete()) {
    complain("not all copies of " + options.app + " could be verified");
    return Exit::failed;
  }
  if (!verdict.compared()) {
    complain("each copy of " + options.app +
             " is as its node has noted it, but not all could be compared at one transaction: try "
             "again, when less is written");
    return Exit::failed;
  }
  return Exit::ok;
}

// ---- scrub

Exit scrub(const DatabaseArguments& options) {
  Client client(options.common);
  check_app(client, options.app);
  auto nodes = nodes_to_verify(client, options.app);
  if (!options.node.empty()) {
    if (std::ranges::count(nodes, options.node) == 0)
      throw CommandError(Exit::not_found,
                         "no live node \"" + options.node + "\" runs app \"" + options.app + "\"");
    nodes = {options.node};
  }
  OrderedJson json{{"v", 1}, {"app", options.app}, {"nodes", OrderedJson::array()}};
  Table table({"NODE", "SCRUB"});
  bool all = true;
  for (const auto& node : nodes) {
    std::string problem;
    try {
      client.request(node, "scrub", OrderedJson{{"v", 1}, {"app", options.app}}.dump(),
                     options.common.timeout);
    } catch (const CommandError& error) {
      problem = error.what();
    }
    all = all && problem.empty();
    json["nodes"].push_back({{"node", node}, {"problem", problem}});
    table.add({node, problem.empty() ? Cell("under way") : Cell(problem, Colour::bad)});
  }
  print(options.output.json ? indented(json, false) : table.text(use_colour()));
  return all ? Exit::ok : Exit::failed;
}

}  // namespace

void add_db(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("db", "Databases of apps: where they stand");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster db status\n"
      "  cpp-cluster db verify database\n"
      "  cpp-cluster db scrub database");
  const auto options = std::make_shared<DatabaseArguments>();
  const auto add = [&](const char* name, const char* help, Exit (*run)(const DatabaseArguments&)) {
    CLI::App& app = *group.add_subcommand(name, help);
    add_connection_flags(app, options->common);
    add_timeout_flag(app, options->common, "Give up on NATS, or on a node, after this");
    add_output_flag(app, options->output);
    app.callback([options, &chosen, run] {
      chosen = [options, run] {
        log::configure(log::Level::error);
        return run(*options);
      };
    });
    return &app;
  };

  CLI::App& look = *add("status", "Show each node's copy, the stream and the snapshots", status);
  look.add_option("APP", options->app, "The app; without it, all that have a database");
  add_watch_flag(look, options->output);
  look.footer(
      "LAG: of a primary, what JetStream has not acknowledged; of a standby, what it lacks.\n"
      "SCRUB: when all of the file was read and compared last, or how far that is.\n"
      "QUARANTINE: databases that a node could not go on with, kept beside its own: see\n"
      "cpp-cluster db quarantine --help.\n"
      "Exit status: 0 shown, 3 NATS unreachable, 4 no such app.\n\n"
      "Examples:\n"
      "  cpp-cluster db status\n"
      "  cpp-cluster db status database --watch 1s\n"
      "  cpp-cluster db status --output json | jq '.databases[].nodes[].database.lag'");

  CLI::App& compare = *add("verify", "Compare all copies, page by page", verify);
  compare.add_option("APP", options->app, "The app")->required();
  add_duration_flag(compare, "--limit", options->limit, "Stop waiting for it after this");
  compare.footer(
      "Each node reads all of its copy as it is at one transaction, while others are committed,\n"
      "and compares every page with what it noted when it wrote it. What the leader has at its\n"
      "transaction is compared with the stream's word, and with what each standby had there. The\n"
      "leader needs room for a copy. A standby whose copy is wrong quarantines it and gets "
      "another.\n"
      "Exit status: 0 all are sound and the same, 1 some could not be verified or compared, 4 no\n"
      "such app, 5 a copy is wrong or no node runs the app, 6 not done in time.\n\n"
      "Examples:\n"
      "  cpp-cluster db verify database\n"
      "  cpp-cluster db verify database --output json | jq '.nodes[] | select(.wrong != \"\")'");

  add_found(group, chosen);
  CLI::App& read = *add("scrub", "Have nodes read all of their file now, and compare it", scrub);
  read.add_option("APP", options->app, "The app")->required();
  read.add_option("--node", options->node, "Only this one; without it, all that run the app");
  read.footer(
      "Each node does that by itself every sqlite.scrub_interval. It reads no more than\n"
      "sqlite.scrub_rate a second; db status shows how far it is. A standby has pages that are\n"
      "wrong from the node that leads; a primary's are reported.\n"
      "Exit status: 0 begun, or under way already, 1 a node has refused, 4 no such app or node, 5\n"
      "no node runs the app.\n\n"
      "Examples:\n"
      "  cpp-cluster db scrub database\n"
      "  cpp-cluster db scrub database --node node-2");

  add_quarantine(group, chosen);
}

}  // namespace cluster::cli
