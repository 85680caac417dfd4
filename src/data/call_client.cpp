#include "data/call_client.h"

#include <algorithm>
#include <utility>

#include "core/ids.h"
#include "core/names.h"
#include "core/pause.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr Duration kFirstPause = milliseconds(20);
constexpr Duration kLongestPause = std::chrono::seconds(1);
constexpr std::size_t kMostTargets = 4'096;
constexpr std::size_t kMostApps = 1'024;  // that counts are kept of

[[noreturn]] void refuse(const std::string& what) {
  throw CallError(Errc::invalid_argument, "invalid_argument", what, {});
}

void check(const std::string& what, const std::string& app, const std::string& method,
           const CallOptions& options) {
  if (auto fault = platform_name_fault(app); !fault.empty()) refuse(what + ": app: " + fault);
  if (auto fault = method_fault(method); !fault.empty()) refuse(what + ": " + fault);
  if (auto fault = call_options_fault(options); !fault.empty()) refuse(what + ": " + fault);
}

Route settled(const CallOptions& options) {
  if (options.route != Route::automatic) return options.route;
  return options.node.empty() ? Route::key : Route::node;
}

std::string call_to(const std::string& app, const std::string& method) {
  return "call to \"" + app + "." + method + "\"";
}

std::string name_of(Errc code) { return make_error_code(code).message(); }

// Of a request to which nobody listens.
CallError nobody(const OutgoingCall& call, Route route, const std::string& what) {
  switch (route) {
    case Route::leader:
      return {Errc::no_leader,
              "no_leader",
              what + ": nobody leads app \"" + call.app +
                  "\" now, or it is no singleton, or it has no methods",
              {}};
    case Route::node:
      return {Errc::no_responders,
              "no_responders",
              what + ": node \"" + call.options.node + "\" is not there, or does not have app \"" +
                  call.app + "\", or that has no methods",
              {}};
    default:
      return {Errc::no_responders,
              "no_responders",
              what + ": nobody answers for app \"" + call.app +
                  "\": no node that has it is there, none leads it now, or it has no methods",
              {}};
  }
}

}  // namespace

CallClient::CallClient(Loop& loop, std::shared_ptr<nats::Exchange> exchange, Options options)
    : gate_(loop),
      exchange_(std::move(exchange)),
      options_(std::move(options)),
      writer_(random_id()) {}

void CallClient::use(CallerMiddleware middleware) {
  if (!middleware) throw Error(Errc::invalid_argument, "no middleware for calls was given");
  middleware_.push_back(std::move(middleware));
}

void CallClient::close() {
  gate_.close();
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

std::string CallClient::next_id() { return writer_ + "-" + std::to_string(++last_id_); }

double CallClient::jitter() {
  const std::lock_guard lock(mutex_);
  return std::uniform_real_distribution<>(0.5, 1.5)(random_);
}

void CallClient::count(const std::string& app, std::uint64_t Counts::* what) {
  const std::lock_guard lock(mutex_);
  auto it = counts_.find(app);
  if (it == counts_.end()) {
    if (counts_.size() >= kMostApps) return;
    it = counts_.emplace(app, Counts{.app = app}).first;
  }
  ++(it->second.*what);
}

// ---- breakers

CircuitBreaker::Options CallClient::breaker_options() const {
  return {options_.limits.breaker_failures, options_.limits.breaker_open};
}

void CallClient::make_room(Time now) {
  if (targets_.size() < kMostTargets) return;
  auto oldest = targets_.begin();
  for (auto it = targets_.begin(); it != targets_.end(); ++it) {
    const bool closed = it->second.breaker.state(now) == CircuitBreaker::State::closed;
    const bool best = oldest->second.breaker.state(now) == CircuitBreaker::State::closed;
    if (closed > best || (closed == best && it->second.used < oldest->second.used)) oldest = it;
  }
  targets_.erase(oldest);
}

void CallClient::check_breaker(const std::string& target, const std::string& what) {
  if (options_.limits.breaker_failures == 0) return;
  const std::lock_guard lock(mutex_);
  const auto it = targets_.find(target);
  if (it == targets_.end()) return;
  const Time now = BootClock::now();
  it->second.used = now;
  if (it->second.breaker.allow(now)) return;
  const auto left = std::chrono::duration_cast<milliseconds>(
      std::max(Duration(0), it->second.breaker.open_until() - now));
  throw CallError(Errc::unavailable, "unavailable",
                  what + ": not tried: its target has failed too often, the last time by: " +
                      it->second.last_failure + "; tried again in " + std::to_string(left.count()) +
                      " ms",
                  {});
}

void CallClient::note(const std::string& target, const Tried& tried) {
  if (options_.limits.breaker_failures == 0) return;
  const std::lock_guard lock(mutex_);
  const Time now = BootClock::now();
  auto it = targets_.find(target);
  if (it == targets_.end()) {
    if (!tried.of_target) return;
    make_room(now);
    it = targets_.emplace(target, Target(breaker_options())).first;
  }
  it->second.used = now;
  if (tried.of_target) {
    it->second.last_failure = tried.error->what();
    it->second.breaker.failed(now);
  } else if (!tried.error || !tried.error->node().empty()) {
    targets_.erase(it);  // as good as new
  } else {
    it->second.breaker.unknown();
  }
}

// ---- a call

nats::Message CallClient::request_of(const OutgoingCall& call, const std::string& route,
                                     const CallEnvelope& envelope) const {
  nats::Message message;
  message.subject =
      call_subject(options_.platform, call.app, route,
                   route == "node" ? call.options.node : std::string(), call.method, call.caller);
  message.data = call.payload;
  message.headers = call.options.headers;
  message.headers.emplace_back("Cluster-Call", text_of(envelope));
  if (!call.options.key.empty())
    message.headers.emplace_back("Cluster-Key", escaped_header(call.options.key));
  return message;
}

CallClient::Tried CallClient::try_once(const OutgoingCall& call, const std::string& what,
                                       const nats::Message& message, Duration limit) {
  Tried tried;
  auto answer = exchange_->request(message, limit, call.options.stop);
  if (answer) {
    auto read = read_answer(std::move(answer.value()), what);
    tried.reply = std::move(read.reply);
    tried.error = std::move(read.error);
    tried.ran = read.ran;
    tried.of_target = tried.error && tried.error->errc() == Errc::overloaded && !tried.ran;
    return tried;
  }
  const Error& error = answer.error();
  switch (error.errc()) {
    case Errc::no_responders: tried.error = nobody(call, settled(call.options), what); return tried;
    case Errc::timeout:
      tried.of_target = tried.ran = true;
      tried.error.emplace(
          Errc::unknown_outcome, "unknown_outcome",
          what + ": no answer within " +
              std::to_string(std::chrono::duration_cast<milliseconds>(limit).count()) +
              " ms; whether it was carried out is unknown",
          std::string());
      return tried;
    default:
      tried.ran = error.errc() == Errc::unknown_outcome;
      tried.error.emplace(error.errc(), name_of(error.errc()), what + ": " + error.what(),
                          std::string());
      return tried;
  }
}

CallReply CallClient::carry_out(const OutgoingCall& call) {
  const std::string what = call_to(call.app, call.method);
  check(what, call.app, call.method, call.options);
  const CallOptions& o = call.options;
  const Time deadline = BootClock::now() + o.timeout;
  const std::string route = route_name(settled(o));
  const std::string target = call.app + " " + route + " " + o.node;
  const Duration longest_try = !o.idempotent ? Duration(o.timeout)
                               : o.try_timeout > milliseconds(0)
                                   ? Duration(o.try_timeout)
                                   : Duration(o.timeout) / (o.retries + 1);
  CallEnvelope envelope{next_id(), 1, {}, options_.node};
  Duration wait = kFirstPause;
  bool may_have_run = false;
  for (;; ++envelope.attempt) {
    try {
      check_breaker(target, what);
    } catch (const CallError&) {
      count(call.app, &Counts::refused_by_breaker);
      if (!may_have_run) throw;
      break;
    }
    const Duration limit =
        std::max<Duration>(milliseconds(1), std::min(longest_try, deadline - BootClock::now()));
    envelope.limit = std::chrono::ceil<milliseconds>(limit);
    auto tried = try_once(call, what, request_of(call, route, envelope), limit);
    note(target, tried);
    if (!tried.error) return std::move(tried.reply);
    may_have_run = may_have_run || tried.ran;
    // A handler's own error is an answer; tried again is what nobody has begun.
    const bool answered = tried.ran && !tried.error->node().empty();
    const bool hopeless = tried.error->errc() == Errc::invalid_argument ||
                          tried.error->errc() == Errc::permission_denied ||
                          tried.error->errc() == Errc::not_found;
    const Duration next = std::chrono::duration_cast<Duration>(wait * jitter());
    const bool again = !answered && (!tried.ran || o.idempotent) && (!hopeless || tried.ran) &&
                       envelope.attempt <= o.retries && BootClock::now() + next < deadline &&
                       !o.stop.stop_requested();
    if (!again) {
      if (o.stop.stop_requested() && tried.ran) {
        nats::Message cancel;
        cancel.subject = cancel_subject(options_.platform, call.app);
        cancel.data = envelope.id;
        // Where that fails the handler has its deadline all the same.
        if (auto failure = exchange_->publish(cancel))
          throw CallError(
              tried.error->errc(), tried.error->name(),
              std::string(tried.error->what()) + "; nor could it be cancelled: " + failure->what(),
              {});
      }
      if (may_have_run && !tried.ran)
        throw CallError(
            Errc::unknown_outcome, "unknown_outcome",
            std::string(tried.error->what()) + "; an earlier try may have been carried out", {});
      throw *tried.error;
    }
    count(call.app, &Counts::retries);
    pause(next, o.stop);
    wait = std::min(2 * wait, kLongestPause);
  }
  throw CallError(Errc::unknown_outcome, "unknown_outcome",
                  what + ": its target fails too often; an earlier try may have been carried out",
                  {});
}

// The first one given is the outermost.
CallReply CallClient::pass(std::size_t next, const OutgoingCall& call) {
  if (next == middleware_.size()) return carry_out(call);
  OutgoingCall changed = call;
  return middleware_[next](
      changed, [this, next](const OutgoingCall& inner) { return pass(next + 1, inner); });
}

CallReply CallClient::call(const std::string& caller, const std::string& app,
                           const std::string& method, std::string payload, CallOptions options) {
  gate_.check_may_block(call_to(app, method));
  const OutgoingCall call{caller, app, method, std::move(payload), std::move(options)};
  count(app, &Counts::calls);
  try {
    return pass(0, call);
  } catch (const Error&) {
    count(app, &Counts::errors);
    throw;
  }
}

// ---- to all

std::vector<CallAnswer> CallClient::call_all(const std::string& caller, const std::string& app,
                                             const std::string& method, std::string payload,
                                             const CallOptions& options) {
  const std::string what = call_to(app, method) + " to all";
  gate_.check_may_block(what);
  check(what, app, method, options);
  std::vector<std::string> nodes;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Error(Errc::shutting_down, what + ": the platform has stopped");
    nodes = options_.nodes_with(app);
  }
  if (nodes.empty())
    throw CallError(Errc::no_responders, "no_responders",
                    what + ": no live node has app \"" + app + "\"", {});
  count(app, &Counts::calls);
  const OutgoingCall call{caller, app, method, std::move(payload), options};
  const CallEnvelope envelope{next_id(), 1, options.timeout, options_.node};
  std::map<std::string, CallAnswer> answers;
  const auto all_there = [&] {
    return std::all_of(nodes.begin(), nodes.end(),
                       [&](const std::string& node) { return answers.contains(node); });
  };
  const auto failure = exchange_->gather(
      request_of(call, "all", envelope), options.timeout, options.stop, [&](nats::Message message) {
        auto read = read_answer(std::move(message), what);
        const std::string node = read.reply.node;
        // One that came since has been asked, too.
        answers.try_emplace(node, CallAnswer{node, std::move(read.reply), std::move(read.error)});
        return !all_there();
      });
  const bool asked = !failure || failure->errc() == Errc::timeout ||
                     failure->errc() == Errc::unknown_outcome ||
                     failure->errc() == Errc::no_responders;
  if (!asked) {
    count(app, &Counts::errors);
    throw CallError(failure->errc(), name_of(failure->errc()), what + ": " + failure->what(), {});
  }
  for (const auto& node : nodes) {
    if (answers.contains(node)) continue;
    const bool nobody_there = failure && failure->errc() == Errc::no_responders;
    const Errc code = nobody_there ? Errc::no_responders : Errc::unknown_outcome;
    answers.try_emplace(node, CallAnswer{node,
                                         {},
                                         CallError(code, name_of(code),
                                                   what + ": node \"" + node + "\": " +
                                                       (failure ? failure->what() : "no answer"),
                                                   node)});
  }
  std::vector<CallAnswer> all;
  for (auto& [node, answer] : answers) all.push_back(std::move(answer));
  return all;
}

std::vector<CallClient::Counts> CallClient::counts() const {
  const std::lock_guard lock(mutex_);
  std::vector<Counts> all;
  const Time now = BootClock::now();
  for (const auto& [app, counts] : counts_) {
    all.push_back(counts);
    for (const auto& [target, state] : targets_)
      if (target.starts_with(app + " ") &&
          state.breaker.state(now) != CircuitBreaker::State::closed)
        ++all.back().open_breakers;
  }
  return all;
}

}  // namespace cluster
