// cpp-cluster dev: NATS servers and nodes on this machine, for a person to play with.
#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/dev_node.h"
#include "cli/table.h"
#include "core/loop.h"
#include "nats/embedded_server.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kStopLimit{30};

struct DevArguments {
  CommonFlags common{};
  int nodes = 3;
  int servers = 1;
  std::string folder{};
  int http_base_port = 8080;
  bool no_restart = false;
  bool log_files = false;
  std::string sync = "default";
};

// The data of one run; removed at the end unless the user named it.
class Folder {
 public:
  explicit Folder(const std::string& named) : temporary_(named.empty()) {
    if (temporary_) {
      path_ = (std::filesystem::temp_directory_path() / "cpp-cluster-dev-XXXXXX").string();
      if (mkdtemp(path_.data()) == nullptr)
        throw CommandError(Exit::failed,
                           "can't make a folder like " + path_ + ": " + std::strerror(errno));
    } else {
      path_ = std::filesystem::absolute(named).string();
      std::filesystem::create_directories(path_);
    }
  }
  ~Folder() {
    std::error_code failure;
    if (temporary_) std::filesystem::remove_all(path_, failure);
    if (failure) complain("can't remove " + path_ + ": " + failure.message());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const noexcept { return path_; }

 private:
  bool temporary_;
  std::string path_;
};

// Said before anything is started; whoever takes the port in between is named in a node's log.
void check_ports(int base, int count) {
  for (int port = base; base != 0 && port < base + count; ++port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool taken = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0;
    close(fd);
    if (taken)
      throw CommandError(Exit::usage, "port " + std::to_string(port) +
                                          " is taken: give another --http-base-port, or 0 for free "
                                          "ones");
  }
}

class Dev {
 public:
  Dev(const DevArguments& options, Config config)
      : options_(options), config_(std::move(config)), folder_(options.folder) {}

  Exit run();

 private:
  void start_servers();
  void start_nodes();
  void say_what_runs() const;
  void watch_servers();
  void stop();

  const DevArguments& options_;
  Config config_;
  Folder folder_;
  Loop loop_;
  std::vector<std::unique_ptr<nats::EmbeddedServer>> servers_;
  std::vector<std::unique_ptr<DevNode>> nodes_;
  std::set<std::size_t> dead_servers_;
  bool asked_to_stop_ = false;
  bool hurried_ = false;
};

void Dev::start_servers() {
  print("Starting " + std::to_string(options_.servers) +
        (options_.servers == 1 ? " NATS server" : " NATS servers") + " ...\n");
  servers_ = nats::start_local_servers(options_.servers, folder_.path() + "/nats",
                                       options_.sync == "always");
  config_.platform.nats = Nats{.replicas = config_.platform.nats.replicas};
  for (const auto& server : servers_) config_.platform.nats.servers.push_back(server->url());
}

void Dev::start_nodes() {
  for (int i = 1; i <= options_.nodes; ++i) {
    Config node = config_;
    const std::string name = "node-" + std::to_string(i);
    node.platform.node = name;
    node.platform.folder = folder_.path() + "/" + name;
    const int port = options_.http_base_port == 0 ? 0 : options_.http_base_port + i - 1;
    node.platform.http = "127.0.0.1:" + std::to_string(port);
    node.log_file = "";
    // On one machine each needs files of its own.
    for (auto& app : node.apps)
      for (auto* path : {&app.sqlite.path, &app.sqlite.replica})
        if (!path->empty())
          *path = node.platform.folder + "/" + std::filesystem::path(*path).filename().string();
    nodes_.push_back(std::make_unique<DevNode>(
        loop_, DevNodeOptions{.name = name,
                              .number = i,
                              .file = folder_.path() + "/" + name + ".yaml",
                              .yaml = to_yaml(node, false),
                              .log_file = options_.log_files ? folder_.path() + "/" + name + ".log"
                                                             : std::string(),
                              .restart = !options_.no_restart}));
  }
}

void Dev::say_what_runs() const {
  const bool colour = use_colour();
  const std::string& platform = config_.platform.name;
  std::string urls;
  for (const auto& server : servers_) urls += (urls.empty() ? "" : ",") + server->url();
  std::string text =
      paint("Platform ", Colour::bold, colour) + platform + ", data in " + folder_.path() + "\n";
  for (const auto& server : servers_)
    text += "  NATS    " + server->url() + "  pid " + std::to_string(server->pid()) + "\n";
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    text += "  " + nodes_[i]->name() + "  pid " + std::to_string(nodes_[i]->pid());
    if (options_.http_base_port != 0)
      text +=
          "  http://127.0.0.1:" + std::to_string(options_.http_base_port + static_cast<int>(i)) +
          "/status";
    if (options_.log_files) text += "  " + nodes_[i]->log_file();
    text += "\n";
  }
  const std::string app = config_.apps.front().name;
  text +=
      "\nTo look at it, in another terminal:\n"
      "  export NATS_URL=" +
      urls + " PLATFORM=" + platform +
      "\n"
      "  cpp-cluster status --watch 1s\n"
      "  cpp-cluster stepdown " +
      app +
      "\n"
      "  kill -9 " +
      std::to_string(nodes_.front()->pid()) +
      "    # node-1 dies; what it led goes on elsewhere\n\n"
      "Ctrl-C stops everything.\n\n";
  print(text);
}

void Dev::watch_servers() {
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    std::string why;
    if (servers_[i]->running(&why)) {
      dead_servers_.erase(i);
    } else if (dead_servers_.insert(i).second) {
      print("NATS server " + servers_[i]->url() + " has ended" +
            (options_.no_restart ? "" : ": starting it again in a second") + "\n");
    } else if (!options_.no_restart) {
      try {
        servers_[i]->start_again();
      } catch (const Error& error) {
        print("NATS server " + servers_[i]->url() + " can't be started again: " + error.what() +
              "\n");
        continue;
      }
      print("NATS server " + servers_[i]->url() + " is started again, pid " +
            std::to_string(servers_[i]->pid()) + "\n");
    }
  }
}

void Dev::stop() {
  print("\nStopping the nodes (Ctrl-C again: at once) ...\n");
  for (const auto& node : nodes_) node->stop();
  const auto gone = [this] {
    return std::none_of(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->running(); });
  };
  loop_.run_until([&] { return gone() || hurried_; }, kStopLimit);
  if (!gone()) print("Killing the nodes that still run\n");
  nodes_.clear();
  print("Stopping NATS ...\n");
  servers_.clear();
  print("All has stopped.\n");
}

Exit Dev::run() {
  const auto on_signal = [this] {
    hurried_ = asked_to_stop_;
    asked_to_stop_ = true;
  };
  const LoopSource interrupt = loop_.on_signal(SIGINT, on_signal);
  const LoopSource terminate = loop_.on_signal(SIGTERM, on_signal);
  start_servers();
  start_nodes();
  say_what_runs();
  LoopSource watch = loop_.every(seconds(1), [this] { watch_servers(); });
  while (!asked_to_stop_) loop_.run_once(seconds(1));
  watch.reset();
  stop();
  return Exit::ok;
}

Exit dev(const DevArguments& options) {
  ConfigRequest request = options.common.request(false);
  request.default_platform = "dev";
  // dev brings its own servers: a file that is meant for `run` must not start others.
  Config config = load_config(request);
  if (config.apps.empty()) config.apps.push_back({.name = "demo"});
  check_ports(options.http_base_port, options.nodes);
  return Dev(options, std::move(config)).run();
}

}  // namespace

void add_dev(CLI::App& root, Chosen& chosen) {
  CLI::App& app = *root.add_subcommand("dev", "Run a whole cluster on this machine, to play with");
  const auto options = std::make_shared<DevArguments>();
  app.add_option("-n,--nodes", options->nodes, "Nodes")
      ->check(CLI::Range(1, 50))
      ->capture_default_str();
  app.add_option("--servers", options->servers, "NATS servers: 1, or 3 or 5 that form a cluster")
      ->check(CLI::IsMember(std::vector<int>{1, 3, 5}))
      ->capture_default_str();
  app.add_option("--folder", options->folder,
                 "Keep the data there; else in a folder that is removed")
      ->type_name("FOLDER");
  app.add_option("--http-base-port", options->http_base_port,
                 "node-1's HTTP port, the others' follow; 0: free ones")
      ->check(CLI::Range(0, 65'000))
      ->capture_default_str();
  app.add_option("--sync", options->sync, "When JetStream syncs to disk: default, or always")
      ->check(CLI::IsMember({"always", "default"}))
      ->capture_default_str();
  app.add_flag("--no-restart", options->no_restart, "Leave what dies dead");
  app.add_flag("--log-files", options->log_files, "Nodes log to files in the folder, not here");
  app.add_option(
         "-c,--config", options->common.config,
         "Take apps, labels and timing from this file; names, NATS and where databases are, "
         "are dev's own")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--platform",
         [options](const std::string& name) {
           options->common.overrides.push_back({"platform", name, "--platform"});
         },
         "The platform's name, if not the file's or dev")
      ->type_name("NAME");
  app.footer(
      "Without apps of a file it runs one singleton app, demo, that does nothing but be led.\n"
      "Exit status: 0 stopped by Ctrl-C, 1 could not start, 2 usage or configuration.\n\n"
      "Examples:\n"
      "  cpp-cluster dev\n"
      "  cpp-cluster dev --servers 3 --nodes 5 --log-files\n"
      "  cpp-cluster dev --config node.yaml --folder ./dev-data");
  app.callback([options, &chosen] { chosen = [options] { return dev(*options); }; });
}

}  // namespace cluster::cli
