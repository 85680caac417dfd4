// cpp-cluster db found: a person decides with which database, or without any, the history of an app
// begins (docs/replication.md, "Who founds"). The decision stands in the metadata of the empty
// stream, where all nodes find it, and goes with the stream.
#include <memory>
#include <string>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/table.h"
#include "core/log.h"
#include "sqlite/founding_rules.h"
#include "sqlite/newest_record.h"
#include "sqlite/stream_message.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using coord::HeldDatabase;

struct FoundArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{}, node{};
  bool empty = false;
  bool yes = false;
};

template <typename T, typename Start>
T await_answer(Client& client, const FoundArguments& options, const std::string& what,
               Start start) {
  const auto limit = options.common.timeout + std::chrono::milliseconds(500);
  auto answer = nats::await<T>(client.loop(), limit, start);
  if (!answer) throw CommandError(exit_for(answer.error()), what + ": " + answer.error().what());
  return std::move(answer.value());
}

[[noreturn]] void refuse_begun(const std::string& stream) {
  throw CommandError(Exit::failed, "stream " + stream +
                                       " is not empty: the history of this app has begun, and "
                                       "there is nothing to decide");
}

// Only an empty stream waits for somebody who begins it.
void check_empty(Client& client, const FoundArguments& options, const std::string& stream) {
  std::unique_ptr<sqlite::NewestRecord> reader;
  const auto newest = await_answer<sqlite::NewestRecord::Found>(
      client, options, "stream " + stream, [&](auto done) {
        reader = std::make_unique<sqlite::NewestRecord>(client.jetstream(), stream, 1, done);
      });
  if (newest.record ? sqlite::has_transactions(*newest.record) : newest.gone > 0)
    refuse_begun(stream);
}

const HeldDatabase* held_by(const SeenMember& member, const std::string& app) {
  if (!member.record || !member.record->facts) return nullptr;
  const auto& databases = member.record->facts->databases;
  const auto found = databases.find(app);
  return found == databases.end() ? nullptr : &found->second;
}

// The member that is to begin; refuses one that has nothing to begin with.
const SeenMember& founder(const Snapshot& seen, const FoundArguments& options) {
  const SeenMember& member = member_or_fail(seen, options.node);
  const HeldDatabase* held = held_by(member, options.app);
  if (held == nullptr)
    throw CommandError(Exit::failed, "node " + options.node + " does not say what it has of app " +
                                         options.app +
                                         ": it does not run it, or its version is too old");
  if (held->what == HeldDatabase::What::database || held->what == HeldDatabase::What::copy)
    return member;
  throw CommandError(
      Exit::failed,
      "node " + options.node + " has " + harmless(sqlite::text_of(*held)) +
          (held->what == HeldDatabase::What::nothing
               ? ": --empty lets the app begin without a database"
           : held->what == HeldDatabase::What::unusable ? ": mend it, or choose another node"
                                                        : ": try again when it has looked"));
}

std::string holdings_text(const Snapshot& seen, const std::string& app) {
  std::string text;
  for (const auto& member : seen.members)
    if (const HeldDatabase* held = held_by(member, app))
      text += "  " + member.node + (member.record->live() ? "" : " (down)") + ": " +
              harmless(sqlite::text_of(*held)) + "\n";
  return text;
}

Exit found(const FoundArguments& options) {
  if (options.node.empty() != options.empty)
    throw CommandError(Exit::usage, "name a node with --node, or say --empty");
  if (!options.yes && isatty(STDIN_FILENO) != 1)
    throw CommandError(Exit::usage, "this decides with which data the app begins: say --yes");
  Client client(options.common);
  check_app(client, options.app);
  const std::string stream = sqlite::wal_stream(client.platform(), options.app);
  check_empty(client, options, stream);
  const Snapshot seen = client.read();
  const SeenLease* lease = find_lease(seen, options.app);
  if (const auto leader = lease != nullptr && lease->record ? leader_of(seen, *lease) : "";
      !leader.empty())
    throw CommandError(Exit::failed, "node " + leader + " leads app " + options.app +
                                         ", and begins its history with what it writes first");
  const bool down = !options.empty && !founder(seen, options).record->live();
  const std::string decision =
      options.empty ? "app " + options.app + " begins without a database; what nodes hold is kept"
                    : "app " + options.app + " begins with the database of node " + options.node;
  const std::string holdings = holdings_text(seen, options.app);
  if (!options.yes && !confirmed(holdings + decision + ". Is that right?")) {
    complain("nothing was decided");
    return Exit::failed;
  }
  await_answer<bool>(client, options, "stream " + stream, [&](Callback<bool> done) {
    client.jetstream().set_metadata(stream, sqlite::kFounderKey,
                                    to_text(sqlite::FounderChoice{options.node}),
                                    [done = std::move(done)](const Failure& failure) {
                                      failure ? done(*failure) : done(true);
                                    });
  });
  client.audit("database", options.app, "founder_chosen",
               {{"node", options.empty ? "none" : options.node}});
  if (options.output.json) {
    Json json{{"v", 1}, {"app", options.app}, {"founder", nullptr}, {"live", !down}};
    if (!options.empty) json["founder"] = options.node;
    print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    print(decision + (down ? ". It is down: start it" : "") + "\n");
  }
  return Exit::ok;
}

}  // namespace

void add_found(CLI::App& db, Chosen& chosen) {
  CLI::App& app = *db.add_subcommand("found", "Decide with which database an app's history begins");
  const auto options = std::make_shared<FoundArguments>();
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  add_output_flag(app, options->output);
  app.add_option("APP", options->app, "The app")->required();
  app.add_option("--node", options->node, "It begins with what this node has")->type_name("NODE");
  app.add_flag("--empty", options->empty, "It begins without a database");
  app.add_flag("--yes", options->yes, "Don't ask");
  app.footer(
      "Only while the app's stream is empty, and nobody leads: nodes then hold different "
      "databases,\n"
      "or one that can't be taken, or the node that has the most is gone for good. What each node\n"
      "holds is shown first, and cpp-cluster db status says what each waits for. No file is "
      "deleted:\n"
      "nodes keep what they hold (docs/replication.md, \"Who founds\").\n"
      "It asks on a terminal; elsewhere --yes is needed. The audit log says who has decided.\n"
      "Exit status: 0 decided, 1 the stream is not empty, the node has no database or it was not\n"
      "confirmed, 2 --yes is missing, 3 NATS unreachable, 4 no such app or node.\n\n"
      "Examples:\n"
      "  cpp-cluster db found database --node node-2\n"
      "  cpp-cluster db found database --empty --yes");
  on_chosen(app, chosen, log::Level::error, [options] { return found(*options); });
}

}  // namespace cluster::cli
