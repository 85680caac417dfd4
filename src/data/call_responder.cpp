// How a call is answered, and what may stand around its handler.
#include <algorithm>
#include <cstdio>
#include <mutex>

#include "core/log.h"
#include "core/thrown_by.h"
#include "data/call_message.h"
#include "data/call_server.h"
#include "data/token_bucket.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

std::string checked_name(std::string name) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  if (name.empty() || name.size() > 64 || !std::all_of(name.begin(), name.end(), fits))
    return "handler_failed";
  return name;
}

std::string rate_text(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", per_second);
  return text;
}

double ms(std::chrono::nanoseconds took) { return static_cast<double>(took.count()) / 1e6; }

}  // namespace

CallError::CallError(std::string name, const std::string& message)
    : Error(errc_from(name), message), name_(std::move(name)) {}

std::chrono::milliseconds CallRequest::left() const {
  return std::max(milliseconds(0),
                  std::chrono::duration_cast<milliseconds>(deadline - BootClock::now()));
}

// ---- answers

CallResponder::State::~State() {
  if (reply_to.empty()) return;
  answer(call_failure("no_answer", "its handler has ended without an answer", true, node,
                      request.epoch),
         "no_answer", "no answer");
}

bool CallResponder::State::answer(nats::Message message, std::string error,
                                  const std::string& text) {
  if (answered.exchange(true)) return false;
  CallOutcome result{std::move(error), text, BootClock::now() - begun};
  server->send(std::move(message), reply_to);
  counts->done(result.took, result.error.empty() ? "" : result.error + ":" + text);
  std::vector<std::function<void(const CallOutcome&)>> told;
  {
    const std::lock_guard lock(mutex);
    outcome = result;
    told = std::move(watchers);
  }
  for (const auto& look : told) {
    if (const auto thrown = thrown_by([&] { look(result); }))
      log::warn("call_watcher_threw", {{"app", request.app}, {"why", *thrown}});
  }
  server->part_done(*this);
  return true;
}

bool CallResponder::reply(std::string payload, CallHeaders headers) const {
  return state_->answer(
      call_answer(std::move(payload), std::move(headers), state_->node, state_->request.epoch), {},
      {});
}

bool CallResponder::fail(std::string name, const std::string& message) const {
  name = checked_name(std::move(name));
  return state_->answer(call_failure(name, message, true, state_->node, state_->request.epoch),
                        name, message);
}

bool CallResponder::fail(const std::exception& error) const {
  if (const auto* call = dynamic_cast<const CallError*>(&error))
    return fail(call->name(), call->what());
  if (const auto* ours = dynamic_cast<const Error*>(&error))
    return fail(ours->code().message(), ours->what());
  return fail("handler_failed", error.what());
}

void CallResponder::on_answered(std::function<void(const CallOutcome&)> look) const {
  std::optional<CallOutcome> known;
  {
    const std::lock_guard lock(state_->mutex);
    known = state_->outcome;
    if (!known) state_->watchers.push_back(look);
  }
  if (known) look(*known);
}

// ---- around handlers

CallMiddleware allow_callers(std::vector<std::string> apps) {
  return [apps = std::move(apps)](const CallRequest& request, const CallResponder& responder,
                                  const CallHandler& next) {
    if (std::find(apps.begin(), apps.end(), request.caller_app) != apps.end())
      return next(request, responder);
    responder.fail("permission_denied", "app \"" + request.caller_app + "\" may not call \"" +
                                            request.app + "." + request.method + "\"");
  };
}

CallMiddleware limit_calls(double per_second, double burst) {
  auto bucket = std::make_shared<TokenBucket>(per_second, burst);
  return [bucket, per_second](const CallRequest& request, const CallResponder& responder,
                              const CallHandler& next) {
    if (bucket->take(BootClock::now())) return next(request, responder);
    responder.fail("overloaded", "more than " + rate_text(per_second) + " calls a second of \"" +
                                     request.app + "." + request.method + "\"");
  };
}

CallMiddleware log_calls() {
  return [](const CallRequest& request, const CallResponder& responder, const CallHandler& next) {
    responder.on_answered([app = request.app, method = request.method, from = request.caller_app,
                           node = request.caller_node, id = request.id,
                           bytes = request.payload.size()](const CallOutcome& outcome) {
      log::write(outcome.error.empty() ? log::Level::debug : log::Level::warn, "call",
                 {{"app", app},
                  {"method", method},
                  {"caller", from},
                  {"caller_node", node},
                  {"id", id},
                  {"bytes", bytes},
                  {"ms", ms(outcome.took)},
                  {"error", outcome.error},
                  {"why", outcome.message}});
    });
    next(request, responder);
  };
}

// ---- around callers

CallerMiddleware limit_outgoing_calls(double per_second, double burst) {
  auto bucket = std::make_shared<TokenBucket>(per_second, burst);
  return [bucket, per_second](OutgoingCall& call, const CallSender& next) {
    if (bucket->take(BootClock::now())) return next(call);
    throw CallError(Errc::overloaded, "overloaded",
                    "call to \"" + call.app + "." + call.method + "\": this node makes more than " +
                        rate_text(per_second) + " calls a second",
                    {});
  };
}

CallerMiddleware log_outgoing_calls() {
  return [](OutgoingCall& call, const CallSender& next) {
    const Time begun = BootClock::now();
    const auto tell = [&](log::Level level, const std::string& node, const std::string& error) {
      log::write(level, "outgoing_call",
                 {{"app", call.app},
                  {"method", call.method},
                  {"caller", call.caller},
                  {"bytes", call.payload.size()},
                  {"answered_by", node},
                  {"ms", ms(BootClock::now() - begun)},
                  {"why", error}});
    };
    try {
      auto reply = next(call);
      tell(log::Level::debug, reply.node, {});
      return reply;
    } catch (const std::exception& error) {
      tell(log::Level::warn, {}, error.what());
      throw;
    }
  };
}

}  // namespace cluster
