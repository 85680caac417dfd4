#include "data/call_server.h"

#include <algorithm>
#include <utility>

#include "cluster/version.h"
#include "core/log.h"
#include "core/names.h"
#include "data/call_message.h"

namespace cluster {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds kGrace{500};

}  // namespace

CallServer::CallServer(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
                       Options options)
    : gate_(loop),
      loop_(loop),
      strands_(strands),
      exchange_(std::move(exchange)),
      options_(std::move(options)) {}

// ---- before it runs

void CallServer::check_idle(const char* what) const {
  const std::lock_guard lock(mutex_);
  if (connection_ || over_)
    throw Error(Errc::invalid_argument, "app \"" + options_.app + "\": " + what +
                                            " was called after Platform::run(): it has to come "
                                            "before");
}

void CallServer::handle(const std::string& method, CallHandler handler, MethodOptions options) {
  check_idle("handle()");
  const std::string what = "app \"" + options_.app + "\": method \"" + method + "\": ";
  if (auto fault = method_fault(method); !fault.empty())
    throw Error(Errc::invalid_argument, what + fault);
  if (!handler) throw Error(Errc::invalid_argument, what + "it has no handler");
  if (!methods_.emplace(method, Method{std::move(handler), options}).second)
    throw Error(Errc::invalid_argument, what + "it has a handler already");
}

void CallServer::use(CallMiddleware middleware) {
  check_idle("use()");
  if (!middleware)
    throw Error(Errc::invalid_argument, "app \"" + options_.app + "\": no middleware was given");
  middleware_.push_back(std::move(middleware));
}

// ---- the loop's side

void CallServer::open(nats::Connection& connection) {
  if (methods_.empty() || !subscriptions_.empty()) return;
  ending_.clear();
  {
    const std::lock_guard lock(mutex_);
    connection_ = &connection;
    open_ = true;
  }
  // The first one given is the outermost.
  if (!middleware_.empty()) {
    for (auto& [name, method] : methods_)
      for (auto it = middleware_.rbegin(); it != middleware_.rend(); ++it)
        method.handler = [around = *it, next = std::move(method.handler)](
                             const CallRequest& request, CallResponder responder) {
          around(request, std::move(responder), next);
        };
    middleware_.clear();
  }
  const auto subject = [&](const char* route, const std::string& node = {}) {
    return call_subject(options_.platform, options_.app, route, node, "*", "*");
  };
  const auto listen = [&](const std::string& to, const std::string& queue) {
    subscriptions_.push_back(connection.subscribe_direct(
        to, [self = shared_from_this()](nats::Message m) { self->take(std::move(m)); }, queue));
  };
  listen(subject("any"), "q");
  listen(subject("node", options_.node), {});
  listen(subject("all"), {});
  if (!options_.singleton) listen(subject("key"), "q");
  subscriptions_.push_back(connection.subscribe_direct(
      cancel_subject(options_.platform, options_.app),
      [self = shared_from_this()](const nats::Message& m) { self->cancel(m.payload()); }));
  service_ = std::make_unique<nats::MicroService>(
      connection,
      nats::ServiceConfig{
          .name = options_.platform + "_" + options_.app,
          .version = CLUSTER_VERSION,
          .description = "app " + options_.app + " of platform " + options_.platform,
          .metadata = {
              {"platform", options_.platform}, {"app", options_.app}, {"node", options_.node}}});
  for (const auto& [name, method] : methods_)
    service_->show_endpoint(
        name, call_subject(options_.platform, options_.app, "any", {}, name, "*"), method.counts);
}

// In a queue group each call goes to one of those that listen: when that is a leader whose lead has
// passed, its answer not_leader means that nobody has carried the call out.
void CallServer::lead_begins() {
  if (subscriptions_.empty() || !of_lead_.empty()) return;
  ending_.clear();
  {
    const std::lock_guard lock(mutex_);
    leads_ = true;
  }
  for (const char* route : {"leader", "key"})
    of_lead_.push_back(connection_->subscribe_direct(
        call_subject(options_.platform, options_.app, route, {}, "*", "*"),
        [self = shared_from_this()](nats::Message m) { self->take(std::move(m)); }, "q"));
}

// A call that is on its way here is answered, instead of leaving its caller to wait.
void CallServer::let_end(std::vector<nats::Subscription> subscriptions) {
  for (auto& subscription : subscriptions) ending_.push_back(std::move(subscription));
  ending_timer_ = loop_.after(kGrace, [this] { ending_.clear(); });
}

void CallServer::lead_ends() {
  if (of_lead_.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    leads_ = false;
  }
  let_end(std::exchange(of_lead_, {}));
  stop_where([](const State& state) { return state.of_lead; });
}

void CallServer::close_doors() {
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  let_end(std::exchange(of_lead_, {}));
  let_end(std::exchange(subscriptions_, {}));
  service_.reset();
  stop_where([](const State&) { return true; });
}

void CallServer::close() {
  close_doors();
  gate_.close();
  timer_.reset();
  ending_timer_.reset();
  ending_.clear();
  const std::lock_guard lock(mutex_);
  over_ = true;
  connection_ = nullptr;
  all_strands_.clear();  // none is taken any more
}

// To be looked at without the mutex: the last one that lets go of a call which nobody has answered
// answers it, and that takes the mutex.
std::vector<std::shared_ptr<CallServer::State>> CallServer::under_way() const {
  std::vector<std::shared_ptr<State>> all;
  const std::lock_guard lock(mutex_);
  for (const auto& [number, weak] : running_)
    if (auto state = weak.lock()) all.push_back(std::move(state));
  return all;
}

// Whoever waits for that may run at once, on this thread.
void CallServer::stop_where(const std::function<bool(const State&)>& hit) {
  for (const auto& state : under_way())
    if (hit(*state)) state->stop.request_stop();
}

// ---- calls

std::string CallServer::known_methods() const {
  std::string all;
  for (const auto& [name, method] : methods_) all += (all.empty() ? "" : ", ") + name;
  return all;
}

std::optional<std::pair<std::string, std::string>> CallServer::objection(
    const CallRequest& request) const {
  if (!open_ || over_)
    return std::pair("shutting_down", "node \"" + options_.node + "\" stops, or has no session");
  if (!methods_.contains(request.method)) {
    const auto nearest = nearest_name(request.method, [&] {
      std::vector<std::string> names;
      for (const auto& [name, method] : methods_) names.push_back(name);
      return names;
    }());
    return std::pair("not_found",
                     "app \"" + options_.app + "\" has no method \"" + request.method + "\"" +
                         (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?") +
                         " It has: " + known_methods());
  }
  const bool wants_lead =
      request.route == Route::leader || (request.route == Route::key && options_.singleton);
  if (wants_lead && request.epoch == 0)
    return std::pair("not_leader",
                     "node \"" + options_.node + "\" does not lead app \"" + options_.app + "\"");
  if (running_.size() >= static_cast<std::size_t>(options_.limits.concurrency))
    return std::pair("overloaded",
                     std::to_string(options_.limits.concurrency) + " calls to app \"" +
                         options_.app + "\" are under way on node \"" + options_.node +
                         "\": its limit (apps." + options_.app + ".calls.concurrency)");
  return std::nullopt;
}

void CallServer::take(nats::Message message) {
  if (message.reply.empty()) return;  // nobody can be answered
  auto request = call_request(message, options_.platform, BootClock::now());
  if (!request) return refuse(message, "invalid_argument", request.error().what());
  std::unique_lock lock(mutex_);
  if (!over_ && leads_) request.value().epoch = options_.lead().value_or(0);
  if (const auto no = objection(request.value())) {
    if (no->first == "overloaded") ++overloaded_;
    lock.unlock();
    return refuse(message, no->first, no->second);
  }
  const auto state =
      std::make_shared<State>(shared_from_this(), options_.node, std::move(request.value()));
  const auto& method = methods_.at(state->request.method);
  state->reply_to = message.reply;
  state->handler = method.handler;
  state->counts = method.counts;
  state->begun = BootClock::now();
  state->request.stop = state->stop.get_token();
  state->of_lead = state->request.route == Route::leader;
  state->number = ++last_;
  running_.emplace(state->number, state);
  plan(state->request.deadline);
  state->counts->came();
  if (method.options.quick) {
    lock.unlock();
    const nats::Exchange::MayNotBlock here;
    return run(state);
  }
  const std::size_t place = a_strand();
  const auto strand = all_strands_[place];
  lock.unlock();  // who is woken wants it before long
  if (post(*strand, place, state)) return;
  // Nothing has run: the system gives no thread, or the platform is over.
  state->parts.store(1);
  state->answer(call_failure("overloaded", "node \"" + options_.node + "\" has no thread for it",
                             false, options_.node, state->request.epoch),
                "overloaded", "no thread");
}

bool CallServer::post(Strand& strand, std::size_t place, const std::shared_ptr<State>& state) {
  const bool posted = strand.post([state, place] {
    const auto server = state->server;
    server->run(state);
    const std::lock_guard lock(server->mutex_);
    server->free_strands_.push_back(place);
  });
  if (posted) return true;
  const std::lock_guard lock(mutex_);
  free_strands_.push_back(place);
  return false;
}

std::size_t CallServer::a_strand() {
  if (free_strands_.empty()) {
    all_strands_.push_back(strands_.strand());
    return all_strands_.size() - 1;
  }
  const std::size_t strand = free_strands_.back();
  free_strands_.pop_back();
  return strand;
}

void CallServer::refuse(const nats::Message& message, const std::string& name,
                        const std::string& text) {
  send(call_failure(name, text, false, options_.node, 0), message.reply);
}

void CallServer::run(const std::shared_ptr<State>& state) {
  const CallResponder responder(state);
  if (BootClock::now() >= state->request.deadline) {
    state->answer(call_failure("timeout", "its time was up before it could begin", false,
                               options_.node, state->request.epoch),
                  "timeout", "too late");
  } else {
    try {
      state->handler(state->request, responder);
    } catch (const std::exception& error) {
      if (!responder.fail(error))
        log::warn("call_threw_late", {{"app", options_.app},
                                      {"node", options_.node},
                                      {"method", state->request.method},
                                      {"why", error.what()}});
    } catch (...) {
      responder.fail("handler_failed", "the handler threw what is no std::exception");
    }
  }
  part_done(*state);
}

void CallServer::part_done(State& state) {
  if (state.parts.fetch_sub(1) != 1) return;
  const std::lock_guard lock(mutex_);
  running_.erase(state.number);
}

void CallServer::send(nats::Message message, const std::string& to) {
  message.subject = to;
  auto failure = exchange_->publish(message);
  if (!failure) return;
  // Without a connection the caller has lost his, too.
  if (failure->errc() != Errc::invalid_argument) return;
  nats::Message instead =
      call_failure("answer_unsendable", failure->what(), true, options_.node, 0);
  instead.subject = to;
  if (auto again = exchange_->publish(instead))
    log::warn("call_unanswered",
              {{"app", options_.app}, {"node", options_.node}, {"why", again->what()}});
}

void CallServer::cancel(const std::string& id) {
  if (!id.empty()) stop_where([&](const State& state) { return state.request.id == id; });
}

// ---- deadlines

void CallServer::plan(Time deadline) {
  if (deadline >= planned_) return;
  planned_ = deadline;
  gate_.post([self = shared_from_this(), deadline] {
    self->timer_ = self->loop_.at(deadline, [server = self.get()] { server->sweep(); });
  });
}

void CallServer::sweep() {
  {
    const std::lock_guard lock(mutex_);
    planned_ = Time::max();
  }
  const Time now = BootClock::now();
  Time next = Time::max();
  for (const auto& state : under_way())
    if (state->request.deadline <= now)
      state->stop.request_stop();
    else
      next = std::min(next, state->request.deadline);
  const std::lock_guard lock(mutex_);
  plan(next);
}

CallServer::Counts CallServer::counts() const {
  Counts counts;
  for (const auto& [name, method] : methods_)
    counts.methods.push_back(
        {name, method.counts->requests(), method.counts->errors(), method.counts->busy_ns()});
  const std::lock_guard lock(mutex_);
  counts.overloaded = overloaded_;
  counts.running = running_.size();
  return counts;
}

}  // namespace cluster
