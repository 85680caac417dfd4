#include "demo/history.h"

#include <fstream>

#include "coord/records_json.h"

namespace demo {

using cluster::BootClock;
using namespace std::chrono_literals;

struct History::Log {
  std::string node{};
  std::ifstream file{};
  std::string unfinished{};
};

History::History(cluster::Loop& loop, const std::string& nats_url, const std::string& platform)
    : loop_(loop),
      connection_(loop, {.nats = {.servers = {nats_url}}, .name = "demo"}),
      jetstream_(connection_),
      members_(jetstream_, platform + "_members"),
      lease_bucket_(jetstream_, platform + "_leases") {
  // Records that can't be read are a defect of the nodes: it ends the demo with the error's text.
  members_watch_ = members_.watch(
      ">", {.entry = [this](const cluster::nats::KvEntry& entry) {
        sessions_.push_back({BootClock::now(),
                             cluster::coord::session_record_from(entry.key, entry.value).value()});
      }});
  leases_watch_ = lease_bucket_.watch(
      ">", {.entry = [this](const cluster::nats::KvEntry& entry) {
        leases_.push_back(
            {BootClock::now(), cluster::coord::lease_record_from(entry.key, entry.value).value()});
      }});
  log_timer_ = loop_.every(1ms, [this] { read_logs(); });
}

void History::follow_log(const std::string& node, const std::string& file) {
  auto log = std::make_shared<Log>();
  log->node = node;
  log->file.open(file);
  log->file.seekg(0, std::ios::end);
  logs_[file] = std::move(log);
}

void History::read_logs() {
  for (const auto& [name, log] : logs_) {
    std::string text;
    while (std::getline(log->file, text)) {
      if (log->file.eof()) {
        log->unfinished += text;  // the rest of the line comes later
        break;
      }
      line(log->node, log->unfinished + text);
      log->unfinished.clear();
    }
    log->file.clear();
  }
}

void History::line(const std::string& node, const std::string& text) {
  if (text.find(" backend_ready ") != std::string::npos) ready_.push_back({BootClock::now(), node});
  if (text.find(" database_caught_up ") != std::string::npos) {
    const std::string key = " txid=";
    const auto at = text.find(key) + key.size();
    caught_up_.push_back({BootClock::now(), node, text.substr(at, text.find(' ', at) - at)});
  }
}

const cluster::coord::SessionRecord* History::session(const std::string& node) const {
  for (auto seen = sessions_.rbegin(); seen != sessions_.rend(); ++seen)
    if (seen->record.node == node) return &seen->record;
  return nullptr;
}

const cluster::coord::LeaseRecord* History::lease(const std::string& app) const {
  for (auto seen = leases_.rbegin(); seen != leases_.rend(); ++seen)
    if (seen->record.app == app) return &seen->record;
  return nullptr;
}

}  // namespace demo
