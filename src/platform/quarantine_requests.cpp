#include "platform/quarantine_requests.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/ids.h"
#include "core/json_fields.h"
#include "core/log.h"
#include "core/number_text.h"
#include "nats/stored_message.h"
#include "sqlite/file.h"
#include "sqlite/hash_file.h"
#include "sqlite/quarantine.h"
#include "sqlite/set_aside.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using sqlite::Quarantined;

constexpr std::size_t kMostWaiting = 64;            // requests
constexpr std::size_t kMostBytesRead = 512 * 1024;  // in one answer
constexpr std::size_t kMostBytesListed = 256 * 1024;
constexpr std::size_t kLongestName = 255;  // that a file can have

Json known_or_null(std::uint64_t value) { return value == 0 ? Json() : Json(value); }

Json json_of(const Quarantined& one) {
  Json json{{"name", one.name()},
            {"path", one.path},
            {"kind", sqlite::to_text(one.kind)},
            {"bytes", one.bytes},
            {"wal_bytes", one.wal_bytes},
            {"journal_bytes", one.journal_bytes},
            {"changed_ns", one.changed_ns},
            {"mode", one.mode},
            {"uid", one.uid},
            {"gid", one.gid},
            {"since", nats::rfc3339_from(one.since_ms * 1'000'000)},
            {"noted", one.note.has_value()}};
  const sqlite::QuarantineNote note = one.note.value_or(sqlite::QuarantineNote{});
  if (note.since_ms != 0) json["since"] = nats::rfc3339_from(note.since_ms * 1'000'000);
  json["history"] = note.history == 0 ? Json() : Json(hex(note.history));
  json["epoch"] = known_or_null(note.epoch);
  json["first"] = known_or_null(note.first);
  json["last"] = known_or_null(note.last);
  json["transactions"] = note.held ? Json(note.held->transactions) : Json();
  json["counted"] = !note.held ? "unknown" : note.held->at_least ? "at least" : "exact";
  json["noted_app"] = note.app;
  json["noted_node"] = note.node;
  json["why"] = note.why;
  return json;
}

std::string list_text(const QuarantineRequest& request, const std::vector<std::string>& databases,
                      const std::string& node, std::size_t most_bytes) {
  Json json{{"v", 1},
            {"app", request.app},
            {"node", node},
            {"host", short_host_name()},
            {"boot", hex(sqlite::this_boot())},
            {"left_off", 0},
            {"quarantined", Json::array()}};
  if (!request.name.empty()) {
    json["quarantined"].push_back(json_of(sqlite::find_quarantined(databases, request.name)));
    return text_of(json);
  }
  auto all = sqlite::in_quarantine(databases);
  std::size_t size = text_of(json).size(), taken = 0;
  for (; taken < all.size(); ++taken) {
    all[taken].note = sqlite::read_note(all[taken].path);
    Json one = json_of(all[taken]);
    size += text_of(one).size() + 1;
    if (size > std::min(most_bytes, kMostBytesListed)) break;
    json["quarantined"].push_back(std::move(one));
  }
  json["left_off"] = all.size() - taken;
  return text_of(json);
}

std::string remove_one(const QuarantineRequest& request,
                       const std::vector<std::string>& databases) {
  const Quarantined one = sqlite::find_quarantined(databases, request.name);
  sqlite::remove_set_aside(one.path);
  log::warn("quarantine_deleted",
            {{"app", request.app}, {"kept", one.path}, {"means", "somebody has asked for it"}});
  return text_of(Json{{"v", 1}, {"app", request.app}, {"removed", json_of(one)}});
}

std::string carry_out(const QuarantineRequest& request, const std::vector<std::string>& paths,
                      const std::string& node, std::size_t most_bytes) {
  // As the database's own names are made.
  std::vector<std::string> databases;
  for (const auto& path : paths) databases.push_back(sqlite::real_path(path));
  switch (request.op) {
    case QuarantineRequest::Op::list: return list_text(request, databases, node, most_bytes);
    case QuarantineRequest::Op::remove: return remove_one(request, databases);
    case QuarantineRequest::Op::read:
      return sqlite::read_quarantined(
          sqlite::find_quarantined(databases, request.name), request.suffix, request.offset,
          std::min({std::size_t{request.size}, kMostBytesRead, most_bytes}));
  }
  return {};
}

}  // namespace

Result<QuarantineRequest> quarantine_request_from(const std::string& text) {
  const auto json = Json::parse(text, nullptr, false);
  const auto refused = [](const std::string& why) {
    return Error(Errc::invalid_argument,
                 "quarantine: " + why + R"(: {"v":1,"app":"NAME","op":"list|read|delete"})");
  };
  QuarantineRequest request;
  request.app = text_in(json, "app");
  if (request.app.empty()) return refused("the request is no JSON object with \"app\"");
  const std::string op = text_in(json, "op");
  if (op == "list")
    request.op = QuarantineRequest::Op::list;
  else if (op == "read")
    request.op = QuarantineRequest::Op::read;
  else if (op == "delete")
    request.op = QuarantineRequest::Op::remove;
  else
    return refused("\"op\" is unknown");
  request.name = text_in(json, "name");
  if (request.name.empty() && request.op != QuarantineRequest::Op::list)
    return refused("\"name\" is missing");
  if (request.name.size() > kLongestName || request.name.find('/') != std::string::npos ||
      request.name.find('\0') != std::string::npos)
    return refused("\"name\" is no file's name");
  request.suffix = text_in(json, "suffix");
  if (!request.suffix.empty() && request.suffix != "-wal" && request.suffix != "-journal")
    return refused("\"suffix\" is neither \"-wal\" nor \"-journal\"");
  request.offset = number_in(json, "offset");
  request.size = number_in(json, "size");
  return request;
}

QuarantineRequests::QuarantineRequests(Loop& loop, StrandPool& strands, std::string node)
    : loop_(loop), node_(std::move(node)), strand_(strands.strand(kMostWaiting)) {}

QuarantineRequests::~QuarantineRequests() { *alive_ = false; }

void QuarantineRequests::ask(QuarantineRequest request, std::vector<std::string> databases,
                             std::size_t most_bytes, Callback<std::string> done) {
  auto reply = [alive = alive_, &loop = loop_, done](Result<std::string> result) {
    loop.post([alive, done, result = std::move(result)] {
      if (*alive) done(result);
    });
  };
  auto task = [reply, request = std::move(request), databases = std::move(databases), node = node_,
               most_bytes] {
    try {
      reply(carry_out(request, databases, node, most_bytes));
    } catch (const Error& error) {
      reply(error);
    } catch (const std::exception& error) {
      reply(Error(Errc::system, error.what()));
    }
  };
  if (!strand_->post(std::move(task)))
    done(Error(Errc::unavailable, "quarantine: this node is asked too much at once: try again"));
}

}  // namespace cluster
