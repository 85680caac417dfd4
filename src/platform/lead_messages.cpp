#include "platform/lead_messages.h"

#include <nlohmann/json.hpp>

#include "core/json_fields.h"

namespace cluster {
namespace {

using Json = nlohmann::json;

bool true_in(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key] == true;
}

}  // namespace

std::string to_text(const LeadQuery& query) {
  return text_of(
      Json{{"v", 1}, {"app", query.app}, {"check", query.check}, {"sequence", query.sequence}});
}

Result<LeadQuery> lead_query_from(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  LeadQuery query{text_in(json, "app"), true_in(json, "check"), number_in(json, "sequence")};
  if (query.app.empty())
    return Error(Errc::invalid_argument,
                 R"(lead: the request is no JSON object with "app": {"v":1,"app":"NAME"})");
  return query;
}

std::string to_text(const std::string& app, const LeadState& state) {
  Json json{{"v", 1},
            {"app", app},
            {"phase", state.phase},
            {"epoch", state.epoch},
            {"ready", state.ready},
            {"why", state.why},
            {"has", state.has},
            {"sequence", state.sequence},
            {"last_error", state.last_error},
            {"hand_over", nullptr}};
  if (const auto& h = state.hand_over)
    json["hand_over"] = {{"stage", h->stage},
                         {"next", h->next},
                         {"stopped", h->stopped},
                         {"transactions", h->transactions},
                         {"bytes", h->bytes}};
  return text_of(json);
}

Result<LeadState> lead_state_from(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  LeadState state;
  state.phase = text_in(json, "phase");
  if (state.phase.empty())
    return Error(Errc::incompatible, "its answer is not what a node of this version says");
  state.epoch = number_in(json, "epoch");
  state.ready = true_in(json, "ready");
  state.why = text_in(json, "why");
  state.has = true_in(json, "has");
  state.sequence = number_in(json, "sequence");
  state.last_error = text_in(json, "last_error");
  if (const auto& h = json.value("hand_over", Json()); h.is_object())
    state.hand_over = {text_in(h, "stage"), text_in(h, "next"), true_in(h, "stopped"),
                       number_in(h, "transactions"), number_in(h, "bytes")};
  return state;
}

}  // namespace cluster
