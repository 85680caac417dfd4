#include "bench/monitored_server.h"

#include <filesystem>
#include <fstream>

#include <httplib.h>
#include <nlohmann/json.hpp>

namespace bench {

using nlohmann::json;
using namespace std::chrono_literals;

MonitoredServer::MonitoredServer(Waiting& waiting, const std::string& folder, bool sync_always)
    : folder_(folder) {
  std::filesystem::create_directories(folder);
  const std::string file = folder + "/nats-server.conf";
  std::ofstream(file) << "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\nports_file_dir: \""
                      << folder << "\"\njetstream {\n  store_dir: \"" << folder << "/store\"\n"
                      << (sync_always ? "  sync_interval: always\n" : "") << "}\n";
  process_.emplace(std::vector<std::string>{"nats-server", "--config", file},
                   folder + "/nats-server.log");
  waiting.wait_for("a nats-server that listens", 30s, [this] { return read_ports(); });
  waiting.wait_for("a nats-server that monitors", 30s, [this] {
    const auto answer = httplib::Client(monitoring_).Get("/healthz");
    return answer && answer->status == 200;
  });
}

std::int64_t MonitoredServer::messages() const {
  const auto answer = httplib::Client(monitoring_).Get("/varz");
  if (!answer || answer->status != 200) throw Failed{"nats-server does not answer on /varz"};
  const json varz = json::parse(answer->body);
  return varz.at("in_msgs").get<std::int64_t>() + varz.at("out_msgs").get<std::int64_t>();
}

bool MonitoredServer::read_ports() {
  std::string how;
  if (!process_->running(&how))
    throw Failed{"nats-server " + how + ": read " + folder_ + "/nats-server.log"};
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (entry.path().extension() != ".ports") continue;
    std::ifstream file(entry.path());
    const json ports = json::parse(file, nullptr, false);
    if (!ports.is_object() || !ports.contains("nats") || !ports.contains("monitoring"))
      return false;
    url_ = ports["nats"].at(0);
    monitoring_ = ports["monitoring"].at(0);
    return true;
  }
  return false;
}

}  // namespace bench
