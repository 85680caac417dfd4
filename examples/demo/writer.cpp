#include "demo/writer.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include <httplib.h>
#include <nlohmann/json.hpp>

namespace demo {
namespace {
using namespace std::chrono_literals;
}

std::optional<Kept> read_notes(int port, std::uint64_t up_to) {
  httplib::Client client("127.0.0.1", port);
  client.set_read_timeout(5s);
  std::vector<int> seen(up_to + 1);
  std::uint64_t last = 0;
  while (true) {
    const auto result = client.Get("/notes?after=" + std::to_string(last));
    if (!result || result->status != 200) return std::nullopt;
    const auto body = nlohmann::json::parse(result->body, nullptr, false);
    if (!body.is_object() || !body.contains("notes")) return std::nullopt;
    if (body["notes"].empty()) break;
    for (const auto& note : body["notes"]) {
      last = note.at("id");
      const std::string text = note.at("text");
      const auto number = std::strtoull(text.substr(text.find(' ') + 1).c_str(), nullptr, 10);
      if (number <= up_to) ++seen[number];
    }
  }
  Kept kept;
  for (std::uint64_t number = up_to; number > 0; --number) {
    if (seen[number] > 1) ++kept.twice;
    if (seen[number] > 0) continue;
    ++kept.missing;
    kept.first_missing = number;
  }
  return kept;
}

Writer::Writer(int port, std::function<void(FirstAnswer)> first_answer)
    : port_(port),
      first_answer_(std::move(first_answer)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

Written Writer::written() const {
  const std::lock_guard lock(mutex_);
  return written_;
}

void Writer::run(const std::stop_token& stop) {
  httplib::Client client("127.0.0.1", port_);
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  client.set_connection_timeout(200ms);
  client.set_read_timeout(200ms);
  client.set_write_timeout(200ms);
  for (std::uint64_t number = 1; !stop.stop_requested();) {
    const auto result = client.Post("/notes", "{\"text\": \"note " + std::to_string(number) + "\"}",
                                    "application/json");
    const auto body = result && result->status == 201
                          ? nlohmann::json::parse(result->body, nullptr, false)
                          : nlohmann::json();
    if (body.is_object()) {
      answered(body.value("node", ""), body.value("epoch", std::uint64_t{0}));
      ++number;
    } else {
      const std::lock_guard lock(mutex_);
      ++written_.refused;
    }
    // Leaves the processor to those that the demo is about.
    std::this_thread::sleep_for(1ms);
  }
}

void Writer::answered(std::string node, std::uint64_t epoch) {
  const cluster::Time now = cluster::BootClock::now();
  std::optional<FirstAnswer> first;
  {
    const std::lock_guard lock(mutex_);
    ++written_.notes;
    if (epoch < epoch_) ++written_.stale;
    if (epoch > epoch_)
      first = FirstAnswer{.time = now,
                          .node = std::move(node),
                          .epoch = epoch,
                          .silence = epoch_ == 0 ? cluster::Duration{} : now - last_answer_};
    epoch_ = std::max(epoch_, epoch);
    last_answer_ = now;
  }
  if (first) first_answer_(*first);
}

}  // namespace demo
