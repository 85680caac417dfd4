// Asks what listens at an address before a client connects: gives the reason when nothing does, and
// what the server says of itself, which libnats keeps to itself. Blocking: not for the loop's
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/result.h"
#include "nats/server_url.h"

namespace cluster::nats {

struct Greeting {
  std::string server_id{};
  std::string server_name{};
  std::string version{};
  std::string cluster{};
  std::int64_t max_payload = 0;
  bool jetstream = false;
};

/// A connected TCP socket, or why there is none: "nats://host:4222: connection refused".
Result<int> connect_tcp(const ServerUrl& server, std::chrono::milliseconds timeout);
/// Reads a NATS server's greeting (its INFO line). Errors: unavailable, timeout, incompatible (no
/// NATS server).
Result<Greeting> probe(const ServerUrl& server, std::chrono::milliseconds timeout);
/// Asks a server without authentication whether JetStream serves requests; in a cluster: has a
/// leader. Errors: as probe's; unavailable with the reason while it does not.
Failure probe_jetstream(const ServerUrl& server, std::chrono::milliseconds timeout);
/// Can streams of that many replicas be placed? Makes one in memory and deletes it.
Failure probe_placement(const ServerUrl& server, int replicas, std::chrono::milliseconds timeout);

}  // namespace cluster::nats
