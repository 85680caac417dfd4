// cpp-cluster stepdown: moves the lead of an app away from who has it, and tells how that went.
#include <map>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "core/duration.h"
#include "core/json_fields.h"
#include "core/names.h"
#include "platform/lead_messages.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr milliseconds kAskLead{1'000};
constexpr milliseconds kLook{50};
// The node answers at its own limit: a little later its words are here.
constexpr milliseconds kAnswerPatience{2'000};
constexpr int kSilent = 3;  // answers that did not come, in a row

struct StepdownArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{};
  std::string target{};
  milliseconds timeout{600'000};
  bool force = false;
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

/// One command: asks the leader, and follows the lease and whoever holds it.
class Stepdown {
 public:
  Stepdown(Client& client, const StepdownArguments& options, std::string leader,
           std::uint64_t epoch)
      : client_(client),
        options_(options),
        from_(std::move(leader)),
        epoch_(epoch),
        lease_(client, options.app, [this](const coord::LeaseRecord& record) { seen(record); }) {}

  Exit run() {
    ask();
    if (!options_.no_wait) wait();
    const Exit exit = judge();
    client_.audit("transition", options_.app, "step_down_ended",
                  {{"from", from_},
                   {"leader", active_ ? now_.holder : ""},
                   {"epoch", std::to_string(epoch_)},
                   {"left", left_.is_object() ? text_of(left_) : ""}},
                  exit == Exit::ok ? "info" : "warn");
    return exit;
  }

 private:
  void seen(const coord::LeaseRecord& record) {
    // It is given back, or on to somebody else: who had it could not lead.
    if (now_.held && now_.epoch > epoch_ && (record.epoch > now_.epoch || !record.held))
      failed_.try_emplace(now_.holder, "");
    now_ = record;
  }
  bool moved_on() const { return now_.epoch > epoch_ && now_.held; }
  milliseconds time_left() const {
    const auto left =
        options_.timeout - std::chrono::duration_cast<milliseconds>(steady_clock::now() - begun_);
    return std::max(left, milliseconds(0));
  }

  std::optional<LeadState> lead_of(const std::string& node) {
    try {
      auto state = lead_state_from(
          client_.request(node, "lead", to_text(LeadQuery{.app = options_.app}), kAskLead));
      if (state) return std::move(state.value());
    } catch (const CommandError&) {  // it may have just gone: the lease tells
    }
    return std::nullopt;
  }

  void ask() {
    const Json body{{"v", 1},
                    {"app", options_.app},
                    {"target", options_.target},
                    {"force", options_.force},
                    {"timeout_ms", options_.timeout.count()}};
    int silent = 0;
    const auto meanwhile = [&] {
      const auto state = lead_of(from_);
      silent = state ? 0 : silent + 1;
      if (state && state->hand_over) show(*state->hand_over);
      // Who has died answers no more.
      return silent < kSilent || !moved_on();
    };
    std::optional<std::string> text;
    try {
      text = client_.request(from_, "stepdown", body.dump(), options_.timeout + kAnswerPatience,
                             meanwhile);
    } catch (const CommandError& error) {
      refused(error);
    }
    answered_ = steady_clock::now();
    const Json answer = Json::parse(text.value_or(""), nullptr, false);
    if (!answer.is_object()) return;
    if (const auto epoch = number_in(answer, "epoch"); epoch > 0) epoch_ = epoch;
    stopped_ = milliseconds(number_in(answer, "stopped_ms"));
    if (answer.contains("left")) left_ = answer["left"];
  }

  [[noreturn]] void refused(const CommandError& error) {
    progress_.reset();
    std::string text = error.what();
    client_.audit("transition", options_.app, "step_down_ended",
                  {{"from", from_}, {"epoch", std::to_string(epoch_)}, {"why", text}});
    const bool may_be_forced = error.exit() == Exit::not_replicated || error.exit() == Exit::failed;
    if (may_be_forced && !options_.force)
      text +=
          ". With --force it is handed over all the same: what JetStream does not have then is "
          "quarantined on " +
          from_;
    throw CommandError(error.exit(), text);
  }

  void show(const HandOverProgress& progress) {
    std::string text = options_.app + ": " + progress.stage;
    if (!progress.next.empty()) text += ", for " + progress.next;
    if (progress.transactions > 0)
      text += ", " + std::to_string(progress.transactions) + " transactions, " +
              size_text(progress.bytes) + " left";
    progress_->show(text, 0, 0);
  }

  // Until the app is active where the lease is.
  void wait() {
    while (!active_) {
      if (moved_on()) {
        const auto state = lead_of(now_.holder);
        known_ = state ? state->phase : "silent";
        active_ = state && state->phase == "active" && state->epoch == now_.epoch;
        progress_->show(options_.app + ": " + now_.holder + " is " + known_, 0, 0);
      }
      ask_failed();
      if (active_ || time_left() == milliseconds(0)) break;
      client_.pause(std::min(kLook, time_left()));
    }
    without_leader_ = std::chrono::duration_cast<milliseconds>(steady_clock::now() - answered_);
    if (stopped_) *without_leader_ += *stopped_;
    if (!stopped_ || !active_) without_leader_.reset();
  }

  void ask_failed() {
    for (auto& [node, why] : failed_) {
      if (!why.empty()) continue;
      const auto state = lead_of(node);
      why = state && !state->last_error.empty() ? state->last_error : "it does not say why";
    }
  }

  std::string failures() const {
    std::string text;
    for (const auto& [node, why] : failed_)
      text += (text.empty() ? "" : "; ") + node + " could not lead: " + why;
    return text;
  }

  Exit judge() {
    progress_.reset();
    if (options_.output.json) print(json().dump(2) + "\n");
    const std::string app = options_.app + ": ";
    const std::string down =
        app + from_ + " has stepped down (epoch " + std::to_string(epoch_) + ")";
    if (left_.is_object())
      complain(app + std::to_string(number_in(left_, "transactions")) + " transactions (" +
               std::to_string(number_in(left_, "first")) + " to " +
               std::to_string(number_in(left_, "last")) + ", about " +
               size_text(number_in(left_, "bytes")) + ") were left on " + from_ +
               " and are not in JetStream: " + text_in(left_, "why"));
    if (options_.no_wait) {
      if (!options_.output.json) print(down + "\n");
      return Exit::ok;
    }
    if (!active_) {
      std::string text =
          down + ", and within " + format_duration(options_.timeout) +
          (moved_on() ? " " + now_.holder + ", which has the lease (epoch " +
                            std::to_string(now_.epoch) + "), has not become active: it is " + known_
                      : " nobody has taken the lease");
      if (!failed_.empty()) text += "; " + failures();
      complain(text);
      return Exit::unhealthy;
    }
    const bool as_asked =
        now_.holder != from_ && (options_.target.empty() || now_.holder == options_.target);
    std::string text = now_.holder + (now_.holder == from_ ? " leads again" : " leads now") +
                       " (epoch " + std::to_string(now_.epoch) + ")";
    if (without_leader_)
      text += ", after " + std::to_string(without_leader_->count()) + " ms without a leader";
    if (!failed_.empty()) text += "; " + failures();
    if (!as_asked) {
      complain(down + ", and " + text);
      return Exit::unhealthy;
    }
    if (!options_.output.json) print(down + "; " + text + "\n");
    return Exit::ok;
  }

  Json json() const {
    Json out{{"v", 1},
             {"app", options_.app},
             {"from", from_},
             {"epoch", epoch_},
             {"leader", nullptr},
             {"leader_epoch", nullptr},
             {"without_leader_ms", nullptr},
             {"left", left_},
             {"failed", Json::array()}};
    if (active_) {
      out["leader"] = now_.holder;
      out["leader_epoch"] = now_.epoch;
    }
    if (without_leader_) out["without_leader_ms"] = without_leader_->count();
    for (const auto& [node, why] : failed_) out["failed"].push_back({{"node", node}, {"why", why}});
    return out;
  }

  Client& client_;
  const StepdownArguments& options_;
  const std::string from_;
  std::uint64_t epoch_;
  const steady_clock::time_point begun_ = steady_clock::now();
  steady_clock::time_point answered_{};
  std::optional<milliseconds> stopped_, without_leader_;
  Json left_;
  coord::LeaseRecord now_{};
  bool active_ = false;
  std::string known_{};                        // of who holds the lease
  std::map<std::string, std::string> failed_;  // by node: why
  std::optional<ProgressLine> progress_{std::in_place};
  Client::LeaseFollower lease_;
};

Exit step_down(const StepdownArguments& options) {
  Client client(options.common);
  const Snapshot snapshot = client.read();
  const SeenLease& lease = lease_or_fail(snapshot, options.app);
  const std::string leader = leader_of(snapshot, lease);
  if (leader.empty())
    throw CommandError(Exit::unhealthy, "nobody leads " + options.app + " at the moment");
  if (!options.target.empty()) check_target(snapshot, options.target);
  const std::uint64_t epoch = lease.record->epoch;
  if (leader == options.target) {
    print(options.app + ": " + leader + " leads already (epoch " + std::to_string(epoch) + ")\n");
    return Exit::ok;
  }
  client.audit("transition", options.app, "step_down_asked",
               {{"from", leader},
                {"target", options.target},
                {"epoch", std::to_string(epoch)},
                {"force", options.force ? "true" : "false"}},
               "info");
  return Stepdown(client, options, leader, epoch).run();
}

}  // namespace

void add_stepdown(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("stepdown", "Move the lead of an app to another node");
  const auto options = std::make_shared<StepdownArguments>();
  app.add_option("APP", options->app, "The app")->required();
  app.add_option("--to", options->target, "The node that is to lead next")->type_name("NODE");
  app.add_flag("--force", options->force,
               "Also when no node is ready, or what was committed can't be sent");
  add_connection_flags(app, options->common);
  add_duration_flag(app, "--timeout", options->timeout, "Give up after this");
  app.add_flag("--no-wait", options->no_wait, "Do not wait until another node leads");
  add_output_flag(app, options->output);
  app.footer(
      "The leader looks for a node that is ready, sends what was committed to the database, stops\n"
      "the app in order and releases its lease; then another node takes it and starts the app.\n"
      "Exit status: 0 another leads and the app is active there, 1 refused: no node is ready, 4 "
      "no\n"
      "such app or node, 5 nobody leads it, or not the node that was to, 6 no answer in time, or\n"
      "refused: not done in time, 8 refused: what was committed can't be sent. After a refusal "
      "the\napp goes on where it is.\n\n"
      "Examples:\n"
      "  cpp-cluster stepdown database\n"
      "  cpp-cluster stepdown database --to node-2");
  app.callback([options, &chosen] { chosen = [options] { return step_down(*options); }; });
}

}  // namespace cluster::cli
