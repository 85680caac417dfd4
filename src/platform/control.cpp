#include "platform/control.h"

#include <algorithm>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cluster/version.h"
#include "core/ids.h"
#include "core/json_fields.h"
#include "core/log.h"
#include "core/number_text.h"
#include "platform/snapshot_messages.h"

namespace cluster {
namespace {

using Json = nlohmann::json;

std::string subject(const std::string& platform, const std::string& node, const char* what) {
  return platform + "._.node." + node + "." + what;
}

constexpr std::size_t kUsualPayload = std::size_t{1024} * 1024;

int code_of(const Error& error) {
  switch (error.errc()) {
    case Errc::app_not_found:
    case Errc::not_found: return 404;
    case Errc::not_leader: return 409;
    case Errc::node_not_found: return 422;
    case Errc::timeout: return 408;
    case Errc::invalid_argument: return 400;
    case Errc::not_replicated: return 424;
    default: return 500;
  }
}

}  // namespace

ControlService::ControlService(nats::Connection& connection, const std::string& platform,
                               const std::string& node, Answers answers)
    : connection_(connection),
      node_(node),
      answers_(std::move(answers)),
      service_(
          connection,
          {.name = platform,
           .version = CLUSTER_VERSION,
           .description = "a node of a cpp-cluster platform",
           .metadata = {{"platform", platform}, {"node", node}, {"host", short_host_name()}}}) {
  service_.add_endpoint(
      "ping", subject(platform, node, "ping"),
      [this](nats::Message, nats::Responder responder) { ping(std::move(responder)); });
  service_.add_endpoint("status", subject(platform, node, "status"),
                        [this](nats::Message request, nats::Responder responder) {
                          status(request, std::move(responder));
                        });
  service_.add_endpoint("lead", subject(platform, node, "lead"),
                        [this](nats::Message request, nats::Responder responder) {
                          lead(request, std::move(responder));
                        });
  service_.add_endpoint("stepdown", subject(platform, node, "stepdown"),
                        [this](nats::Message request, nats::Responder responder) {
                          step_down(request, std::move(responder));
                        });
  service_.add_endpoint("snapshot", subject(platform, node, "snapshot"),
                        [this](nats::Message request, nats::Responder responder) {
                          snapshot(request, std::move(responder));
                        });
  service_.add_endpoint("verify", subject(platform, node, "verify"),
                        [this](nats::Message request, nats::Responder responder) {
                          verify(request, std::move(responder));
                        });
  service_.add_endpoint("scrub", subject(platform, node, "scrub"),
                        [this](nats::Message request, nats::Responder responder) {
                          scrub(request, std::move(responder));
                        });
  // The app is a part of the subject, so that a user of one app can be kept from another one's.
  service_.add_endpoint("peer", subject(platform, node, "peer.*"),
                        [this](nats::Message request, nats::Responder responder) {
                          peer(request, std::move(responder));
                        });
  service_.add_endpoint("quarantine", subject(platform, node, "quarantine"),
                        [this](nats::Message request, nats::Responder responder) {
                          quarantine(request, std::move(responder));
                        });
}

std::size_t ControlService::most_bytes() const {
  const auto payload = connection_.server().max_payload;
  return payload > 0 ? static_cast<std::size_t>(payload) : kUsualPayload;
}

void ControlService::ping(nats::Responder responder) const {
  responder.reply(Json{{"v", 1},
                       {"node", node_},
                       {"host", short_host_name()},
                       {"pid", ::getpid()},
                       {"since", answers_.started},
                       {"session", answers_.session()}}
                      .dump());
}

// What does not fit into one message is asked for piece by piece.
void ControlService::status(const nats::Message& request, nats::Responder responder) const {
  const auto most = most_bytes();
  responder.reply(
      answers_.status(text_in(Json::parse(request.data, nullptr, false), "after"), most));
}

void ControlService::lead(const nats::Message& request, nats::Responder responder) const {
  const auto query = lead_query_from(request.data);
  if (!query) return responder.fail(code_of(query.error()), query.error().what());
  auto answer = std::make_shared<nats::Responder>(std::move(responder));
  answers_.lead(query.value(), [answer, app = query.value().app](const Result<LeadState>& state) {
    if (!state) return answer->fail(code_of(state.error()), state.error().what());
    answer->reply(to_text(app, state.value()));
  });
}

void ControlService::step_down(const nats::Message& request, nats::Responder responder) const {
  auto json = Json::parse(request.data, nullptr, false);
  const std::string app = text_in(json, "app");
  if (app.empty())
    return responder.fail(
        400,
        R"(stepdown: the request is no JSON object with "app": {"v":1,"app":"NAME","target":"NODE"})");
  StepDown how;
  how.target = text_in(json, "target");
  if (json.contains("force") && !json["force"].is_boolean())
    return responder.fail(400, "stepdown: force is neither true nor false");
  how.force = json.contains("force") && json["force"] == true;
  if (json.contains("timeout_ms")) {
    const auto& value = json["timeout_ms"];
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() == 0 ||
        value.get<std::uint64_t>() > 3'600'000)
      return responder.fail(400, "stepdown: timeout_ms is no whole number from 1 to 3600000");
    how.timeout = std::chrono::milliseconds(value.get<std::uint64_t>());
  }
  auto answer = std::make_shared<nats::Responder>(std::move(responder));
  answers_.step_down(app, how, [answer, app](const Result<SteppedDown>& result) {
    if (!result) return answer->fail(code_of(result.error()), result.error().what());
    const auto& [epoch, next, stopped, left] = result.value();
    Json reply{
        {"v", 1},
        {"app", app},
        {"epoch", epoch},
        {"next", next},
        {"stopped_ms", std::chrono::duration_cast<std::chrono::milliseconds>(stopped).count()},
        {"left", nullptr}};
    if (left.transactions() > 0)
      reply["left"] = {{"transactions", left.transactions()},
                       {"first", left.first},
                       {"last", left.last},
                       {"bytes", left.bytes},
                       {"why", left.why}};
    answer->reply(text_of(reply));
  });
}

void ControlService::snapshot(const nats::Message& request, nats::Responder responder) const {
  const auto json = Json::parse(request.data, nullptr, false);
  const std::string app = text_in(json, "app");
  if (app.empty())
    return responder.fail(
        400, R"(snapshot: the request is no JSON object with "app": {"v":1,"app":"NAME"})");
  const auto answer = answers_.snapshot(app, text_in(json, "id"));
  if (!answer) return responder.fail(code_of(answer.error()), answer.error().what());
  responder.reply(answer_text(app, answer.value()));
}

void ControlService::verify(const nats::Message& request, nats::Responder responder) const {
  const auto json = Json::parse(request.data, nullptr, false);
  const std::string app = text_in(json, "app");
  if (app.empty())
    return responder.fail(
        400, R"(verify: the request is no JSON object with "app": {"v":1,"app":"NAME"})");
  const auto at =
      json.contains("at") && json["at"].is_number_unsigned() ? json["at"].get<std::uint64_t>() : 0;
  const auto answer = answers_.verify(app, text_in(json, "id"), at);
  if (!answer) return responder.fail(code_of(answer.error()), answer.error().what());
  const auto& a = answer.value();
  // A number takes 11 bytes at most.
  const auto some_of = [most = most_bytes() / 32](std::vector<sqlite::PageNumber> pages) {
    pages.resize(std::min(pages.size(), most));
    return pages;
  };
  Json out{{"v", 1},
           {"app", app},
           {"id", a.id},
           {"role", a.leads ? "primary" : "standby"},
           {"result", nullptr}};
  if (const auto& r = a.result)
    out["result"] = {
        {"sound", r->sound()},       {"epoch", r->epoch},
        {"txid", r->txid},           {"sequence", r->sequence},
        {"hash", hex(r->found)},     {"noted", hex(r->noted)},
        {"page_size", r->page_size}, {"pages", r->pages},
        {"wrong", r->wrong},         {"wrong_pages", some_of(r->named)},
        {"damage", r->damage},       {"noted_at", r->noted_at ? Json(hex(*r->noted_at)) : Json()}};
  else
    out["progress"] = {{"pages", a.pages}, {"of", a.of}, {"txid", a.txid}};
  responder.reply(out.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void ControlService::scrub(const nats::Message& request, nats::Responder responder) const {
  const auto json = Json::parse(request.data, nullptr, false);
  const std::string app = text_in(json, "app");
  if (app.empty())
    return responder.fail(
        400, R"(scrub: the request is no JSON object with "app": {"v":1,"app":"NAME"})");
  if (const auto failure = answers_.scrub(app))
    return responder.fail(code_of(*failure), failure->what());
  responder.reply(Json{{"v", 1}, {"app", app}}.dump());
}

void ControlService::peer(const nats::Message& request, nats::Responder responder) const {
  auto asked = peer_request_from(request.data);
  if (!asked) return responder.fail(code_of(asked.error()), asked.error().what());
  const std::string app = request.subject.substr(request.subject.rfind('.') + 1);
  auto answer = std::make_shared<nats::Responder>(std::move(responder));
  answers_.peer(app, std::move(asked.value()), [answer](Result<std::string> result) {
    if (!result) return answer->fail(code_of(result.error()), result.error().what());
    answer->reply(std::move(result.value()));
  });
}

void ControlService::quarantine(const nats::Message& request, nats::Responder responder) const {
  auto asked = quarantine_request_from(request.data);
  if (!asked) return responder.fail(code_of(asked.error()), asked.error().what());
  auto answer = std::make_shared<nats::Responder>(std::move(responder));
  answers_.quarantine(std::move(asked.value()), [answer](Result<std::string> result) {
    if (!result) return answer->fail(code_of(result.error()), result.error().what());
    answer->reply(std::move(result.value()));
  });
}

void ask_for_node(nats::Connection& connection, const std::string& platform,
                  const std::string& node, Callback<std::string> done) {
  nats::Message request;
  request.subject = subject(platform, node, "ping");
  connection.request(
      std::move(request), std::chrono::seconds(1), [done](Result<nats::Message> answer) {
        if (!answer) return done(answer.error());
        auto json = Json::parse(answer.value().data, nullptr, false);
        auto text = [&](const char* key) {
          return json.is_object() && json.contains(key) && json[key].is_string()
                     ? json[key].get<std::string>()
                     : std::string("unknown");
        };
        std::string pid = json.is_object() && json.contains("pid") && json["pid"].is_number()
                              ? json["pid"].dump()
                              : "unknown";
        done("process " + pid + " on host " + text("host") + ", since " + text("since"));
      });
}

}  // namespace cluster
