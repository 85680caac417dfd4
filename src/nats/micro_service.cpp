#include "nats/micro_service.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <mutex>
#include <thread>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/ids.h"
#include "core/json_fields.h"
#include "core/names.h"
#include "core/wall_time.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;

bool version_fits(const std::string& version) {
  int numbers = 0;
  std::size_t at = 0;
  while (numbers < 3) {
    auto digits = at;
    while (digits < version.size() && std::isdigit(static_cast<unsigned char>(version[digits])))
      ++digits;
    if (digits == at) return false;
    at = digits;
    if (++numbers < 3) {
      if (at >= version.size() || version[at] != '.') return false;
      ++at;
    }
  }
  return at == version.size() || version[at] == '-' || version[at] == '+';
}

}  // namespace

struct MicroService::Core : std::enable_shared_from_this<Core> {
  struct Endpoint {
    std::string name;
    std::string subject;
    std::string queue;
    std::map<std::string, std::string> metadata;
    std::shared_ptr<const EndpointCounts> counts;
  };
  // How an answer from another thread finds the loop, for as long as the service lives.
  struct Gate {
    std::mutex mutex;
    Core* core = nullptr;

    // Only on the loop, where the service ends: so it stays true there.
    Core* get() {
      std::lock_guard lock(mutex);
      return core;
    }
  };

  Core(Connection& c, ServiceConfig s) : connection(c), config(std::move(s)) {}

  Connection& connection;
  const ServiceConfig config;
  const std::string id = random_id();
  const std::string started = rfc3339_from(wall_ns());
  std::vector<Endpoint> endpoints;
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::vector<Subscription> subscriptions;

  Json identity(const char* type) const {
    return {{"type", std::string("io.nats.micro.v1.") + type},
            {"name", config.name},
            {"id", id},
            {"version", config.version},
            {"metadata", config.metadata}};
  }
  Json info() const;
  Json stats() const;
  void serve(const std::string& verb, std::function<Json()> answer);
};

struct Responder::State {
  std::shared_ptr<MicroService::Core::Gate> gate;
  std::shared_ptr<EndpointCounts> counts;
  std::string reply_to;
  Time began{};
  std::thread::id loop_thread = std::this_thread::get_id();
  std::atomic<bool> answered{false};

  ~State() { send({}, {}, 500, "the service gave no answer"); }

  // A code of 0 is success.
  void send(std::string data, std::vector<Header> headers, int code,
            const std::string& description) {
    if (answered.exchange(true)) return;
    Message message;
    message.subject = reply_to;
    message.data = std::move(data);
    message.headers = std::move(headers);
    std::string error;
    if (code != 0) {
      std::string line = description;
      std::replace_if(
          line.begin(), line.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
      message.headers.emplace_back("Nats-Service-Error-Code", std::to_string(code));
      message.headers.emplace_back("Nats-Service-Error", line);
      error = std::to_string(code) + ":" + line;
    }
    auto finish = [c = counts, m = std::move(message), begin = began,
                   error](Connection& connection) {
      c->done(BootClock::now() - begin, error);
      if (m.subject.empty()) return;
      try {
        connection.publish(m);
      } catch (const Error& fault) {
        // Too large, or with a header that can't be: the caller must hear of it all the same.
        c->failed(std::string("500:") + fault.what());
        Message instead;
        instead.subject = m.subject;
        instead.headers = {
            {"Nats-Service-Error-Code", "500"},
            {"Nats-Service-Error", std::string("the answer can't be sent: ") + fault.what()}};
        connection.publish(instead);
      }
    };
    if (std::this_thread::get_id() == loop_thread) {
      if (auto* core = gate->get()) finish(core->connection);
      return;
    }
    std::lock_guard lock(gate->mutex);
    if (!gate->core) return;
    gate->core->connection.defer([owner = gate, finish = std::move(finish)] {
      if (auto* core = owner->get()) finish(core->connection);
    });
  }
};

void Responder::reply(std::string data, std::vector<Header> headers) {
  CLUSTER_CHECK(state_);
  state_->send(std::move(data), std::move(headers), 0, {});
}

void Responder::fail(int code, const std::string& description) {
  CLUSTER_CHECK(state_ && code != 0);
  state_->send({}, {}, code, description);
}

Json MicroService::Core::info() const {
  auto json = identity("info_response");
  json["description"] = config.description;
  json["endpoints"] = Json::array();
  for (const auto& e : endpoints)
    json["endpoints"].push_back({{"name", e.name},
                                 {"subject", e.subject},
                                 {"queue_group", e.queue},
                                 {"metadata", e.metadata}});
  return json;
}

Json MicroService::Core::stats() const {
  auto json = identity("stats_response");
  json["started"] = started;
  json["endpoints"] = Json::array();
  for (const auto& e : endpoints) {
    const auto& counts = *e.counts;
    const auto done = static_cast<std::int64_t>(std::max<std::uint64_t>(1, counts.requests()));
    json["endpoints"].push_back({{"name", e.name},
                                 {"subject", e.subject},
                                 {"queue_group", e.queue},
                                 {"num_requests", counts.requests()},
                                 {"num_errors", counts.errors()},
                                 {"last_error", counts.last_error()},
                                 {"processing_time", counts.busy_ns()},
                                 {"average_processing_time", counts.busy_ns() / done}});
  }
  return json;
}

// On $SRV.<verb>, $SRV.<verb>.<name> and $SRV.<verb>.<name>.<id>.
void MicroService::Core::serve(const std::string& verb, std::function<Json()> answer) {
  std::string subject = "$SRV." + verb;
  for (const std::string& more : {std::string(), "." + config.name, "." + id}) {
    subject += more;
    subscriptions.push_back(connection.subscribe(subject, [this, answer](Message request) {
      if (request.reply.empty()) return;
      Message message;
      message.subject = request.reply;
      message.data = text_of(answer());
      connection.publish(message);
    }));
  }
}

MicroService::MicroService(Connection& connection, ServiceConfig config) {
  if (!is_plain_token(config.name))
    throw Error(
        Errc::invalid_argument,
        "\"" + config.name + "\" can't be a service's name: letters, digits, - and _ are allowed");
  if (!version_fits(config.version))
    throw Error(Errc::invalid_argument, "service " + config.name + ": \"" + config.version +
                                            "\" is no semantic version such as 1.2.3");
  core_ = std::make_shared<Core>(connection, std::move(config));
  core_->gate->core = core_.get();
  core_->serve("PING", [core = core_.get()] { return core->identity("ping_response"); });
  core_->serve("INFO", [core = core_.get()] { return core->info(); });
  core_->serve("STATS", [core = core_.get()] { return core->stats(); });
}

MicroService::~MicroService() {
  {
    std::lock_guard lock(core_->gate->mutex);
    core_->gate->core = nullptr;
  }
  close();
}

void MicroService::close() { core_->subscriptions.clear(); }

void MicroService::show_endpoint(const std::string& name, const std::string& subject,
                                 std::shared_ptr<const EndpointCounts> counts,
                                 const std::string& queue,
                                 std::map<std::string, std::string> metadata) {
  if (!is_plain_token(name))
    throw Error(
        Errc::invalid_argument,
        "\"" + name + "\" can't be an endpoint's name: letters, digits, - and _ are allowed");
  core_->endpoints.push_back({name, subject, queue, std::move(metadata), std::move(counts)});
}

void MicroService::add_endpoint(const std::string& name, const std::string& subject,
                                Handler handler, const std::string& queue,
                                std::map<std::string, std::string> metadata) {
  auto counts = std::make_shared<EndpointCounts>();
  show_endpoint(name, subject, counts, queue, std::move(metadata));
  core_->subscriptions.push_back(core_->connection.subscribe(
      subject,
      [gate = core_->gate, counts, handler = std::move(handler)](Message request) {
        counts->came();
        Responder responder;
        responder.state_ = std::make_shared<Responder::State>();
        responder.state_->gate = gate;
        responder.state_->counts = counts;
        responder.state_->reply_to = request.reply;
        responder.state_->began = BootClock::now();
        auto state = responder.state_;
        try {
          handler(std::move(request), std::move(responder));
        } catch (const std::exception& error) {
          state->send({}, {}, 500, error.what());
        }
      },
      queue));
}

const std::string& MicroService::id() const noexcept { return core_->id; }

}  // namespace cluster::nats
