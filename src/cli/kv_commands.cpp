// cpp-cluster kv: an app's keys and values.
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/database_client.h"
#include "cli/following.h"
#include "cli/table.h"
#include "cluster/kv.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "data/kv_bucket.h"

namespace cluster::cli {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

struct KvArguments {
  CommonFlags common{};
  OutputFlags output{};
  std::string app{}, key{}, value{};
  bool create = false, purge = false, values = false;
  std::uint64_t revision = 0, from = 0;
  milliseconds ttl{0};
};

Json json_of(const KvEntry& entry) {
  Json json{{"key", entry.key},
            {"revision", entry.revision},
            {"time", time_text(wall_ms_from(entry.time))}};
  if (entry.ttl.count() > 0) json["ttl_ms"] = entry.ttl.count();
  if (entry.removed)
    json["removed"] = true;
  else
    json.emplace(json_bytes("value", entry.value));
  return json;
}

std::string document(const Json& json, bool compact = false) {
  return json.dump(compact ? -1 : 2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// The bucket of an app, while a command runs.
class Bucket {
 public:
  explicit Bucket(const KvArguments& options)
      : client_(options.common),
        timeout_(options.common.timeout),
        bucket_(std::make_shared<KvBucket>(
            client_.loop(), strands_, client_.jetstream().connection().exchange(),
            KvBucket::Options{client_.platform() + "_" + options.app,
                              {},
                              client_.platform() + "." + options.app + ".kv.expiry",
                              {}})) {
    bucket_->open(client_.jetstream(), client_.replicas());
  }
  ~Bucket() { bucket_->close(); }
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  void use(const std::function<void(Kv&, milliseconds timeout)>& task) {
    std::stop_source stop;
    client_.work(
        [&] {
          Kv kv(bucket_);
          task(kv, timeout_);
        },
        stop);
  }
  /// What was done, once it is.
  void audit(const KvArguments& options, const std::string& action, AuditFields fields) {
    fields.emplace_back("key", options.key);
    client_.audit("kv", options.app, action, std::move(fields), "info");
  }
  /// Until the user has had enough.
  void use_until_stopped(const std::function<void(Kv&, std::stop_token)>& task) {
    std::stop_source stop;
    client_.work(
        [&] {
          Kv kv(bucket_);
          task(kv, stop.get_token());
        },
        stop);
  }

 private:
  StrandPool strands_;
  Client client_;
  milliseconds timeout_;
  std::shared_ptr<KvBucket> bucket_;
};

Exit get(const KvArguments& options) {
  Bucket bucket(options);
  std::optional<KvEntry> entry;
  bucket.use([&](Kv& kv, milliseconds timeout) { entry = kv.get(options.key, timeout); });
  if (!entry)
    throw CommandError(Exit::not_found,
                       "app " + options.app + " has no key \"" + options.key + "\"");
  print(options.output.json ? document(json_of(*entry)) : entry->value + "\n");
  return Exit::ok;
}

Exit put(const KvArguments& options) {
  const std::string value = text_or_input(options.value);
  Bucket bucket(options);
  std::uint64_t revision = 0;
  bucket.use([&](Kv& kv, milliseconds timeout) {
    const KvWrite how{.ttl = options.ttl, .timeout = timeout};
    revision = options.create          ? kv.create(options.key, value, how)
               : options.revision != 0 ? kv.update(options.key, value, options.revision, how)
                                       : kv.put(options.key, value, how);
  });
  bucket.audit(options, "put", {{"revision", std::to_string(revision)}});
  print(options.output.json ? document({{"key", options.key}, {"revision", revision}})
                            : "revision " + std::to_string(revision) + "\n");
  return Exit::ok;
}

Exit remove(const KvArguments& options) {
  Bucket bucket(options);
  bucket.use([&](Kv& kv, milliseconds timeout) {
    if (options.purge)
      kv.purge(options.key, timeout);
    else if (options.revision != 0)
      kv.remove_revision(options.key, options.revision, timeout);
    else
      kv.remove(options.key, timeout);
  });
  bucket.audit(options, options.purge ? "purged" : "removed", {});
  return Exit::ok;
}

void show(const std::vector<KvEntry>& entries, bool as_json) {
  if (as_json) {
    Json all = Json::array();
    for (const auto& entry : entries) all.push_back(json_of(entry));
    return print(document({{"v", 1}, {"entries", std::move(all)}}));
  }
  Table table({"KEY", "REVISION", "TIME", "VALUE"});
  for (const auto& entry : entries)
    table.add({entry.key, std::to_string(entry.revision), time_text(wall_ms_from(entry.time)),
               entry.removed ? Cell("(removed)", Colour::dim) : Cell(entry.value)});
  print(table.text(use_colour()));
}

Exit list(const KvArguments& options) {
  Bucket bucket(options);
  if (!options.values && !options.output.json) {
    bucket.use([&](Kv& kv, milliseconds timeout) {
      for (const auto& key : kv.keys(options.key, 100'000, timeout)) print(harmless(key) + "\n");
    });
    return Exit::ok;
  }
  bucket.use([&](Kv& kv, milliseconds timeout) {
    show(kv.entries(options.key, 100'000, timeout), options.output.json);
  });
  return Exit::ok;
}

Exit history(const KvArguments& options) {
  Bucket bucket(options);
  bucket.use([&](Kv& kv, milliseconds timeout) {
    show(kv.history(options.key, timeout), options.output.json);
  });
  return Exit::ok;
}

Exit watch(const KvArguments& options) {
  Bucket bucket(options);
  KvWatchOptions how;
  if (options.from != 0) how.from_revision = options.from;
  bucket.use_until_stopped([&](Kv& kv, const std::stop_token& stop) {
    Following following;
    const auto told = kv.watch(
        options.key,
        [&](const KvEntry& entry) {
          following.take([&] {
            if (options.output.json) return print(document(json_of(entry), true));
            print(time_text(wall_ms_from(entry.time)) + "  " + std::to_string(entry.revision) +
                  "  " + harmless(entry.key) +
                  (entry.removed ? "  (removed)" : " = " + harmless(entry.value)) + "\n");
          });
        },
        how);
    following.wait(stop);
  });
  return Exit::ok;
}

CLI::App& add_one(CLI::App& group, const char* name, const char* help,
                  const std::shared_ptr<KvArguments>& options, Chosen& chosen,
                  Exit (*run)(const KvArguments&)) {
  CLI::App& app = *group.add_subcommand(name, help);
  app.add_option("APP", options->app, "The app")->required();
  add_connection_flags(app, options->common);
  add_timeout_flag(app, options->common, "Give up on NATS after this");
  add_output_flag(app, options->output);
  on_chosen(app, chosen, log::Level::error, [options, run] { return run(*options); });
  return app;
}

}  // namespace

void add_kv(CLI::App& root, Chosen& chosen) {
  CLI::App& group = *root.add_subcommand("kv", "An app's keys and values");
  group.require_subcommand(1);
  group.footer(
      "Examples:\n"
      "  cpp-cluster kv put shop currency EUR\n"
      "  cpp-cluster kv put shop session/4711 anna --ttl 30m\n"
      "  cpp-cluster kv watch shop user.");
  const auto options = std::make_shared<KvArguments>();

  CLI::App& one = add_one(group, "get", "Print a value", options, chosen, get);
  one.add_option("KEY", options->key, "The key")->required();
  one.footer(
      "Exit status: 0 printed, 4 there is no such key.\n\nExamples:\n  cpp-cluster kv get shop "
      "currency");

  CLI::App& store = add_one(group, "put", "Store a value", options, chosen, put);
  store.add_option("KEY", options->key, "The key")->required();
  store.add_option("VALUE", options->value, "The value; - reads it from standard input")
      ->required();
  CLI::Option* create = store.add_flag("--create", options->create, "Only if the key is not there");
  store.add_option("--revision", options->revision, "Only if its last write has this revision")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->excludes(create);
  add_duration_flag(store, "--ttl", options->ttl,
                    "Removed after this by the nodes that have the app; without it, it stays");
  store.footer(
      "Exit status: 0 stored, 1 another revision was there, 6 whether it was stored is unknown.\n\n"
      "Examples:\n"
      "  cpp-cluster kv put shop currency EUR\n"
      "  cpp-cluster kv put shop logo - < logo.png");

  CLI::App& gone = add_one(group, "del", "Remove a key", options, chosen, remove);
  gone.add_option("KEY", options->key, "The key")->required();
  CLI::Option* purge = gone.add_flag("--purge", options->purge, "And its history");
  gone.add_option("--revision", options->revision, "Only if its last write has this revision")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->excludes(purge);
  gone.footer("Examples:\n  cpp-cluster kv del shop currency");

  CLI::App& all = add_one(group, "ls", "List keys", options, chosen, list);
  all.add_option("PREFIX", options->key, "Those that begin with this");
  all.add_flag("--values", options->values, "With their values");
  all.footer("Examples:\n  cpp-cluster kv ls shop user.\n  cpp-cluster kv ls shop --values");

  CLI::App& follow = add_one(group, "watch", "Print writes as they come", options, chosen, watch);
  follow.add_option("PREFIX", options->key, "Of keys that begin with this");
  follow.add_option("--from", options->from, "Begin with this revision, as far as history has it")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  follow.footer(
      "First what is there, then each write, across reconnects; ends with Ctrl-C.\n\n"
      "Examples:\n  cpp-cluster kv watch shop user. --output json");

  CLI::App& old = add_one(group, "history", "List what is kept of a key", options, chosen, history);
  old.add_option("KEY", options->key, "The key")->required();
  old.footer("Examples:\n  cpp-cluster kv history shop currency");
}

}  // namespace cluster::cli
