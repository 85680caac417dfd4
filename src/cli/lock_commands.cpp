// cpp-cluster lock: who holds what, and taking it away from them.
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/lock_hold.h"
#include "cli/table.h"
#include "coord/records_json.h"
#include "core/key_text.h"
#include "core/log.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using coord::LockParty;
using coord::LockRecord;

struct LockArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{}, name{};
  bool force = false;
  std::string note{};
  std::chrono::milliseconds wait{30'000};
  std::vector<std::string> command{};
};

/// A lock as it is shown.
struct Seen {
  std::string app{};  ///< empty: the platform's
  std::string name{};
  coord::Revision revision = 0;
  std::optional<LockRecord> record{};
  std::string problem{};
};

std::string key_of(const LockArguments& options) {
  if (auto fault = key_text_fault(options.name); !fault.empty())
    throw CommandError(Exit::usage, "\"" + options.name + "\" can't name a lock: " + fault);
  return (options.app.empty() ? "_" : options.app) + "." + escaped_key(options.name);
}

Seen seen_from(const std::string& key, const nats::KvEntry& entry) {
  Seen seen;
  const auto dot = key.find('.');
  const std::string app = key.substr(0, dot);
  if (app != "_") seen.app = app;
  seen.name = dot == std::string::npos ? key : unescaped_key(key.substr(dot + 1));
  seen.revision = entry.revision;
  auto record = coord::lock_record_from(key, entry.value);
  if (record)
    seen.record = std::move(record.value());
  else
    seen.problem = record.error().what();
  return seen;
}

bool ended(const Snapshot& platform, const LockParty& party) {
  const SeenMember* member = find_member(platform, party.session.node);
  return !member || !member->record || !member->record->live() ||
         member->record->session != party.session.session;
}

Json json_of(const Snapshot& platform, const LockRecord& record, coord::Revision revision,
             const std::vector<LockParty>& parties) {
  Json all = Json::array();
  for (const auto& party : parties) {
    Json one{{"node", party.session.node},
             {"session", party.session.session},
             {"ended", ended(platform, party)},
             {"since", time_text(party.asked_ms)}};
    if (&parties == &record.holders) one["token"] = party.token == 0 ? revision : party.token;
    if (!party.note.empty()) one["note"] = party.note;
    all.push_back(std::move(one));
  }
  return all;
}

std::string list_json(const Snapshot& platform, const std::vector<Seen>& locks, bool compact) {
  Json all = Json::array();
  for (const auto& lock : locks) {
    Json one{{"app", lock.app}, {"name", lock.name}, {"revision", lock.revision}};
    if (!lock.record) {
      one["problem"] = lock.problem;
    } else {
      one["kind"] = to_text(lock.record->kind);
      one["limit"] = lock.record->limit;
      one["open"] = lock.record->open;
      one["holders"] = json_of(platform, *lock.record, lock.revision, lock.record->holders);
      one["waiters"] = json_of(platform, *lock.record, lock.revision, lock.record->waiters);
    }
    all.push_back(std::move(one));
  }
  return Json{{"v", 1}, {"platform", platform.platform}, {"locks", std::move(all)}}.dump(
             compact ? -1 : 2, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

std::string list_text(const Snapshot& platform, const std::vector<Seen>& locks, bool colour) {
  Table table({"APP", "NAME", "KIND", "HOLDER", "TOKEN", "SINCE", "WAITING", "NOTE"});
  for (const auto& lock : locks) {
    if (!lock.record) {
      table.add({lock.app, lock.name, "", {lock.problem, Colour::bad}, "", "", "", ""});
      continue;
    }
    const LockRecord& record = *lock.record;
    const std::string kind = to_text(record.kind) + (record.kind == coord::LockKind::semaphore
                                                         ? " of " + std::to_string(record.limit)
                                                         : std::string());
    const std::string waiting = record.waiters.empty() ? "" : std::to_string(record.waiters.size());
    if (record.holders.empty())
      table.add({lock.app,
                 lock.name,
                 kind,
                 {record.open ? "(open)" : "(free)", Colour::dim},
                 "",
                 "",
                 waiting,
                 ""});
    for (const auto& holder : record.holders)
      table.add({lock.app, lock.name, kind,
                 ended(platform, holder)
                     ? Cell(holder.session.node + " (its session has ended)", Colour::dim)
                     : Cell(holder.session.node),
                 std::to_string(holder.token == 0 ? lock.revision : holder.token),
                 time_text(holder.asked_ms), waiting, holder.note});
  }
  return table.empty() ? "no locks\n" : table.text(colour);
}

Exit list(const LockArguments& options) {
  Client client(options.common);
  return client.show(options.output, [&] {
    const auto entries = client.read_bucket(client.platform() + "_locks");
    // After the locks: sessions that they refer to had begun by then.
    const Snapshot platform = client.read();
    std::vector<Seen> locks;
    if (entries)
      for (const auto& [key, entry] : *entries) {
        Seen seen = seen_from(key, entry);
        if (options.app.empty() || seen.app == options.app) locks.push_back(std::move(seen));
      }
    return options.output.json ? list_json(platform, locks, options.output.watch)
                               : list_text(platform, locks, use_colour());
  });
}

// Frees the lock, or closes the barrier again, and tells the nodes that held it.
Exit release(const LockArguments& options) {
  if (!options.force)
    throw CommandError(Exit::usage,
                       "this takes a lock away from who holds it, who may still act by it: say "
                       "--force if that is what you want");
  Client client(options.common);
  const std::string key = key_of(options);
  nats::KeyValue bucket(client.jetstream(), client.platform() + "_locks");
  const auto limit = options.common.timeout + std::chrono::milliseconds(500);
  auto entry = nats::await<nats::KvEntry>(client.loop(), limit, [&](Callback<nats::KvEntry> done) {
    bucket.get(key, std::move(done));
  });
  if (!entry && entry.error().errc() == Errc::not_found)
    throw CommandError(Exit::not_found, "there is no lock \"" + options.name + "\"" +
                                            (options.app.empty() ? "" : " of app " + options.app));
  LockRecord record = coord::lock_record_from(key, entry.value().value).value();
  const auto holders = std::exchange(record.holders, {});
  record.open = false;
  if (holders.empty() && record == coord::lock_record_from(key, entry.value().value).value())
    throw CommandError(Exit::not_found, "nobody holds \"" + options.name + "\"");
  const auto stored =
      nats::await<std::uint64_t>(client.loop(), limit, [&](Callback<std::uint64_t> done) {
        bucket.update(key, to_json(record), entry.value().revision, std::move(done));
      });
  if (!stored) throw stored.error();
  const auto shared = std::make_shared<const LockRecord>(record);
  std::vector<LockParty> concerned = holders;
  concerned.insert(concerned.end(), record.waiters.begin(), record.waiters.end());
  std::string who;
  for (const auto& party : holders) who += (who.empty() ? "" : ", ") + party.session.node;
  for (const auto& party : concerned)
    client.jetstream().connection().publish(
        {.subject = client.platform() + "._.locks." + party.session.node,
         .data = to_json(coord::LockNotice{party.session.node, stored.value(), shared})});
  client.audit("lock", options.app, "released_by_force",
               {{"name", options.name}, {"holders", who}});
  print("lock \"" + options.name + "\" is free" + (who.empty() ? "" : "; " + who + " held it") +
        "\n");
  return Exit::ok;
}

CLI::App& add_one(CLI::App& group, const char* name, const char* help,
                  const std::shared_ptr<LockArguments>& options, Chosen& chosen,
                  Exit (*run)(const LockArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  app.add_option("--app", options->app, "Of this app; without it, the platform's own")
      ->type_name("APP");
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  on_chosen(app, chosen, log::Level::error, [options, run] { return run(*options); });
  return app;
}

Exit hold(const LockArguments& options) {
  key_of(options);  // throws for what can't name a lock
  return hold_lock(options.common,
                   {options.app, options.name, options.note, options.wait, options.command});
}

}  // namespace

void add_lock(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("lock", "Locks, semaphores and barriers");
  group.require_subcommand(1);
  group.footer("Examples:\n  cpp-cluster lock list\n  cpp-cluster lock release --force migration");
  const auto options = std::make_shared<LockArguments>();

  CLI::App& all = add_one(group, "list", "List them, with who holds them", options, chosen, list);
  add_output_flag(all, options->output);
  add_watch_flag(all, options->output);
  all.footer(
      "Without --app, those of the platform and of all apps.\n\n"
      "Examples:\n  cpp-cluster lock list\n  cpp-cluster lock list --app shop --watch");

  CLI::App& held =
      add_one(group, "hold", "Hold a lock while a command runs", options, chosen, hold);
  held.add_option("NAME", options->name, "The lock")->required();
  held.add_option("COMMAND", options->command,
                  "What runs meanwhile, behind --; without it the lock is held until Ctrl-C");
  held.add_option("--note", options->note, "Shown to those who look who holds it")
      ->type_name("TEXT");
  add_duration_flag(held, "--wait", options->wait, "Give up when others hold it for so long");
  held.footer(
      "This becomes a node of the platform for that time, named hold-HOST-PID: the lock is free a "
      "moment\n"
      "after this program or its machine has died. When the lock is lost the command is killed at "
      "once,\n"
      "since another may hold it soon. It has CPP_CLUSTER_LOCK and CPP_CLUSTER_LOCK_TOKEN in its\n"
      "environment; SIGINT and SIGTERM are passed on to it.\n"
      "Exit status: the command's own (128 + the signal that ended it); 1 the lock was lost, 3 no "
      "NATS,\n"
      "6 others held it all the time.\n\n"
      "Examples:\n"
      "  cpp-cluster lock hold nightly -- /usr/local/bin/backup --full\n"
      "  cpp-cluster lock hold --app shop invoices --wait 5s --note 'by hand'");

  CLI::App& free =
      add_one(group, "release", "Take a lock away from who holds it", options, chosen, release);
  free.add_option("NAME", options->name, "The lock")->required();
  free.add_flag("--force", options->force, "Yes, although its holder may still act by it");
  free.footer(
      "Its holder is told, and may act until it has heard; what it guards should refuse old "
      "tokens.\n"
      "A barrier that is open is closed again.\n"
      "Exit status: 0 it is free, 1 it has just changed, 4 there is none, or nobody holds it.\n\n"
      "Examples:\n  cpp-cluster lock release --force --app shop invoices");
}

}  // namespace cluster::cli
