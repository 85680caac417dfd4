#include "cli/config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "built.h"
#include "cli/settings.h"

namespace cluster::cli {
namespace {

using namespace std::chrono_literals;

class ConfigFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "config_test_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    file_ = folder_ + "/node.yaml";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Config load(const std::string& text) {
    std::ofstream(file_) << text;
    return load_config(request());
  }
  // The faults, each with the name of the file cut off.
  std::vector<std::string> faults(const std::string& text) {
    try {
      load(text);
    } catch (const ConfigError& error) {
      std::vector<std::string> lines = error.faults();
      for (auto& line : lines)
        if (line.rfind(file_ + ":", 0) == 0) line.erase(0, file_.size() + 1);
      return lines;
    }
    return {};
  }
  ConfigRequest request() {
    return {.file = file_,
            .places = {},
            .flags = flags_,
            .environment = [this](const std::string& name) -> std::optional<std::string> {
              const auto it = environment_.find(name);
              return it == environment_.end() ? std::nullopt : std::optional(it->second);
            },
            .client = client_};
  }

  std::string folder_;
  std::string file_;
  std::vector<Override> flags_;
  std::map<std::string, std::string> environment_;
  bool client_ = false;
};

using Lines = std::vector<std::string>;

constexpr const char* kEveryKey = R"(
platform: shop
node: node-1
nats:
  servers: ["nats://a:4222", "tls://b:4222"]
  user: me
  password: ${NATS_PASSWORD}
  tls: {ca: /ca.pem, cert: /c.pem, key: /k.pem, server_name: nats, skip_verification: true}
  embedded:
    folder: /var/lib/nats
    host: 0.0.0.0
    port: 5222
    server_name: one
    cluster_name: shop-nats
    cluster_host: 10.0.0.1
    cluster_port: 7222
    routes: ["nats://10.0.0.1:7222", "nats://10.0.0.2:7222"]
    sync: default
    binary: /opt/nats-server
  start_timeout: 2m
  replicas: 3
labels: {zone: a, tier: compute}
folder: /var/lib/shop
http: 0.0.0.0:9090
guardian: /opt/guardian
log: {level: debug, file: /var/log/shop.log}
timing:
  session_timeout: 1s
  lease_ttl: 20s
  stop_margin: 200ms
  drift: 0.05
  hook_timeout: 1m
  cooldown: 3s
apps:
  database:
    mode: singleton
    hook_timeout: 10s
    process:
      command: [/usr/bin/db, --port, "5432"]
      folder: /srv
      environment: {LEVEL: "3"}
      user: nobody
      log_file: /var/log/db.log
      ready: {tcp: "127.0.0.1:5432"}
      ready_timeout: 20s
      health_interval: 5s
      health_failures: 4
      stop_timeout: 8s
      restart: on_failure
      backoff_min: 100ms
      backoff_max: 5s
      max_restarts: 7
      restart_window: 2m
  cache:
    mode: spread
)";

TEST_F(ConfigFile, EveryKeyReachesItsOption) {
  environment_["NATS_PASSWORD"] = "s3cret";
  const Config c = load(kEveryKey);
  const PlatformOptions& p = c.platform;
  EXPECT_EQ(p.name, "shop");
  EXPECT_EQ(p.node, "node-1");
  EXPECT_EQ(p.nats.servers, (Lines{"nats://a:4222", "tls://b:4222"}));
  EXPECT_EQ(p.nats.user, "me");
  EXPECT_EQ(p.nats.password, "s3cret");
  EXPECT_TRUE(p.nats.tls.enabled);
  EXPECT_TRUE(p.nats.tls.skip_verification);
  EXPECT_EQ(p.nats.tls.ca_file, "/ca.pem");
  EXPECT_EQ(p.nats.tls.cert_file, "/c.pem");
  EXPECT_EQ(p.nats.tls.key_file, "/k.pem");
  EXPECT_EQ(p.nats.tls.server_name, "nats");
  ASSERT_EQ(p.nats.embedded.size(), 1u);
  const EmbeddedNats& e = p.nats.embedded[0];
  EXPECT_EQ(e.folder, "/var/lib/nats");
  EXPECT_EQ(e.host, "0.0.0.0");
  EXPECT_EQ(e.port, 5222);
  EXPECT_EQ(e.server_name, "one");
  EXPECT_EQ(e.cluster_name, "shop-nats");
  EXPECT_EQ(e.cluster_host, "10.0.0.1");
  EXPECT_EQ(e.cluster_port, 7222);
  EXPECT_EQ(e.routes, (Lines{"nats://10.0.0.1:7222", "nats://10.0.0.2:7222"}));
  EXPECT_FALSE(e.sync_always);
  EXPECT_EQ(e.binary, "/opt/nats-server");
  EXPECT_EQ(p.nats.start_timeout, 2min);
  EXPECT_EQ(p.nats.replicas, 3);
  EXPECT_EQ(p.labels, (Labels{{"zone", "a"}, {"tier", "compute"}}));
  EXPECT_EQ(p.folder, "/var/lib/shop");
  EXPECT_EQ(p.http, "0.0.0.0:9090");
  EXPECT_EQ(p.guardian, "/opt/guardian");
  EXPECT_EQ(c.log_level, log::Level::debug);
  EXPECT_EQ(c.log_file, "/var/log/shop.log");
  EXPECT_EQ(p.timing.session_timeout, 1s);
  EXPECT_EQ(p.timing.lease_ttl, 20s);
  EXPECT_EQ(p.timing.stop_margin, 200ms);
  EXPECT_EQ(p.timing.drift, 0.05);
  EXPECT_EQ(p.timing.hook_timeout, 1min);
  EXPECT_EQ(p.timing.cooldown, 3s);
  ASSERT_EQ(c.apps.size(), 2u);
  const AppOptions& db = c.apps[0];
  EXPECT_EQ(db.name, "database");
  EXPECT_TRUE(std::holds_alternative<Singleton>(db.mode));
  EXPECT_EQ(db.hook_timeout, 10s);
  const Process& process = std::get<Process>(db.backend);
  EXPECT_EQ(process.command, (Lines{"/usr/bin/db", "--port", "5432"}));
  EXPECT_EQ(process.folder, "/srv");
  EXPECT_EQ(process.environment, (std::map<std::string, std::string>{{"LEVEL", "3"}}));
  EXPECT_EQ(process.user, "nobody");
  EXPECT_EQ(process.log_file, "/var/log/db.log");
  EXPECT_EQ(std::get<ReadyTcp>(process.ready).host, "127.0.0.1");
  EXPECT_EQ(std::get<ReadyTcp>(process.ready).port, 5432);
  EXPECT_EQ(process.ready_timeout, 20s);
  EXPECT_EQ(process.health_interval, 5s);
  EXPECT_EQ(process.health_failures, 4);
  EXPECT_EQ(process.stop_timeout, 8s);
  EXPECT_EQ(process.restart, Restart::on_failure);
  EXPECT_EQ(process.backoff_min, 100ms);
  EXPECT_EQ(process.backoff_max, 5s);
  EXPECT_EQ(process.max_restarts, 7);
  EXPECT_EQ(process.restart_window, 2min);
  EXPECT_EQ(c.apps[1].name, "cache");
  EXPECT_TRUE(std::holds_alternative<Spread>(c.apps[1].mode));
  EXPECT_TRUE(std::holds_alternative<std::monostate>(c.apps[1].backend));
}

TEST_F(ConfigFile, WhatIsShownReadsBackToTheSame) {
  environment_["NATS_PASSWORD"] = "a${b}$c$${d";
  const std::string once = to_yaml(load(kEveryKey), false);
  const Config again = load(once);
  EXPECT_EQ(again.platform.nats.password, "a${b}$c$${d");
  EXPECT_EQ(to_yaml(again, false), once);
}

TEST_F(ConfigFile, WhatIsShownToPeopleHasNoSecret) {
  environment_["NATS_PASSWORD"] = "s3cret";
  std::string text = kEveryKey;
  text.replace(text.find("nats://a"), 8, "nats://u:s3cret@a");
  text.replace(text.find("LEVEL"), 5, "DB_PASSWORD: s3cret, LEVEL");
  const std::string shown = to_yaml(load(text), true);
  EXPECT_EQ(shown.find("s3cret"), std::string::npos) << shown;
  EXPECT_NE(shown.find("nats://***@a:4222"), std::string::npos) << shown;
}

TEST_F(ConfigFile, AnEmptyFileWithAPlatformFromOutsideIsEnough) {
  environment_["PLATFORM"] = "shop";
  const Config c = load("");
  EXPECT_EQ(c.platform.nats.servers, Lines{"nats://127.0.0.1:4222"});
  EXPECT_EQ(c.platform.http, "127.0.0.1:8080");
}

TEST_F(ConfigFile, AnEmbeddedServerNeedsNoOther) {
  const Config c = load("platform: shop\nnats: {embedded: {}}\n");
  EXPECT_EQ(c.platform.nats.servers, Lines{});
  ASSERT_EQ(c.platform.nats.embedded.size(), 1u);
  EXPECT_TRUE(c.platform.nats.embedded[0].sync_always);
}

TEST_F(ConfigFile, EachFaultIsNamedWithItsPlace) {
  const std::vector<std::pair<std::string, Lines>> cases{
      {"", {" platform: is missing: name the platform that this node belongs to"}},
      {"platfrom: a\n",
       {"1:1: platfrom: unknown key; did you mean \"platform\"?",
        " platform: is missing: name the "
        "platform that this node belongs to"}},
      {"platform: a\napps:\n  db:\n    process:\n      comand: x\n",
       {"5:7: apps.db.process.comand: unknown key; did you mean \"command\"?",
        "4:5: apps.db.process.command: it is empty: name the program to run"}},
      {"platform: a\nsession_timeout: 1s\n",
       {"2:1: session_timeout: unknown key; did you mean \"timing.session_timeout\"?"}},
      {"platform: a\nlog: {zzzzzzzz: 1}\n",
       {"2:7: log.zzzzzzzz: unknown key; known here are level, file"}},
      {"platform: a\ntiming: {lease_ttl: 500}\n",
       {"2:21: timing.lease_ttl: \"500\" has no unit: write 500ms, 500s, 500m or 500h"}},
      {"platform: a\ntiming: {lease_ttl: 5s}\n",
       {"2:10: timing.lease_ttl: 5s is less than ten times session_timeout (7s)"}},
      {"platform: A\n", {"1:1: platform: \"A\": it must begin with a letter from a to z"}},
      {"platform: a\nplatform: b\n", {"2:1: platform: is given twice"}},
      {"platform: [a]\n", {"1:11: platform: takes a single value, not a list or a map"}},
      {"platform:\n", {"1:1: platform: has no value"}},
      {"platform: a\nnats: x\n", {"2:7: nats: takes a map of further keys"}},
      {"platform: a\nnats: {url: 'nats://a:1', servers: ['nats://b:1']}\n",
       {"2:8: nats.url: servers is given too: keep one"}},
      {"platform: a\nnats: {url: 'a:1'}\n",
       {"2:8: nats.servers: \"a:1\" does not begin with nats:// or tls://: write one like "
        "nats://127.0.0.1:4222"}},
      {"platform: a\nnats: {creds: a, token: b}\n",
       {"2:1: nats: more than one way to log in is given (creds, token): keep one"}},
      {"platform: a\nnats: {tls: {cert: a}}\n",
       {"2:14: nats.tls.cert: a certificate without its key: give nats.tls.key too"}},
      {"platform: a\nnats: {replicas: three}\n",
       {"2:18: nats.replicas: \"three\" is no whole number"}},
      {"platform: a\nnats: {embedded: {sync: allways}}\n",
       {"2:25: nats.embedded.sync: \"allways\" is not one of always, default; did you mean "
        "\"always\"?"}},
      {"platform: a\nlabels: [a]\n", {"2:9: labels: takes a map: one \"name: value\" a line"}},
      {"platform: a\nlabels: {zone: [a]}\n",
       {"2:16: labels.zone: takes a single value, not a list or a map"}},
      {"platform: a\napps: {_x: {}}\n",
       {"2:8: apps._x: can't be an app's name: names that begin with '_' are the platform's own"}},
      {"platform: a\napps: {x: {}, x: {}}\n", {"2:15: apps.x: is given twice"}},
      {"platform: a\napps: {x: {mode: single}}\n",
       {"2:18: apps.x.mode: \"single\" is not one of singleton, spread"}},
      {"platform: a\napps: {x: {process: {command: 'a \"b'}}}\n",
       {"2:31: apps.x.process.command: a quote (\") is not closed"}},
      {"platform: a\napps: {x: {process: {command: a, ready: {tcp: 'a:1', delay: 1s}}}}\n",
       {"2:34: apps.x.process.ready: has more than one of tcp, http and delay: keep one"}},
      {"platform: a\napps: {x: {process: {command: a, ready: {tcp: '80'}}}}\n",
       {"2:47: apps.x.process.ready.tcp: \"80\" names no port: write host:port"}},
      {"platform: a\napps: {x: {process: {command: a, environment: {P: '${NOT_SET}'}}}}\n",
       {"2:51: apps.x.process.environment.P: the environment variable NOT_SET is not set"}},
      {"platform: ${no\n",
       {"1:11: platform: \"${no\" names no environment variable: write ${NAME}, or $${ for ${ "
        "itself"}},
      {"a: [\n", {"2:1: is no YAML: end of sequence flow not found"}},
      {"[]\n",
       {"1:1: must be a map of keys, such as \"platform: myapp\"",
        " platform: is missing: name the platform that this node belongs to"}},
      {"platform: a\n---\nplatform: b\n",
       {"2:1: the YAML document has ended before this: there may be one document only, and nothing "
        "after it"}},
      // On this yaml-cpp's LoadAll() never comes to an end.
      {"{platform: a}\n,\n",
       {"2:1: the YAML document has ended before this: there may be one document only, and nothing "
        "after it"}},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(faults(text), expected) << text;
  }
}

TEST_F(ConfigFile, AScrubCanBeSwitchedOff) {
  const auto app = [this](const std::string& interval) {
    const Config c =
        load("platform: a\napps: {x: {sqlite: {path: /a.db, scrub_interval: " + interval +
             ", scrub_rate: 1000000}}}\n");
    EXPECT_EQ(c.apps.front().sqlite.scrub_rate, 1'000'000U);
    const std::string shown = to_yaml(c, false);
    EXPECT_NE(shown.find("scrub_interval: " + interval), std::string::npos) << shown;
    return c.apps.front().sqlite;
  };
  EXPECT_EQ(app("off").scrub_interval, 0ms);
  EXPECT_EQ(app("24h").scrub_interval, 24h);
  EXPECT_EQ(
      faults("platform: a\napps: {x: {sqlite: {path: /a.db, scrub_interval: never}}}\n").size(),
      1U);
}

TEST_F(ConfigFile, AllFaultsComeAtOnce) {
  EXPECT_EQ(faults("platform: A\nnoode: x\nhttp: x\ntiming: {drift: 9, cooldown: 1}\n"
                   "apps: {x: {process: {}}}\n")
                .size(),
            6u);
}

TEST_F(ConfigFile, AFileThatIsNotThereIsNamed) {
  try {
    load_config({.file = folder_ + "/none.yaml", .environment = process_environment()});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("none.yaml: can't be read"), std::string::npos);
  }
}

TEST_F(ConfigFile, TheFirstPlaceThatIsThereIsRead) {
  std::ofstream(folder_ + "/b.yaml") << "platform: b\n";
  std::ofstream(folder_ + "/c.yaml") << "platform: c\n";
  ConfigRequest r = request();
  r.file.clear();
  r.places = {folder_ + "/a.yaml", folder_ + "/b.yaml", folder_ + "/c.yaml"};
  EXPECT_EQ(load_config(r).platform.name, "b");
  EXPECT_EQ(load_config(r).file, folder_ + "/b.yaml");
}

TEST_F(ConfigFile, FlagsBeatTheEnvironmentWhichBeatsTheFile) {
  const std::string text = "platform: file\nnode: file\nhttp: 'file:1'\n";
  environment_ = {{"CPP_CLUSTER_NODE", "environment"},
                  {"NODE_ID", "alias"},
                  {"CPP_CLUSTER_HTTP", "environment:1"},
                  {"CPP_CLUSTER_APP", "ignored"}};
  flags_ = {{"http", "flag:1", "--http"}};
  const Config c = load(text);
  EXPECT_EQ(c.platform.name, "file");
  EXPECT_EQ(c.platform.node, "environment");
  EXPECT_EQ(c.platform.http, "flag:1");
}

TEST_F(ConfigFile, ALoginFromAHigherLayerReplacesTheLowerOne) {
  flags_ = {{"nats.creds", "/me.creds", "--creds"}};
  const Config c = load("platform: a\nnats: {user: me, password: x}\n");
  EXPECT_EQ(c.platform.nats.creds_file, "/me.creds");
  EXPECT_EQ(c.platform.nats.user, "");
  EXPECT_EQ(c.platform.nats.password, "");
}

TEST_F(ConfigFile, AUserNamedByAFlagHasThePasswordOfTheEnvironment) {
  environment_["CPP_CLUSTER_NATS_PASSWORD"] = "s3cret";
  flags_ = {{"nats.user", "me", "--user"}};
  const Config c = load("platform: a\nnats: {creds: /me.creds}\n");
  EXPECT_EQ(c.platform.nats.user, "me");
  EXPECT_EQ(c.platform.nats.password, "s3cret");
  EXPECT_EQ(c.platform.nats.creds_file, "");
}

TEST_F(ConfigFile, ServersFromTheEnvironmentReplaceThoseOfTheFile) {
  environment_["NATS_URL"] = "nats://x:1, nats://y:2";
  EXPECT_EQ(load("platform: a\nnats: {servers: ['nats://a:1']}\n").platform.nats.servers,
            (Lines{"nats://x:1", "nats://y:2"}));
}

TEST_F(ConfigFile, AFaultOutsideTheFileNamesWhereItCameFrom) {
  environment_["NODE_ID"] = "a b";
  flags_ = {{"timing.drift", "x", "--set timing.drift"},
            {"timing.dirft", "x", "--set timing.dirft"},
            {"labels", "zone", "--label"},
            {"apps.x.mode", "spread", "--set apps.x.mode"}};
  EXPECT_EQ(faults("platform: a\n"),
            (Lines{"--set timing.dirft: timing.dirft: no key of that name takes a value",
                   "--set apps.x.mode: apps.x.mode: there is no app of that name",
                   "--set timing.drift: timing.drift: \"x\" is no number",
                   "--label: labels: \"zone\" has no \"=\": write name=value",
                   "environment variable NODE_ID: node: \"a b\": it has ' '; allowed are letters, "
                   "digits and '-'"}));
}

TEST_F(ConfigFile, AFlagReachesIntoAnApp) {
  flags_ = {{"apps.x.process.command", "run 'a b' c", "--set"}};
  const Config c = load("platform: a\napps: {x: }\n");
  EXPECT_EQ(std::get<Process>(c.apps.at(0).backend).command, (Lines{"run", "a b", "c"}));
}

TEST_F(ConfigFile, TlsThatIsDescribedIsUsedUnlessSwitchedOff) {
  EXPECT_TRUE(load("platform: a\nnats: {tls: {ca: x}}\n").platform.nats.tls.enabled);
  EXPECT_FALSE(
      load("platform: a\nnats: {tls: {ca: x, enabled: false}}\n").platform.nats.tls.enabled);
  flags_ = {{"nats.tls.ca", "x", "--tls-ca"}};
  EXPECT_TRUE(load("platform: a\n").platform.nats.tls.enabled);
}

TEST_F(ConfigFile, AClientNeedsNoPlatformAndLeavesAppsAlone) {
  client_ = true;
  const Config c = load("nats: {url: 'nats://a:1'}\napps: {x: {process: {command: '${UNSET}'}}}\n");
  EXPECT_EQ(c.platform.name, "");
  EXPECT_EQ(c.apps.size(), 0u);
}

TEST(Documents, NameEveryKey) {
  std::ostringstream text;
  text << std::ifstream(std::string(built::kSourceFolder) + "/docs/configuration.md").rdbuf();
  Config config;
  AppOptions app;
  Settings all = platform_settings(config);
  for (auto& setting : app_settings(app)) all.push_back(std::move(setting));
  for (const auto& setting : all) {
    if (setting.kind == Setting::Kind::section) continue;
    EXPECT_NE(text.str().find("| `" + setting.path + "` |"), std::string::npos) << setting.path;
  }
}

TEST(Words, AreSplitAsAShellWould) {
  std::string fault;
  EXPECT_EQ(split_words("a  'b c' \"d \\\" e\" f\\ g ''", fault),
            (Lines{"a", "b c", "d \" e", "f g", ""}));
  EXPECT_EQ(fault, "");
  split_words("'a", fault);
  EXPECT_NE(fault, "");
}

RC_GTEST_FIXTURE_PROP(ConfigFile, AnyTextSurvivesBeingWrittenAndRead, ()) {
  const auto text = *rc::gen::container<std::string>(
      rc::gen::element('$', '{', '}', 'a', ' ', '"', '\'', ':', '#', '-', '~', '\n'));
  Config config;
  config.platform.name = "p";
  config.platform.nats.servers = {"nats://a:1"};
  config.apps = {{.name = "x", .backend = Process{.command = {"run", text}, .user = text}}};
  const Config again = load(to_yaml(config, false));
  RC_ASSERT(std::get<Process>(again.apps.at(0).backend).user == text);
  RC_ASSERT(std::get<Process>(again.apps.at(0).backend).command.at(1) == text);
}

}  // namespace
}  // namespace cluster::cli
