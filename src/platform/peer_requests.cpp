#include "platform/peer_requests.h"

#include <limits>
#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "core/number_text.h"

namespace cluster {
namespace {

using Json = nlohmann::json;

constexpr std::uint32_t kLargestPage = 65'536;

}  // namespace

std::string text_of(const PeerRequest& request) {
  if (request.op == PeerRequest::Op::state) return text_of(Json{{"v", 1}, {"op", "state"}});
  const auto& page = request.page;
  return text_of(Json{{"v", 1},
                      {"op", "page"},
                      {"page", page.page},
                      {"hash", hex(page.hash)},
                      {"offset", page.offset},
                      {"size", page.size}});
}

Result<PeerRequest> peer_request_from(const std::string& text) {
  const auto json = Json::parse(text, nullptr, false);
  const auto refused = [](const std::string& why) {
    return Error(Errc::invalid_argument, "peer: " + why + R"(: {"v":1,"op":"page|state"})");
  };
  const std::string op = text_in(json, "op");
  PeerRequest request;
  if (op == "state") return request;
  if (op != "page") return refused(op.empty() ? "there is no \"op\"" : "\"op\" is unknown");
  request.op = PeerRequest::Op::page;
  const auto page = number_in(json, "page");
  const auto hash = number_from(text_in(json, "hash"), 16);
  const auto offset = number_in(json, "offset"), size = number_in(json, "size");
  if (page == 0 || page > std::numeric_limits<sqlite::PageNumber>::max())
    return refused("\"page\" is no page's number");
  if (!hash || *hash == 0) return refused("\"hash\" is no page's hash");
  if (offset >= kLargestPage || size == 0 || size > kLargestPage)
    return refused("\"offset\" and \"size\" are no part of a page");
  request.page = {static_cast<sqlite::PageNumber>(page), *hash, static_cast<std::uint32_t>(offset),
                  static_cast<std::uint32_t>(size)};
  return request;
}

PeerState peer_state_of(const sqlite::ReplicatedDatabase::Status& status) {
  using Phase = sqlite::DatabaseCopy::Phase;
  return {status.role == sqlite::ReplicatedDatabase::Role::standby &&
              status.copy == Phase::following && status.ready && status.trouble.empty() &&
              status.scrub.wrong.empty(),
          status.lag_records};
}

std::string text_of(const PeerState& state) {
  return text_of(Json{{"v", 1}, {"sound", state.sound}, {"lag_records", state.lag_records}});
}

Result<PeerState> peer_state_from(const std::string& text) {
  const auto json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("sound") || !json["sound"].is_boolean())
    return Error(Errc::incompatible, "peer: the answer does not say whether its copy is sound");
  return PeerState{json["sound"].get<bool>(), number_in(json, "lag_records")};
}

namespace {

struct Search {
  std::function<void(const std::string&)> done;
  std::size_t waits_for = 0;
  std::uint64_t least = 0;
  std::string found{};
};

}  // namespace

void find_sound_standby(const AskPeer& ask, const std::vector<std::string>& nodes,
                        std::uint64_t most_lag, std::function<void(const std::string& node)> done) {
  if (nodes.empty()) return done({});
  auto search = std::make_shared<Search>();
  search->done = std::move(done);
  search->waits_for = nodes.size();
  search->least = most_lag;
  for (const auto& node : nodes)
    ask(node, {}, [search, node](const Result<std::string>& answer) {
      const auto state = answer ? peer_state_from(answer.value()) : answer.error();
      if (state && state.value().sound && state.value().lag_records <= search->least) {
        search->least = state.value().lag_records;
        search->found = node;
      }
      if (--search->waits_for == 0) search->done(search->found);
    });
}

}  // namespace cluster
