// The calls that a node makes, for threads that block: each a NATS request, tried again where that
// is safe, and kept from targets that do not answer. May outlive its platform.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "cluster/call.h"
#include "core/loop_gate.h"
#include "data/call_message.h"
#include "data/circuit_breaker.h"
#include "nats/exchange.h"

namespace cluster {

class CallClient {
 public:
  using Milliseconds = std::chrono::milliseconds;
  struct Options {
    std::string platform{};
    std::string node{};  ///< empty: a client that is no node
    CallerOptions limits{};
    /// The live nodes that have an app, as far as this one knows. Any thread; not called any more
    /// once close() has returned.
    std::function<std::vector<std::string>(const std::string& app)> nodes_with{};
  };
  CallClient(Loop& loop, std::shared_ptr<nats::Exchange> exchange, Options options);

  /// Before the platform runs.
  void use(CallerMiddleware middleware);
  void close();  ///< of the loop

  // Of any other thread: what Platform promises. `caller`: an app, or `_`.

  CallReply call(const std::string& caller, const std::string& app, const std::string& method,
                 std::string payload, CallOptions options);
  std::vector<CallAnswer> call_all(const std::string& caller, const std::string& app,
                                   const std::string& method, std::string payload,
                                   const CallOptions& options);

  struct Counts {
    std::string app{};
    std::uint64_t calls = 0, errors = 0, retries = 0, refused_by_breaker = 0;
    int open_breakers = 0;
  };
  std::vector<Counts> counts() const;  ///< by app that was called; any thread

 private:
  struct Target {
    explicit Target(const CircuitBreaker::Options& o) : breaker(o) {}
    CircuitBreaker breaker;
    std::string last_failure{};
    Time used{};
  };
  struct Tried {
    CallReply reply{};
    std::optional<CallError> error{};
    bool ran = false;        ///< it may have been carried out
    bool of_target = false;  ///< the target's fault, for its breaker
  };

  CallReply carry_out(const OutgoingCall& call);
  /// What the middleware from `next` on makes of it.
  CallReply pass(std::size_t next, const OutgoingCall& call);
  Tried try_once(const OutgoingCall& call, const std::string& what, const nats::Message& message,
                 Duration limit);
  nats::Message request_of(const OutgoingCall& call, const std::string& route,
                           const CallEnvelope& envelope) const;
  CircuitBreaker::Options breaker_options() const;
  /// Throws what stands against a call there.
  void check_breaker(const std::string& target, const std::string& what);
  void note(const std::string& target, const Tried& tried);
  void make_room(Time now);  ///< with the mutex held
  void count(const std::string& app, std::uint64_t Counts::* what);
  double jitter();  ///< 0.5 to 1.5
  std::string next_id();

  LoopGate gate_;
  const std::shared_ptr<nats::Exchange> exchange_;
  const Options options_;
  const std::string writer_;  // of ids
  std::atomic<std::uint64_t> last_id_{0};
  std::vector<CallerMiddleware> middleware_;

  mutable std::mutex mutex_;  // over what follows
  bool closed_ = false;
  std::map<std::string, Target> targets_;
  std::map<std::string, Counts> counts_;
  std::minstd_rand random_{std::random_device{}()};
};

}  // namespace cluster
