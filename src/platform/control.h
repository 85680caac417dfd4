// A node's control service on NATS, a micro-service that `nats micro ls` shows: ping, status,
// lead, stepdown, snapshot, verify, scrub, quarantine; peer for the nodes of an app among
// themselves.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nats/micro_service.h"
#include "platform/app_core.h"
#include "platform/lead_messages.h"
#include "platform/peer_requests.h"
#include "platform/quarantine_requests.h"
#include "platform/snapshot_requests.h"
#include "platform/verify_requests.h"

namespace cluster {

class ControlService {
 public:
  struct Answers {
    /// The JSON of /status with the apps behind that one, in no more than `most` bytes.
    std::function<std::string(const std::string& after, std::size_t most)> status{};
    std::function<std::string()> session{};
    std::string started{};
    /// As App::Core::lead_state.
    std::function<void(const LeadQuery& query, Callback<LeadState> done)> lead{};
    /// As App::Core::step_down; answers once, at the latest after the timeout.
    std::function<void(const std::string& app, const StepDown& how, Callback<SteppedDown> done)>
        step_down{};
    /// A snapshot of the app's database: as SnapshotRequests::ask.
    std::function<Result<SnapshotAnswer>(const std::string& app, const std::string& id)> snapshot{};
    /// A verification of the app's database here: as VerifyRequests::ask.
    std::function<Result<VerifyRequests::Answer>(const std::string& app, const std::string& id,
                                                 std::uint64_t at)>
        verify{};
    /// Scrubs the app's database here, from now on; whether it is under way already is no matter.
    std::function<Failure(const std::string& app)> scrub{};
    /// What another node of the app asks of its database here.
    std::function<void(const std::string& app, PeerRequest request, Callback<std::string> done)>
        peer{};
    /// Of the app's databases in quarantine here: as QuarantineRequests::ask.
    std::function<void(QuarantineRequest request, Callback<std::string> done)> quarantine{};
  };
  ControlService(nats::Connection& connection, const std::string& platform, const std::string& node,
                 Answers answers);

  /// Takes no more requests. Those that it has are still answered, for as long as this object
  /// lives.
  void close() { service_.close(); }

 private:
  std::size_t most_bytes() const;  // of an answer
  void ping(nats::Responder responder) const;
  void status(const nats::Message& request, nats::Responder responder) const;
  void lead(const nats::Message& request, nats::Responder responder) const;
  void step_down(const nats::Message& request, nats::Responder responder) const;
  void snapshot(const nats::Message& request, nats::Responder responder) const;
  void verify(const nats::Message& request, nats::Responder responder) const;
  void scrub(const nats::Message& request, nats::Responder responder) const;
  void quarantine(const nats::Message& request, nats::Responder responder) const;
  void peer(const nats::Message& request, nats::Responder responder) const;

  nats::Connection& connection_;
  std::string node_;
  Answers answers_;
  nats::MicroService service_;
};

/// Asks whoever serves as `node` who it is; the answer is text for people. An error when nobody
/// answers within a second.
void ask_for_node(nats::Connection& connection, const std::string& platform,
                  const std::string& node, Callback<std::string> done);

}  // namespace cluster
