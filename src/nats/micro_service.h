// A NATS micro-service (ADR-32) as `nats micro ls|info|stats` show it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "nats/connection.h"
#include "nats/endpoint_counts.h"

namespace cluster::nats {

struct ServiceConfig {
  std::string name{};     ///< [A-Za-z0-9_-]+
  std::string version{};  ///< semantic version
  std::string description{};
  std::map<std::string, std::string> metadata{};
};

/// Answers one request, from any thread, once; a dropped one answers with code 500.
class Responder {
 public:
  void reply(std::string data, std::vector<Header> headers = {});
  /// Headers Nats-Service-Error-Code and Nats-Service-Error
  void fail(int code, const std::string& description);

 private:
  friend class MicroService;
  struct State;
  std::shared_ptr<State> state_;
};

class MicroService {
 public:
  using Handler = std::function<void(Message request, Responder responder)>;  // on the loop

  MicroService(Connection& connection, ServiceConfig config);
  ~MicroService();
  MicroService(const MicroService&) = delete;
  MicroService& operator=(const MicroService&) = delete;

  /// Serves `subject`. `queue` empty: every instance gets each request; the default queue group of
  /// micro-services is "q".
  void add_endpoint(const std::string& name, const std::string& subject, Handler handler,
                    const std::string& queue = "q",
                    std::map<std::string, std::string> metadata = {});
  /// Shows an endpoint that somebody else serves, and counts.
  void show_endpoint(const std::string& name, const std::string& subject,
                     std::shared_ptr<const EndpointCounts> counts, const std::string& queue = "q",
                     std::map<std::string, std::string> metadata = {});
  /// Takes no more requests and is not found any more. Those that it has may still be answered, for
  /// as long as this object lives.
  void close();
  const std::string& id() const noexcept;

 private:
  friend class Responder;
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace cluster::nats
