// cpp-cluster db quarantine: databases that nodes could not go on with, and keep beside their own:
// lists them, tells what is known of one, copies one out of there, deletes one.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/table.h"
#include "core/json_fields.h"
#include "core/log.h"
#include "core/number_text.h"
#include "core/unique_fd.h"
#include "sqlite/database_builder.h"
#include "sqlite/file.h"
#include "sqlite/hash_file.h"
#include "sqlite/quarantine.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kPiece = 512 * 1024;     // bytes that a node is asked for at once
constexpr std::uint64_t kSpare = 1024 * 1024;  // bytes, beside what a copy needs
constexpr const char* kFiles[] = {"", "-wal", "-journal"};

struct QuarantineArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{}, name{}, node{};
  std::string path{};
  bool yes = false;
};

/// What a node says of an app's databases in quarantine.
struct InQuarantine {
  std::string app{}, node{};
  Json answer{};          ///< an object, when there is no problem
  std::string problem{};  ///< why it did not say
  bool none = false;      ///< since it has none of that name
};

const Json& entries_of(const InQuarantine& of) {
  static const Json kNone = Json::array();
  return of.answer.is_object() && of.answer.contains("quarantined") &&
                 of.answer["quarantined"].is_array()
             ? of.answer["quarantined"]
             : kNone;
}

std::uint64_t bytes_of(const Json& one) {
  return number_in(one, "bytes") + number_in(one, "wal_bytes") + number_in(one, "journal_bytes");
}

std::string request_text(const std::string& op, const std::string& app, const std::string& name,
                         Json more = Json::object()) {
  more.update({{"v", 1}, {"op", op}, {"app", app}, {"name", name}});
  return text_of(more);
}

InQuarantine ask_node(Client& client, const QuarantineArguments& options, const std::string& app,
                      const std::string& node, const std::string& name) {
  InQuarantine of{.app = app, .node = node};
  try {
    of.answer = Json::parse(
        client.request(node, "quarantine", request_text("list", app, name), options.common.timeout),
        nullptr, false);
    if (!of.answer.is_object()) of.problem = "its answer is not understood";
  } catch (const CommandError& error) {
    of.none = error.exit() == Exit::not_found;
    of.problem = error.what();
  }
  return of;
}

// Live nodes that run the app.
std::vector<std::string> nodes_running(const Snapshot& seen, const std::string& app) {
  std::vector<std::string> nodes;
  for (const auto& member : seen.members)
    if (member.record && member.record->live() && member.record->facts &&
        std::ranges::count(member.record->facts->apps, app) > 0)
      nodes.push_back(member.node);
  return nodes;
}

std::vector<InQuarantine> ask_nodes_of(Client& client, const QuarantineArguments& options,
                                       const std::string& app, const std::string& name) {
  std::vector<std::string> nodes{options.node};
  if (options.node.empty()) nodes = nodes_running(client.read(), app);
  std::vector<InQuarantine> all;
  for (const auto& node : nodes) all.push_back(ask_node(client, options, app, node, name));
  return all;
}

// "11 to 13 (3)", "at least 3", "unknown": those that the history does not have.
std::string transactions_text(const Json& one) {
  if (text_in(one, "kind") != "diverged") return "";
  const auto first = number_in(one, "first"), last = number_in(one, "last");
  const auto count = number_in(one, "transactions");
  if (count == 0) return "unknown";
  std::string text =
      (text_in(one, "counted") == "at least" ? "at least " : "") + std::to_string(count);
  if (first > 0 && last >= first)
    text += " (" + std::to_string(first) + " to " + std::to_string(last) + ")";
  return text;
}

std::string epoch_text(const Json& one) {
  const auto epoch = number_in(one, "epoch");
  return epoch == 0 ? "" : std::to_string(epoch);
}

// ---- list

std::string quarantine_table(const std::vector<InQuarantine>& all) {
  Table table({"APP", "NODE", "NAME", "KIND", "TRANSACTIONS", "EPOCH", "SINCE", "SIZE"});
  std::string rest;
  for (const auto& of : all) {
    for (const auto& one : entries_of(of)) {
      const bool diverged = text_in(one, "kind") == "diverged";
      table.add({of.app,
                 of.node,
                 text_in(one, "name"),
                 {text_in(one, "kind"), diverged ? Colour::bad : Colour::none},
                 transactions_text(one),
                 epoch_text(one),
                 text_in(one, "since"),
                 size_text(bytes_of(one))});
    }
    if (!of.problem.empty()) rest += of.app + ": " + harmless(of.problem) + "\n";
    if (const auto more = number_in(of.answer, "left_off"); more > 0)
      rest += "and " + std::to_string(more) + " older ones of " + of.app + " on " + of.node + "\n";
  }
  return (table.empty() ? "no database is in quarantine\n" : table.text(use_colour())) + rest;
}

Exit list_quarantined(const QuarantineArguments& options) {
  Client client(options.common);
  if (!options.app.empty()) check_app(client, options.app);
  return client.show(options.output, [&] {
    auto apps = client.apps_with_databases();
    if (!options.app.empty()) apps = {options.app};
    std::vector<InQuarantine> all;
    for (const auto& app : apps)
      for (auto& of : ask_nodes_of(client, options, app, "")) all.push_back(std::move(of));
    if (!options.output.json) return quarantine_table(all);
    Json json{{"v", 1}, {"platform", client.platform()}, {"nodes", Json::array()}};
    for (const auto& of : all)
      json["nodes"].push_back({{"app", of.app},
                               {"node", of.node},
                               {"problem", of.problem},
                               {"left_off", number_in(of.answer, "left_off")},
                               {"quarantined", entries_of(of)}});
    return json.dump(options.output.watch ? -1 : 2, ' ', false, Json::error_handler_t::replace) +
           "\n";
  });
}

// ---- one of them

/// The one that is meant, and where it is.
struct Found {
  std::string node{}, host{};
  Json entry{};
  bool on_this_machine = false;
};

void check_name(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos)
    throw CommandError(Exit::usage, "\"" + harmless(name) +
                                        "\" is no name of a quarantined database: cpp-cluster db "
                                        "quarantine list shows them");
}

Found find_one(Client& client, const QuarantineArguments& options) {
  std::vector<Found> found;
  std::string silent, nodes;
  for (const auto& of : ask_nodes_of(client, options, options.app, options.name)) {
    for (const auto& one : entries_of(of)) {
      found.push_back({of.node, text_in(of.answer, "host"), one,
                       text_in(of.answer, "boot") == hex(sqlite::this_boot())});
      nodes += (nodes.empty() ? "" : ", ") + of.node;
    }
    if (!of.problem.empty() && !of.none) silent += "; " + of.problem;
  }
  if (found.size() > 1)
    throw CommandError(Exit::usage, "several nodes have a " + harmless(options.name) + " (" +
                                        nodes + "): name one with --node");
  if (found.empty() && !silent.empty())
    throw CommandError(Exit::timeout, "no node that answers has a quarantined database \"" +
                                          harmless(options.name) + "\" of " + options.app + silent);
  if (found.empty())
    throw CommandError(Exit::not_found, "there is no quarantined database \"" +
                                            harmless(options.name) + "\" of " + options.app +
                                            ": cpp-cluster db quarantine list " + options.app +
                                            " shows what there is");
  return std::move(found.front());
}

const char* meaning_of(const std::string& kind) {
  if (kind == "diverged")
    return "it has, or may have, transactions of a time when its node led, which the database does "
           "not have now. It is never deleted by itself";
  if (kind == "foreign")
    return "somebody had written to this copy while its node did not lead. The newest three are "
           "kept";
  if (kind == "damaged") return "it is no sound database any more. The newest three are kept";
  return "unknown";
}

std::string next_steps(const QuarantineArguments& options, const Found& found) {
  const std::string its = options.app + " " + harmless(options.name) + " --node " + found.node;
  const std::string kind = text_in(found.entry, "kind");
  std::string text = "  cpp-cluster db quarantine export " + its + " --to /var/tmp/old.db\n";
  if (kind == "diverged")
    text +=
        "  Compare that with the database of the node that leads, and bring back what is "
        "missing there (docs/replication.md, \"Recovery\").\n";
  else if (kind == "foreign")
    text +=
        "  Find out who writes to the copy of a standby, and have him write on the node that "
        "leads. Look whether what he wrote is wanted.\n";
  else
    text +=
        "  Look at the node's disk: dmesg, SMART. Nothing is to be brought back, unless the "
        "file says so.\n";
  return text + "  cpp-cluster db quarantine delete " + its + "\n";
}

Exit show_quarantined(const QuarantineArguments& options) {
  check_name(options.name);
  Client client(options.common);
  check_app(client, options.app);
  const Found found = find_one(client, options);
  if (options.output.json) {
    print(Json{{"v", 1},
               {"app", options.app},
               {"node", found.node},
               {"host", found.host},
               {"quarantined", found.entry}}
              .dump(2, ' ', false, Json::error_handler_t::replace) +
          "\n");
    return Exit::ok;
  }
  const Json& one = found.entry;
  const auto known = [](const std::string& text) { return text.empty() ? "unknown" : text; };
  const std::string kind = text_in(one, "kind");
  std::string out;
  const auto add = [&](const std::string& what, const std::string& text) {
    out += what + ":" + std::string(14 - what.size(), ' ') + harmless(text) + "\n";
  };
  add("file", text_in(one, "path"));
  add("node", found.node + " (host " + known(found.host) + ")");
  add("kind", kind + ": " + meaning_of(kind));
  if (kind == "diverged") add("transactions", transactions_text(one));
  add("epoch", known(epoch_text(one)));
  add("history", known(text_in(one, "history")));
  add("since", known(text_in(one, "since")));
  add("size", size_text(number_in(one, "bytes")) + ", with a WAL of " +
                  size_text(number_in(one, "wal_bytes")));
  add("why", known(text_in(one, "why")));
  print(out + "what to do:\n" + next_steps(options, found));
  return Exit::ok;
}

// ---- export

/// A folder beside the file that is to be, gone with this.
class ExportFolder {
 public:
  explicit ExportFolder(const std::string& beside) {
    path_ = (std::filesystem::absolute(beside).parent_path() / ".cpp-cluster-export-XXXXXX");
    if (::mkdtemp(path_.data()) == nullptr)
      throw CommandError(Exit::failed, "no folder can be made beside " + beside + ": " +
                                           std::generic_category().message(errno));
  }
  ~ExportFolder() {
    std::error_code none;
    std::filesystem::remove_all(path_, none);
  }
  ExportFolder(const ExportFolder&) = delete;
  ExportFolder& operator=(const ExportFolder&) = delete;
  std::string database() const { return path_ + "/database"; }

 private:
  std::string path_;
};

// Also what SQLite would take for the new file's own.
void check_nothing_there(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"})
    if (std::filesystem::exists(std::filesystem::symlink_status(path + suffix)))
      throw CommandError(Exit::usage, "there is a file " + path + suffix +
                                          " already: it is never replaced. Name another with --to");
}

// A WAL goes into the database's file, which may become that much longer.
void check_room(const std::string& path, const Json& one) {
  const std::string folder = std::filesystem::absolute(path).parent_path();
  struct statvfs disk{};
  if (::statvfs(folder.c_str(), &disk) != 0)
    throw CommandError(Exit::failed, folder + ": " + std::generic_category().message(errno));
  const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
  const std::uint64_t wanted = bytes_of(one) + number_in(one, "wal_bytes") + kSpare;
  if (wanted > free)
    throw CommandError(Exit::failed, "there is no room for it in " + folder + ": it needs " +
                                         size_text(wanted) + ", and " + size_text(free) +
                                         " are free");
}

// Piece by piece, so that it may be as large as it likes and from another machine.
void fetch_file(Client& client, const QuarantineArguments& options, const Found& found,
                const std::string& suffix, std::uint64_t size, const std::string& into,
                const std::function<void(std::uint64_t)>& progress) {
  const UniqueFd file(::open(into.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) throw sqlite::file_error("creation of", into);
  std::uint64_t done = 0;
  while (done < size) {
    const std::uint64_t wanted = std::min<std::uint64_t>(kPiece, size - done);
    const std::string bytes =
        client.request(found.node, "quarantine",
                       request_text("read", options.app, options.name,
                                    {{"suffix", suffix}, {"offset", done}, {"size", wanted}}),
                       options.common.timeout);
    if (bytes.empty() || bytes.size() > wanted)
      throw CommandError(Exit::failed, "node " + found.node + " has answered with " +
                                           std::to_string(bytes.size()) + " bytes instead of " +
                                           std::to_string(wanted) +
                                           ": the file may have changed meanwhile; try again");
    sqlite::write_all(file.get(), bytes, static_cast<std::int64_t>(done), into);
    done += bytes.size();
    progress(done);
  }
}

void fetch_all(Client& client, const QuarantineArguments& options, const Found& found,
               const std::string& into) {
  bool stop = false;
  const LoopSource interrupt = client.loop().on_signal(SIGINT, [&] { stop = true; });
  const LoopSource terminate = client.loop().on_signal(SIGTERM, [&] { stop = true; });
  ProgressLine line;
  std::uint64_t before = 0;
  const std::uint64_t sizes[] = {number_in(found.entry, "bytes"),
                                 number_in(found.entry, "wal_bytes"),
                                 number_in(found.entry, "journal_bytes")};
  for (std::size_t i = 0; i < std::size(kFiles); ++i) {
    if (i > 0 && sizes[i] == 0) continue;
    fetch_file(client, options, found, kFiles[i], sizes[i], into + kFiles[i],
               [&](std::uint64_t done) {
                 if (stop) throw CommandError(Exit::failed, "interrupted: nothing was exported");
                 line.show("exporting " + options.name, before + done, bytes_of(found.entry));
               });
    before += sizes[i];
  }
}

// A program may have it open still, under the name that it had.
void check_unchanged(Client& client, const QuarantineArguments& options, const Found& found) {
  QuarantineArguments there = options;
  there.node = found.node;
  const Json now = find_one(client, there).entry;
  for (const char* key : {"bytes", "wal_bytes", "journal_bytes", "changed_ns"})
    if (now.value(key, Json()) != found.entry.value(key, Json()))
      throw CommandError(Exit::failed, text_in(found.entry, "path") + " on " + found.node +
                                           " was written to meanwhile: a program has it open "
                                           "still. End that, and try again");
}

// Under its name only once it is whole, and never in the place of another.
void put_in_place(const std::string& from, const std::string& path, const Found& found) {
  const UniqueFd file(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || ::fchmod(file.get(), number_in(found.entry, "mode") & 0777) != 0)
    throw sqlite::file_error("mode of", from);
  // Another machine's users are not this one's.
  if (found.on_this_machine && ::geteuid() == 0 &&
      ::fchown(file.get(), static_cast<uid_t>(number_in(found.entry, "uid")),
               static_cast<gid_t>(number_in(found.entry, "gid"))) != 0)
    throw sqlite::file_error("owner of", from);
  if (::fsync(file.get()) != 0) throw sqlite::file_error("sync of", from);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0) {
    // A file system may not know that; links never replace anything.
    if (errno == EEXIST || ::link(from.c_str(), path.c_str()) != 0) {
      if (errno == EEXIST) check_nothing_there(path);
      throw sqlite::file_error("renaming to " + path + " of", from);
    }
  }
  sqlite::sync_folder_of(path);
}

Exit export_quarantined(const QuarantineArguments& options) {
  check_name(options.name);
  check_nothing_there(options.path);
  Client client(options.common);
  check_app(client, options.app);
  const Found found = find_one(client, options);
  check_room(options.path, found.entry);
  std::optional<std::string> complaint;
  {
    const ExportFolder folder(options.path);
    fetch_all(client, options, found, folder.database());
    check_unchanged(client, options, found);
    std::stop_source stop;
    client.work(
        [&] {
          sqlite::make_single_file(folder.database());
          complaint = sqlite::integrity_of(folder.database(), stop.get_token());
        },
        stop);
    check_nothing_there(options.path);
    put_in_place(folder.database(), options.path, found);
  }
  const std::string path = std::filesystem::absolute(options.path);
  const auto bytes = std::filesystem::file_size(options.path);
  client.audit("database", options.app, "quarantine_exported",
               {{"node", found.node}, {"kept", text_in(found.entry, "path")}, {"to", path}},
               "info");
  if (options.output.json) {
    print(Json{{"v", 1},
               {"app", options.app},
               {"node", found.node},
               {"path", path},
               {"bytes", bytes},
               {"complaint", complaint.value_or("")}}
              .dump(2, ' ', false, Json::error_handler_t::replace) +
          "\n");
    return Exit::ok;
  }
  if (complaint)
    complain("SQLite's integrity_check says: " + harmless(*complaint) +
             "; the file holds what the node has kept, all the same");
  print(options.path + ": " + options.name + " of " + options.app + " on " + found.node + ", " +
        size_text(bytes) + "\n");
  return Exit::ok;
}

// ---- delete

Exit delete_quarantined(const QuarantineArguments& options) {
  check_name(options.name);
  if (!options.yes && isatty(STDIN_FILENO) != 1)
    throw CommandError(Exit::usage, "it can't be brought back once it is deleted: say --yes");
  Client client(options.common);
  check_app(client, options.app);
  const Found found = find_one(client, options);
  const std::string kind = text_in(found.entry, "kind");
  const std::string held = transactions_text(found.entry);
  if (!options.yes &&
      !confirmed("Delete " + harmless(options.name) + " of " + options.app + " on " + found.node +
                 " for ever? It is " + kind +
                 (held.empty() ? "" : ", transactions that may be nowhere else: " + held) + ".")) {
    complain("nothing was deleted");
    return Exit::failed;
  }
  client.request(found.node, "quarantine", request_text("delete", options.app, options.name),
                 options.common.timeout);
  client.audit("database", options.app, "quarantine_deleted",
               {{"node", found.node},
                {"kept", text_in(found.entry, "path")},
                {"kind", kind},
                {"held", held.empty() ? "none" : held}});
  if (options.output.json)
    print(Json{{"v", 1}, {"app", options.app}, {"node", found.node}, {"removed", found.entry}}.dump(
              2, ' ', false, Json::error_handler_t::replace) +
          "\n");
  else
    print(options.app + ": deleted " + options.name + " on " + found.node + "\n");
  return Exit::ok;
}

CLI::App& add_one_of(CLI::App& group, const char* name, const char* help,
                     const std::shared_ptr<QuarantineArguments>& options, Chosen& chosen,
                     Exit (*run)(const QuarantineArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS, or on a node, after this");
  add_output_flag(app, options->output);
  on_chosen(app, chosen, log::Level::error, [options, run] { return run(*options); });
  return app;
}

void add_which(CLI::App& app, QuarantineArguments& options) {
  app.add_option("APP", options.app, "The app")->required();
  app.add_option("NAME", options.name, "Its name, as list shows it")->required();
  app.add_option("--node", options.node,
                 "The node that has it, where several have one of that name")
      ->type_name("NODE");
}

}  // namespace

void add_quarantine(CLI::App& db, Chosen& chosen) {
  CLI::App& group =
      *db.add_subcommand("quarantine", "Databases that nodes could not go on with, and keep");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster db quarantine list\n"
      "  cpp-cluster db quarantine show database app.db.diverged-3");
  const auto options = std::make_shared<QuarantineArguments>();

  CLI::App& all =
      add_one_of(group, "list", "List them, on all nodes", options, chosen, list_quarantined);
  all.add_option("APP", options->app, "The app; without it, all that have a database");
  all.add_option("--node", options->node, "Only this node's")->type_name("NODE");
  add_watch_flag(all, options->output);
  all.footer(
      "KIND: diverged: with transactions that the database does not have now, or may be; never\n"
      "deleted by itself. foreign: somebody had written to a standby's copy; damaged: no sound\n"
      "database. Of these the newest three are kept.\n"
      "TRANSACTIONS: how many the database does not have.\n"
      "Exit status: 0 listed, 3 NATS unreachable, 4 no such app.\n\n"
      "Examples:\n"
      "  cpp-cluster db quarantine list\n"
      "  cpp-cluster db quarantine list database --output json");

  CLI::App& look = add_one_of(group, "show", "Show all that is known of one, and what to do",
                              options, chosen, show_quarantined);
  add_which(look, *options);
  look.footer(
      "Exit status: 0 shown, 2 several nodes have one of that name, 4 there is none, 6 no "
      "answer.\n\n"
      "Examples:\n"
      "  cpp-cluster db quarantine show database app.db.diverged-3 --node node-1");

  CLI::App& out = add_one_of(group, "export", "Copy one to a file of this machine", options, chosen,
                             export_quarantined);
  add_which(out, *options);
  out.add_option("--to", options->path, "Where to; there must be no file yet")
      ->required()
      ->type_name("FILE");
  out.footer(
      "The file is one whole database, with what its WAL had, that any SQLite opens. It comes "
      "from\n"
      "the node over NATS, so this may run anywhere. What the node has is left as it is.\n"
      "Exit status: 0 exported, 1 no room, or it was written to meanwhile, 2 there is a file, 4 "
      "no\n"
      "such database, 6 no answer.\n\n"
      "Examples:\n"
      "  cpp-cluster db quarantine export database app.db.diverged-3 --to /var/tmp/old.db");

  CLI::App& gone =
      add_one_of(group, "delete", "Delete one, for ever", options, chosen, delete_quarantined);
  add_which(gone, *options);
  gone.add_flag("--yes", options->yes, "Don't ask");
  gone.footer(
      "It asks on a terminal; elsewhere --yes is needed. The audit log says who has done it.\n"
      "Exit status: 0 deleted, 1 not confirmed, 2 --yes is missing, 4 no such database, 6 no\n"
      "answer.\n\n"
      "Examples:\n"
      "  cpp-cluster db quarantine delete database app.db.diverged-3 --yes");
}

}  // namespace cluster::cli
