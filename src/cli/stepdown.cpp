// cpp-cluster stepdown: moves the lead of an app away from who has it.
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "core/names.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;

struct StepdownArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{};
  std::string target{};
  milliseconds timeout{60'000};
  bool no_wait = false;
};

const SeenLease& lease_or_fail(const Snapshot& snapshot, const std::string& app) {
  if (const SeenLease* lease = find_lease(snapshot, app)) {
    if (!lease->record) throw CommandError(Exit::failed, "app " + app + ": " + lease->problem);
    return *lease;
  }
  std::vector<std::string> names;
  for (const auto& lease : snapshot.leases) names.push_back(lease.app);
  const std::string near = nearest_name(app, names);
  throw CommandError(
      Exit::not_found,
      "platform " + snapshot.platform + " has no singleton app \"" + app + "\"" +
          (near.empty() ? "; see cpp-cluster status" : "; did you mean \"" + near + "\"?"));
}

void check_target(const Snapshot& snapshot, const std::string& target) {
  const SeenMember* member = find_member(snapshot, target);
  if (member == nullptr)
    throw CommandError(Exit::not_found, "--to: there is no node \"" + target + "\"");
  if (!member->record || !member->record->live())
    throw CommandError(Exit::not_found, "--to: node \"" + target + "\" is not live");
}

Exit step_down(const StepdownArguments& options) {
  Client client(options.common);
  const Snapshot snapshot = client.read();
  const SeenLease& lease = lease_or_fail(snapshot, options.app);
  const std::string leader = leader_of(snapshot, lease);
  if (leader.empty())
    throw CommandError(Exit::unhealthy, "nobody leads " + options.app + " at the moment");
  if (!options.target.empty()) check_target(snapshot, options.target);

  const auto started = std::chrono::steady_clock::now();
  const nlohmann::json body{{"v", 1},
                            {"app", options.app},
                            {"target", options.target},
                            {"timeout_ms", options.timeout.count()}};
  // A little longer than the node's own limit, so that its words arrive.
  const std::string text =
      client.request(leader, "stepdown", body.dump(), options.timeout + milliseconds(2'000));
  const auto answer = nlohmann::json::parse(text, nullptr, false);
  std::uint64_t epoch = lease.record->epoch;
  if (answer.is_object() && answer.contains("epoch") && answer["epoch"].is_number_unsigned())
    epoch = answer["epoch"].get<std::uint64_t>();

  client.audit("transition", options.app, "step_down_asked",
               {{"from", leader}, {"target", options.target}, {"epoch", std::to_string(epoch)}},
               "info");
  std::string next;
  if (!options.no_wait) {
    const auto spent =
        std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - started);
    next = client.wait_for_leader(options.app, epoch,
                                  std::max(options.timeout - spent, milliseconds(1'000)));
  }
  if (options.output.json) {
    nlohmann::json out{{"v", 1}, {"app", options.app}, {"from", leader}, {"epoch", epoch}};
    out["leader"] = next.empty() ? nlohmann::json() : nlohmann::json(next);
    print(out.dump(2) + "\n");
  } else {
    print(options.app + ": " + leader + " has stepped down (epoch " + std::to_string(epoch) + ")" +
          (next.empty() ? "" : "; " + next + " leads now") + "\n");
  }
  if (options.no_wait || !next.empty()) return Exit::ok;
  complain(options.app + ": nobody has taken the lead yet");
  return Exit::unhealthy;
}

}  // namespace

void add_stepdown(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("stepdown", "Move the lead of an app to another node");
  const auto options = std::make_shared<StepdownArguments>();
  app.add_option("APP", options->app, "The app")->required();
  app.add_option("--to", options->target, "The node that is to lead next")->type_name("NODE");
  add_connection_flags(app, options->common);
  add_duration_flag(app, "--timeout", options->timeout, "Give up after this");
  app.add_flag("--no-wait", options->no_wait, "Do not wait until another node leads");
  add_output_flag(app, options->output);
  app.footer(
      "The leader stops the app in order and releases its lease; then another node takes it.\n"
      "Exit status: 0 another leads, 4 no such app or node, 5 nobody leads it, 6 no answer in "
      "time.\n\n"
      "Examples:\n"
      "  cpp-cluster stepdown database\n"
      "  cpp-cluster stepdown database --to node-2");
  app.callback([options, &chosen] { chosen = [options] { return step_down(*options); }; });
}

}  // namespace cluster::cli
