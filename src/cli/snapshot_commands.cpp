// cpp-cluster snapshot: takes, lists, restores and deletes snapshots of an app's database.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/table.h"
#include "core/duration.h"
#include "core/log.h"
#include "nats/stored_message.h"
#include "platform/snapshot_messages.h"
#include "sqlite/snapshot_plan.h"
#include "sqlite/snapshot_removal.h"
#include "sqlite/snapshot_restore.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using sqlite::StoredFile;
using std::chrono::milliseconds;

struct SnapshotArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{};
  milliseconds limit{std::chrono::minutes(10)};
  bool all = false;
  std::string path{};
  std::uint64_t txid = 0;
  std::string time{};
  std::string object{};
  bool force = false;
};

Json json_of(const StoredFile& file) {
  return {{"object", file.name()},
          {"level", file.level},
          {"first_txid", file.min},
          {"txid", file.max},
          {"epoch", file.end.epoch},
          {"sequence", file.end.sequence},
          {"time", nats::rfc3339_from(file.time_ns)},
          {"bytes", file.size}};
}

// ---- list

std::string list_json(const std::string& app, const KeptOfDatabase& kept, bool compact) {
  Json out{{"v", 1}, {"app", app}, {"snapshots", Json::array()}, {"merged", Json::array()}};
  out["foreign"] = Json::array();
  for (const auto& file : kept.listing.files)
    out[file.snapshot() ? "snapshots" : "merged"].push_back(json_of(file));
  for (const auto& object : kept.listing.foreign)
    out["foreign"].push_back(
        {{"object", object.name}, {"why", object.why}, {"bytes", object.size}});
  out["stream"] = nullptr;
  if (const auto& stream = kept.stream)
    out["stream"] = {{"first", stream->first}, {"last", stream->last}, {"bytes", stream->bytes}};
  return out.dump(compact ? -1 : 2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string list_text(const KeptOfDatabase& kept, bool all, bool colour) {
  Table table({"TXID", "TIME", "SIZE", "EPOCH", "OBJECT"});
  sqlite::Files files = kept.listing.files;
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return a.max != b.max ? a.max > b.max : a.level > b.level;
  });
  std::uint64_t merged = 0, merged_bytes = 0;
  for (const auto& file : files) {
    if (!file.snapshot()) {
      ++merged;
      merged_bytes += file.size;
    }
    if (!file.snapshot() && !all) continue;
    const bool other = kept.stream && file.end.history != kept.stream->history;
    const std::string range = file.snapshot()
                                  ? std::to_string(file.max)
                                  : std::to_string(file.min) + "-" + std::to_string(file.max);
    table.add({{range, other ? Colour::dim : Colour::none},
               nats::rfc3339_from(file.time_ns),
               size_text(file.size),
               std::to_string(file.end.epoch),
               {file.name() + (other ? " (of a stream that is gone)" : ""), Colour::dim}});
  }
  if (all)
    for (const auto& object : kept.listing.foreign)
      table.add(
          {"", "", size_text(object.size), "", {object.name + ": " + object.why, Colour::dim}});
  std::string text = table.empty() ? "no snapshots\n" : table.text(colour);
  if (merged > 0 && !all)
    text += "and " + std::to_string(merged) + " merged files (" + size_text(merged_bytes) +
            "): --all shows them\n";
  if (const auto count = kept.listing.foreign.size(); count > 0 && !all)
    text += "and " + std::to_string(count) + " objects that are no files of ours\n";
  return text;
}

Exit list(const SnapshotArguments& options) {
  Client client(options.common);
  check_app(client, options.app);
  return client.show(options.output, [&] {
    const KeptOfDatabase kept = look_at_store(client, options.app);
    return options.output.json ? list_json(options.app, kept, options.output.watch)
                               : list_text(kept, options.all, use_colour());
  });
}

// ---- create

DatabaseSnapshot take(Client& client, const SnapshotArguments& options, const std::string& leader) {
  const auto until = std::chrono::steady_clock::now() + options.limit;
  ProgressLine line;
  return take_snapshot(
      options.app,
      [&](const std::string& request) {
        return client.request(leader, "snapshot", request, options.common.timeout);
      },
      [&](const SnapshotAnswer& so_far, milliseconds time) {
        if (std::chrono::steady_clock::now() >= until)
          throw CommandError(Exit::timeout, "the snapshot was not complete within " +
                                                format_duration(options.limit) + "; it goes on");
        line.show("snapshot of " + options.app, so_far.pages, so_far.of);
        client.pause(time);
      });
}

Exit create(const SnapshotArguments& options) {
  Client client(options.common);
  const Snapshot seen = client.read();
  const SeenLease* lease = find_lease(seen, options.app);
  if (lease == nullptr) check_app(client, options.app);
  const std::string leader = lease != nullptr && lease->record ? leader_of(seen, *lease) : "";
  if (leader.empty())
    throw CommandError(Exit::unhealthy, "nobody leads " + options.app + " at the moment");
  const DatabaseSnapshot taken = take(client, options, leader);
  client.audit("database", options.app, "snapshot_asked", {{"txid", std::to_string(taken.txid)}},
               "info");
  if (options.output.json)
    print(Json{{"v", 1}, {"app", options.app}, {"node", leader}, {"snapshot", json_of(taken)}}.dump(
              2) +
          "\n");
  else
    print(options.app + ": snapshot at transaction " + std::to_string(taken.txid) + " (" +
          size_text(taken.bytes) + ")\n");
  return Exit::ok;
}

// ---- restore

void show(ProgressLine& line, const std::string& app, const RestoreProgress& progress) {
  using Phase = RestoreProgress::Phase;
  const char* what = progress.phase == Phase::files    ? "restoring "
                     : progress.phase == Phase::stream ? "replaying the stream of "
                                                       : "running integrity_check on ";
  line.show(what + app, progress.done, progress.of);
}

Exit restore(const SnapshotArguments& options) {
  sqlite::RestoreRequest request;
  request.path = options.path;
  request.force = options.force;
  request.object = options.object;
  if (options.txid > 0) request.target.txid = options.txid;
  if (!options.time.empty()) {
    const auto time = nats::time_ns_from(options.time);
    if (!time)
      throw CommandError(Exit::usage, "--time: \"" + options.time +
                                          "\" is no time in UTC like 2025-06-01T09:30:00Z");
    request.target.time_ns = time;
  }
  Client client(options.common);
  check_app(client, options.app);
  DatabaseStore store(client, options.app);
  request.stream = store.stream();
  const bool replaces = options.force && std::filesystem::exists(options.path);
  sqlite::Restored restored;
  {
    ProgressLine line;
    request.progress = [&](const RestoreProgress& p) { show(line, options.app, p); };
    store.work([&](sqlite::SnapshotStore& s, std::stop_token stop) {
      restored = sqlite::restore_database(s, request, stop);
    });
  }
  const sqlite::Txid txid = restored.state.txid;
  if (replaces)
    client.audit("database", options.app, "snapshot_restored_over",
                 {{"path", std::filesystem::absolute(options.path).string()},
                  {"txid", std::to_string(txid)},
                  {"epoch", std::to_string(restored.epoch)}});
  const bool exact = options.txid == 0 || options.txid == txid;
  if (options.output.json) {
    Json out{{"v", 1},
             {"app", options.app},
             {"path", options.path},
             {"txid", txid},
             {"epoch", restored.epoch},
             {"time", nats::rfc3339_from(restored.time_ns)},
             {"exact", exact},
             {"newest", restored.newest},
             {"stream_gone", restored.stream_gone},
             {"bytes", restored.bytes()},
             {"passed_over", restored.damaged},
             {"complaint", restored.complaint}};
    print(out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    return Exit::ok;
  }
  for (const auto& damaged : restored.damaged) complain("passed over " + damaged);
  if (!exact)
    complain("transaction " + std::to_string(options.txid) +
             " is not kept as such: this is the newest before it that is");
  if (restored.newest && !options.time.empty())
    complain("nothing was stored between this and " + options.time +
             ": it is the newest that there is");
  if (restored.stream_gone)
    complain("it is from a stream that somebody has deleted" +
             std::string(options.object.empty()
                             ? ": the one that is there now has nothing of that time, or does not "
                               "go as far"
                             : ""));
  if (!restored.complaint.empty())
    complain("SQLite's integrity_check says: " + restored.complaint +
             "; the file holds what the database held then, all the same: look at it with the "
             "program that made it");
  print(options.path + ": database of " + options.app + " at transaction " + std::to_string(txid) +
        ", " + nats::rfc3339_from(restored.time_ns) + "\n");
  return Exit::ok;
}

// ---- delete

Exit remove(const SnapshotArguments& options) {
  Client client(options.common);
  check_app(client, options.app);
  DatabaseStore store(client, options.app);
  StoredFile removed;
  store.work([&](sqlite::SnapshotStore& s, std::stop_token stop) {
    removed = sqlite::remove_snapshot(s, store.stream(), options.txid, options.force, stop);
  });
  client.audit("database", options.app, "snapshot_deleted",
               {{"txid", std::to_string(removed.max)},
                {"object", removed.name()},
                {"forced", options.force ? "true" : "false"}});
  if (options.output.json)
    print(Json{{"v", 1}, {"app", options.app}, {"removed", json_of(removed)}}.dump(2) + "\n");
  else
    print(options.app + ": removed the snapshot at transaction " + std::to_string(options.txid) +
          "\n");
  return Exit::ok;
}

CLI::App& add_one(CLI::App& group, const char* name, const char* help,
                  const std::shared_ptr<SnapshotArguments>& options, Chosen& chosen,
                  Exit (*run)(const SnapshotArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  app.add_option("APP", options->app, "The app")->required();
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS, or on a node, after this");
  add_output_flag(app, options->output);
  on_chosen(app, chosen, log::Level::error, [options, run] { return run(*options); });
  return app;
}

}  // namespace

void add_snapshot(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("snapshot", "Snapshots of an app's database");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster snapshot list database\n"
      "  cpp-cluster snapshot restore database --to /tmp/copy.db --time 2025-06-01T09:30:00Z");
  const auto options = std::make_shared<SnapshotArguments>();

  CLI::App& take = add_one(group, "create", "Take a snapshot now", options, chosen, create);
  add_duration_flag(take, "--limit", options->limit, "Stop waiting for it after this");
  take.footer(
      "The leader takes it. When nothing has changed since the newest one, that is the answer.\n"
      "Exit status: 0 it is there, 4 no such app, 5 nobody leads it, 6 no answer in time.\n\n"
      "Examples:\n"
      "  cpp-cluster snapshot create database");

  CLI::App& all = add_one(group, "list", "List what can be restored", options, chosen, list);
  all.add_flag("--all", options->all, "The files between the snapshots too");
  add_watch_flag(all, options->output);
  all.footer(
      "Examples:\n"
      "  cpp-cluster snapshot list database\n"
      "  cpp-cluster snapshot list database --output json | jq '.snapshots[-1].txid'");

  CLI::App& back =
      add_one(group, "restore", "Restore the database to a file", options, chosen, restore);
  back.add_option("--to", options->path, "Where to; there must be no file yet")
      ->required()
      ->type_name("FILE");
  CLI::Option* txid = back.add_option("--txid", options->txid, "Nothing behind this transaction")
                          ->type_name("TXID")
                          ->check(CLI::PositiveNumber);
  back.add_option("--time", options->time, "Nothing after this, like 2025-06-01T09:30:00Z")
      ->type_name("TIME")
      ->excludes(txid);
  back.add_option("--object", options->object,
                  "As this file of the list ends, also of a stream that is gone")
      ->type_name("NAME")
      ->excludes(txid)
      ->excludes("--time");
  back.add_flag("--force", options->force, "Replace a file that is there");
  back.footer(
      "Without --txid or --time, the newest. No node is needed, and none is disturbed. The result\n"
      "is verified before it is put in place.\n"
      "Exit status: 0 restored, 1 damaged or in use, 2 there is a file, 4 nothing of that time.\n\n"
      "Examples:\n"
      "  cpp-cluster snapshot restore database --to /tmp/copy.db\n"
      "  cpp-cluster snapshot restore database --to /tmp/copy.db --txid 4711");

  CLI::App& gone = add_one(group, "delete", "Delete a snapshot", options, chosen, remove);
  gone.add_option("--txid", options->txid, "Its transaction")
      ->required()
      ->type_name("TXID")
      ->check(CLI::PositiveNumber);
  gone.add_flag("--force", options->force, "Even the newest one");
  gone.footer(
      "Old ones go by themselves (sqlite.snapshot_retention).\n"
      "Exit status: 0 removed, 2 it is the newest (--force), 4 no such app or snapshot.\n\n"
      "Examples:\n"
      "  cpp-cluster snapshot delete database --txid 4711");
}

}  // namespace cluster::cli
