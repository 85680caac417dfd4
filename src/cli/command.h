// What the commands share: exit codes, flags, output for people and for programs. Each command
// group has a file of its own with one add_… function.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/config.h"
#include "cluster/error.h"

namespace CLI {
class App;
}

namespace cluster::cli {

/// What the program's exit status says; `cpp-cluster --help` lists them.
enum class Exit {
  ok = 0,
  failed = 1,       ///< something else; the message says what
  usage = 2,        ///< flags or configuration are wrong
  unreachable = 3,  ///< no NATS server, or no JetStream, could be reached
  not_found = 4,    ///< no such platform, node or app
  unhealthy = 5,    ///< not healthy, or no leader
  timeout = 6,      ///< no answer in time
  name_taken = 7,   ///< run: another process uses this node's name
  /// stepdown: refused, what was committed to the database can't be sent; run: it was not sent
  not_replicated = 8,
};

/// Ends a command with this exit status and this message.
class CommandError : public std::exception {
 public:
  CommandError(Exit code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  Exit exit() const noexcept { return code_; }

 private:
  Exit code_;
  std::string message_;
};

Exit exit_for(const Error& error);

/// The command that the arguments have chosen; run after they have all been read.
using Chosen = std::function<Exit()>;

/// Has the arguments choose `run` when they name `app`, with the log at `level`.
void on_chosen(CLI::App& app, Chosen& chosen, log::Level level, std::function<Exit()> run);

/// --config, --nats, --platform, credentials and TLS: what every command that talks to NATS takes.
struct CommonFlags {
  std::string config{};
  std::vector<Override> overrides{};
  std::chrono::milliseconds timeout{5'000};

  ConfigRequest request(bool client) const;
};
void add_connection_flags(CLI::App& app, CommonFlags& flags);
/// --timeout, for commands that only ask.
void add_timeout_flag(CLI::App& app, CommonFlags& flags, const std::string& what);
/// --node, --folder, --http, --label, --log-level, --set, …: what a node takes besides.
void add_node_flags(CLI::App& app, CommonFlags& flags);
/// A flag that takes a duration.
void add_duration_flag(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                       const std::string& help);

/// What --since and its like say: a duration, so long ago, or an RFC 3339 time in UTC. Throws
/// CommandError{usage}.
std::chrono::system_clock::time_point moment_of(const std::string& flag, const std::string& text);

struct OutputFlags {
  bool json = false;
  bool watch = false;
  std::chrono::milliseconds interval{2'000};
};
void add_output_flag(CLI::App& app, OutputFlags& flags);
void add_watch_flag(CLI::App& app, OutputFlags& flags);

/// Is standard output a terminal whose user has not asked for plain text (NO_COLOR)?
bool use_colour();
void print(const std::string& text);
/// A field of JSON: bytes under `name` as they are, or as `<name>_base64url` when they are no
/// UTF-8.
std::pair<std::string, std::string> json_bytes(const std::string& name, const std::string& bytes);
/// What an argument says; `-`: all of standard input.
std::string text_or_input(const std::string& argument);
/// Asks a person; only "y" and "yes" are a yes.
bool confirmed(const std::string& question);
/// To standard error, behind the program's name.
void complain(const std::string& text);

/// The whole tree of commands. `chosen` is set when it parses arguments.
std::unique_ptr<CLI::App> make_commands(Chosen& chosen);
/// Parses, runs, and reports errors; the program's main().
int run_program(int argc, char** argv);

void add_run(CLI::App& root, Chosen& chosen);
void add_dev(CLI::App& root, Chosen& chosen);
void add_status(CLI::App& root, Chosen& chosen);
void add_health(CLI::App& root, Chosen& chosen);
void add_stepdown(CLI::App& root, Chosen& chosen);
void add_snapshot(CLI::App& root, Chosen& chosen);
void add_db(CLI::App& root, Chosen& chosen);
/// Below `db`.
void add_quarantine(CLI::App& db, Chosen& chosen);
void add_found(CLI::App& db, Chosen& chosen);
void add_kv(CLI::App& root, Chosen& chosen);
void add_lock(CLI::App& root, Chosen& chosen);
void add_call(CLI::App& root, Chosen& chosen);
void add_event(CLI::App& root, Chosen& chosen);
void add_audit(CLI::App& root, Chosen& chosen);
void add_nats(CLI::App& root, Chosen& chosen);
void add_node(CLI::App& root, Chosen& chosen);
void add_config(CLI::App& root, Chosen& chosen);
void add_version(CLI::App& root, Chosen& chosen);
void add_completion(CLI::App& root, Chosen& chosen);

}  // namespace cluster::cli
