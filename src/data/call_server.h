// The methods of one app on this node: takes calls off libnats' thread, refuses at once what can't
// be carried out, and runs handlers on threads of their own. May outlive its platform.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "cluster/call.h"
#include "core/loop_gate.h"
#include "core/strand.h"
#include "nats/connection.h"
#include "nats/endpoint_counts.h"
#include "nats/exchange.h"
#include "nats/micro_service.h"

namespace cluster {

class CallServer : public std::enable_shared_from_this<CallServer> {
 public:
  struct Options {
    std::string platform{}, node{}, app{};
    bool singleton = false;
    HandlerOptions limits{};
    /// The epoch of this node's lead; nothing when it does not lead now. Any thread; not called
    /// any more once close() has returned.
    std::function<std::optional<std::uint64_t>()> lead{};
  };
  CallServer(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
             Options options);

  // Before the platform runs. Throw Error{invalid_argument}.

  void handle(const std::string& method, CallHandler handler, MethodOptions options = {});
  void use(CallMiddleware middleware);

  // Of the loop.

  /// Calls by all routes but those of the lead are taken from now on.
  void open(nats::Connection& connection);
  /// This node leads and is active: calls to the leader are taken, until lead_ends().
  void lead_begins();
  void lead_ends();
  /// No call is taken any more, those under way are told to stop. It may be opened again.
  void close_doors();
  /// The same, for good.
  void close();

  struct MethodCounts {
    std::string method{};
    std::uint64_t requests = 0, errors = 0;
    std::int64_t busy_ns = 0;
  };
  struct Counts {
    std::vector<MethodCounts> methods{};
    std::uint64_t overloaded = 0;
    std::size_t running = 0;
  };
  Counts counts() const;  ///< any thread

 private:
  friend struct CallResponder::State;
  using State = CallResponder::State;
  struct Method {
    CallHandler handler{};
    MethodOptions options{};
    std::shared_ptr<nats::EndpointCounts> counts = std::make_shared<nats::EndpointCounts>();
  };

  void check_idle(const char* what) const;
  void take(nats::Message message);  ///< on libnats' thread
  void cancel(const std::string& id);
  /// With the mutex held; what to answer instead of running it: an error's name and text.
  std::optional<std::pair<std::string, std::string>> objection(const CallRequest& request) const;
  void refuse(const nats::Message& message, const std::string& name, const std::string& text);
  bool post(Strand& strand, std::size_t place, const std::shared_ptr<State>& state);
  std::size_t a_strand();  ///< with the mutex held; its place
  void run(const std::shared_ptr<State>& state);
  void part_done(State& state);  ///< answered, or the handler has returned
  void send(nats::Message message, const std::string& to);
  void plan(Time deadline);  ///< with the mutex held
  void sweep();
  void let_end(std::vector<nats::Subscription> subscriptions);
  std::vector<std::shared_ptr<State>> under_way() const;
  /// Asks those handlers to stop.
  void stop_where(const std::function<bool(const State&)>& hit);
  std::string known_methods() const;

  LoopGate gate_;
  Loop& loop_;  // on the loop only
  StrandPool& strands_;
  const std::shared_ptr<nats::Exchange> exchange_;
  const Options options_;
  std::map<std::string, Method> methods_;  // as it is when the platform begins to run
  std::vector<CallMiddleware> middleware_;

  mutable std::mutex mutex_;  // over what follows
  bool open_ = false, over_ = false;
  bool leads_ = false;  // between lead_begins() and lead_ends()
  std::unordered_map<std::uint64_t, std::weak_ptr<State>> running_;
  std::uint64_t last_ = 0;
  std::vector<std::shared_ptr<Strand>> all_strands_;
  std::vector<std::size_t> free_strands_;  // places in all_strands_
  Time planned_ = Time::max();             // when the loop looks for calls whose time is up
  std::uint64_t overloaded_ = 0;

  // Of the loop:
  nats::Connection* connection_ = nullptr;
  std::unique_ptr<nats::MicroService> service_;
  std::vector<nats::Subscription> subscriptions_, of_lead_;
  std::vector<nats::Subscription> ending_;  // what still comes there is refused
  LoopSource timer_, ending_timer_;
};

/// A call under way on this node.
struct CallResponder::State {
  State(std::shared_ptr<CallServer> s, std::string n, CallRequest r)
      : server(std::move(s)), node(std::move(n)), request(std::move(r)) {}
  ~State();

  bool answer(nats::Message message, std::string error, const std::string& text);

  const std::shared_ptr<CallServer> server;
  const std::string node;  // this one
  CallRequest request;
  std::string reply_to{};
  CallHandler handler{};
  std::shared_ptr<nats::EndpointCounts> counts{};
  std::stop_source stop{};
  Time begun{};
  std::uint64_t number = 0;  // in running_
  bool of_lead = false;
  std::atomic<bool> answered{false};
  std::atomic<int> parts{2};  // the answer, and the handler's return
  std::mutex mutex{};         // over what follows
  std::vector<std::function<void(const CallOutcome&)>> watchers{};
  std::optional<CallOutcome> outcome{};
};

}  // namespace cluster
