// What a node tells of itself: /status, /health, /ready and the control service answer from this
// value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/member.h"
#include "data/call_client.h"
#include "data/call_server.h"
#include "ops/audit_log.h"
#include "ops/process_backend.h"
#include "platform/step_times.h"
#include "sqlite/replicated_database.h"

namespace cluster {

struct AppStatus {
  std::string name{};
  bool singleton = true;
  bool active = false;
  std::string phase{};
  std::optional<std::string> leader{};
  std::uint64_t epoch = 0;
  std::string target{};
  std::string last_error{};
  std::vector<StepTimes::Times> steps{};  ///< of promotions and demotions
  CallServer::Counts calls{};             ///< to its methods here
  std::optional<ProcessBackend::Status> backend{};
  std::optional<sqlite::ReplicatedDatabase::Status> database{};
};

struct NodeStatus {
  std::string platform{};
  std::string node{};
  std::string state{};  ///< starting, waiting (no session), running, stopping
  std::string waiting_for{};
  std::string trouble{};  ///< the last thing that NATS complained of
  std::int64_t uptime_s = 0;
  std::string session{};
  std::uint64_t session_rev = 0;
  bool in_force = false;
  std::vector<std::string> voters{};
  std::int64_t left_ms = 0;  ///< until the session's limits, as things stand
  std::string nats_url{}, nats_server{}, nats_version{}, nats_sync{};
  bool nats_connected = false;
  int guardian_pid = 0;  ///< 0: none
  std::optional<std::string> coordinator{};
  std::vector<AppStatus> apps{};
  std::vector<Member> members{};
  AuditLog::Status audit{};
  std::vector<CallClient::Counts> calls{};  ///< that the node makes
};

std::string to_json(const NodeStatus& status);
/// The same with the apps whose names come behind `after`, and no more of them than fit into `most`
/// bytes; `"more": true` when others come behind those. The apps are in the order of their names.
std::string to_json(NodeStatus status, const std::string& after, std::size_t most);

struct Health {
  bool ok = false;
  std::string json{};
};
/// Alive, with a session in force or on its way to one. Fails once the session was lost, or an app
/// can't do its work here.
Health health_of(const NodeStatus& status);
/// A session is in force, and every app that this node is to run is complete: in standby or active.
Health ready_of(const NodeStatus& status);

}  // namespace cluster
