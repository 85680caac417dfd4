// cpp-cluster nats: what a nats-server's configuration needs for a platform.
#include <memory>
#include <set>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/nats_permissions.h"
#include "core/names.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;

struct NatsArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::vector<std::string> apps{};
  std::string user{};
  bool for_operator = false;
  bool no_create = false;
};

std::string platform_of(const NatsArguments& options) {
  const std::string name = load_config(options.common.request(true)).platform.name;
  if (name.empty())
    throw CommandError(Exit::usage, "which platform? Name it with --platform or PLATFORM");
  if (const auto fault = platform_name_fault(name); !fault.empty())
    throw CommandError(Exit::usage, "--platform: \"" + name + "\": " + fault);
  return name;
}

std::vector<NatsUser> users_of(const NatsArguments& options, const std::string& platform) {
  if (options.apps.empty() && !options.for_operator)
    throw CommandError(Exit::usage, "for whom? Give --app, --operator or both");
  if (!options.user.empty() && options.apps.size() > 1)
    throw CommandError(Exit::usage, "--user names one user, and each --app has one of its own");
  if (const auto fault = user_name_fault(options.user); !options.user.empty() && !fault.empty())
    throw CommandError(Exit::usage, "--user: \"" + options.user + "\": " + fault);
  const auto streams = options.no_create ? Streams::made_before : Streams::made_by_user;
  std::vector<NatsUser> users;
  for (const auto& app : options.apps) {
    if (const auto fault = app_name_fault(app); !fault.empty())
      throw CommandError(Exit::usage, "--app: \"" + app + "\": " + fault);
    users.push_back(confined_user(
        platform, app, options.user.empty() ? platform + "-" + app : options.user, streams));
  }
  if (options.for_operator)
    users.push_back(operator_user(platform, options.user.empty() || !options.apps.empty()
                                                ? platform + "-operator"
                                                : options.user));
  std::set<std::string> names;
  for (const auto& user : users)
    if (!names.insert(user.name).second)
      throw CommandError(Exit::usage, "there would be two users \"" + user.name + "\"");
  return users;
}

Json subjects_of(const std::vector<Grant>& grants) {
  Json all = Json::array();
  for (const auto& grant : grants)
    for (const auto& subject : grant.subjects) all.push_back(subject);
  return all;
}

std::string json_of(const std::vector<NatsUser>& users) {
  Json all = Json::array();
  for (const auto& user : users)
    all.push_back({{"user", user.name},
                   {"app", user.app.empty() ? Json() : Json(user.app)},
                   {"password_variable", password_variable(user.name)},
                   {"publish", subjects_of(user.publish)},
                   {"subscribe", subjects_of(user.subscribe)}});
  return Json{{"v", 1}, {"users", std::move(all)}}.dump(2) + "\n";
}

Exit permissions(const NatsArguments& options) {
  const std::string platform = platform_of(options);
  const auto users = users_of(options, platform);
  print(options.output.json ? json_of(users) : authorization_block(platform, users));
  return Exit::ok;
}

}  // namespace

void add_nats(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("nats", "What nats-server's configuration needs");
  group.require_subcommand(1);
  group.footer(
      "Example:\n"
      "  cpp-cluster nats permissions --platform shop --app notes --operator > shop.conf");
  const auto options = std::make_shared<NatsArguments>();

  CLI::App& app = *group.add_subcommand("permissions", "Users that may no more than they need");
  app.add_option("-c,--config", options->common.config, "Configuration file")->type_name("FILE");
  app.add_option_function<std::string>(
         "--platform",
         [options](const std::string& name) {
           options->common.overrides.push_back({"platform", name, "--platform"});
         },
         "The platform")
      ->type_name("NAME");
  app.add_option("--app", options->apps, "A user confined to this app; may be repeated")
      ->type_name("APP")
      ->expected(1)
      ->take_all();
  app.add_flag("--operator", options->for_operator, "A user who may everything of the platform");
  app.add_option("--user", options->user,
                 "Its name; else PLATFORM-APP. Alone with --operator, the operator's")
      ->type_name("NAME");
  app.add_flag("--no-create", options->no_create,
               "Confined users may make no streams: they must be there before");
  add_output_flag(app, options->output);
  app.footer(
      "Prints an authorization block for nats-server, to be included in its configuration; asks\n"
      "no server. Passwords are variables: PLATFORM-APP's is $PLATFORM_APP_PASSWORD.\n"
      "Exit status: 0 printed, 2 no such name can be.\n\n"
      "Examples:\n"
      "  cpp-cluster nats permissions --platform shop --app notes --app bank --operator > "
      "shop.conf\n"
      "  cpp-cluster nats permissions --platform shop --operator --user admin\n"
      "  cpp-cluster nats permissions --platform shop --app notes --no-create --output json");
  app.callback([options, &chosen] { chosen = [options] { return permissions(*options); }; });
}

}  // namespace cluster::cli
