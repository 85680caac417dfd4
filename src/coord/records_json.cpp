#include "coord/records_json.h"

#include <algorithm>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/number_text.h"

namespace cluster::coord {
namespace {

using Json = nlohmann::json;
constexpr int kVersion = 1;

// A number with a fraction or of any size is one, too, for the parser.
template <typename T>
T whole(const Json& json) {
  if (!json.is_number_integer()) throw Error(Errc::corrupt, json.dump() + " is no whole number");
  return json.get<T>();
}

// Runs `read` on the parsed object; whatever is wrong becomes an Error that names `what`.
template <typename T, typename Read>
Result<T> parsed(const std::string& what, const std::string& text, Read read) {
  auto json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    return Error(Errc::corrupt, what + ": is no JSON object: " + text.substr(0, 100));
  try {
    const auto version = whole<std::int64_t>(json.at("v"));
    if (version > kVersion)
      return Error(Errc::incompatible, what + ": has version " + std::to_string(version) +
                                           ", this program knows up to " +
                                           std::to_string(kVersion) +
                                           ": update cpp-cluster on this node");
    return read(json);
  } catch (const Json::exception& e) {
    return Error(Errc::corrupt, what + ": " + e.what());
  } catch (const Error& e) {
    return Error(e.errc(), what + ": " + e.what());
  }
}

SessionId voter_from(const std::string& text) {
  auto slash = text.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == text.size())
    throw Error(Errc::corrupt, "\"" + text + "\" is no node/session");
  return {text.substr(0, slash), text.substr(slash + 1)};
}

SessionState state_from(const std::string& text) {
  if (text == "live") return SessionState::live;
  if (text == "left") return SessionState::left;
  if (text == "expired") return SessionState::expired;
  throw Error(Errc::corrupt, "\"" + text + "\" is no state of a session");
}

Time time_from(const Json& json) { return Time(Duration(whole<std::int64_t>(json))); }

using What = HeldDatabase::What;
constexpr What kAllHeld[] = {What::unknown,  What::nothing, What::unread,
                             What::database, What::copy,    What::unusable};
constexpr std::size_t kLongestWhy = 200;

// A later version may hold what this one does not know.
What what_from(const std::string& text) {
  for (const auto what : kAllHeld)
    if (text == to_text(what)) return what;
  return What::unknown;
}

void add_hex(Json& json, const char* key, std::uint64_t value) {
  if (value != 0) json[key] = hex(value);
}

std::uint64_t hex_at(const Json& json, const char* key) {
  const auto text = json.value(key, std::string());
  if (text.empty()) return 0;
  const auto value = number_from(text, 16);
  if (!value) throw Error(Errc::corrupt, "\"" + text + "\" is no hexadecimal number");
  return *value;
}

Json json_of(const HeldDatabase& held) {
  Json json{{"holds", to_text(held.what)}};
  add_hex(json, "stream", held.stream);
  add_hex(json, "hash", held.hash);
  if (held.what == What::copy) {
    add_hex(json, "history", held.history);
    json["epoch"] = held.epoch;
    json["txid"] = held.txid;
  }
  if (!held.why.empty()) json["why"] = held.why.substr(0, kLongestWhy);
  return json;
}

HeldDatabase held_from(const Json& json) {
  HeldDatabase held;
  held.what = what_from(json.at("holds").get<std::string>());
  held.stream = hex_at(json, "stream");
  held.hash = hex_at(json, "hash");
  held.history = hex_at(json, "history");
  if (json.contains("epoch")) held.epoch = whole<std::uint64_t>(json["epoch"]);
  if (json.contains("txid")) held.txid = whole<std::uint64_t>(json["txid"]);
  held.why = json.value("why", std::string());
  return held;
}

}  // namespace

const char* to_text(SessionState state) {
  switch (state) {
    case SessionState::live: return "live";
    case SessionState::left: return "left";
    case SessionState::expired: return "expired";
  }
  return "unknown";
}

const char* to_text(HeldDatabase::What what) {
  switch (what) {
    case What::unknown: return "unknown";
    case What::nothing: return "nothing";
    case What::unread: return "unread";
    case What::database: return "database";
    case What::copy: return "copy";
    case What::unusable: return "unusable";
  }
  return "unknown";
}

std::string to_json(const SessionRecord& record) {
  Json voters = Json::array();
  for (const auto& voter : record.voters) voters.push_back(voter.text());
  Json json{{"v", kVersion},
            {"node", record.node},
            {"session", record.session},
            {"state", to_text(record.state)},
            {"voters", std::move(voters)}};
  if (!record.ended_by.empty()) json["ended_by"] = record.ended_by;
  if (const auto& facts = record.facts) {
    json["labels"] = facts->labels;
    json["host"] = facts->host;
    json["boot"] = facts->boot;
    json["folder"] = facts->folder;
    json["version"] = facts->version;
    json["apps"] = facts->apps;
    json["load"] = facts->load;
    json["started"] = facts->started;
    for (const auto& [app, held] : facts->databases) json["databases"][app] = json_of(held);
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<SessionRecord> session_record_from(const std::string& key, const std::string& text) {
  return parsed<SessionRecord>(
      "session record of \"" + key + "\"", text, [&](const Json& json) -> Result<SessionRecord> {
        SessionRecord record;
        record.node = json.at("node").get<std::string>();
        if (record.node != key) throw Error(Errc::corrupt, "it names node \"" + record.node + "\"");
        record.session = json.at("session").get<std::string>();
        record.state = state_from(json.at("state").get<std::string>());
        for (const auto& voter : json.at("voters"))
          record.voters.push_back(voter_from(voter.get<std::string>()));
        record.ended_by = json.value("ended_by", std::string());
        auto facts = std::make_shared<NodeFacts>();
        facts->labels = json.value("labels", std::map<std::string, std::string>());
        facts->host = json.value("host", std::string());
        facts->boot = json.value("boot", std::string());
        facts->folder = json.value("folder", std::string());
        facts->version = json.value("version", std::string());
        facts->apps = json.value("apps", std::vector<std::string>());
        facts->load = json.value("load", 0.0);
        facts->started = json.value("started", std::string());
        if (json.contains("databases"))
          for (const auto& [app, held] : json["databases"].get<std::map<std::string, Json>>())
            facts->databases.emplace(app, held_from(held));
        record.facts = std::move(facts);
        return record;
      });
}

std::string to_json(const LeaseRecord& record) {
  return Json{{"v", kVersion},
              {"app", record.app},
              {"epoch", record.epoch},
              {"state", record.held ? "held" : "released"},
              {"holder", record.holder},
              {"session", record.session},
              {"session_rev", record.session_rev},
              {"target", record.target}}
      .dump();
}

Result<LeaseRecord> lease_record_from(const std::string& key, const std::string& text) {
  return parsed<LeaseRecord>(
      "lease of \"" + key + "\"", text, [&](const Json& json) -> Result<LeaseRecord> {
        LeaseRecord record;
        record.app = json.at("app").get<std::string>();
        if (record.app != key) throw Error(Errc::corrupt, "it names app \"" + record.app + "\"");
        record.epoch = whole<std::uint64_t>(json.at("epoch"));
        std::string state = json.at("state").get<std::string>();
        if (state != "held" && state != "released")
          throw Error(Errc::corrupt, "\"" + state + "\" is no state of a lease");
        record.held = state == "held";
        record.holder = json.at("holder").get<std::string>();
        record.session = json.at("session").get<std::string>();
        record.session_rev = whole<Revision>(json.at("session_rev"));
        record.target = json.value("target", std::string());
        return record;
      });
}

const char* to_text(LockKind kind) {
  switch (kind) {
    case LockKind::lock: return "lock";
    case LockKind::semaphore: return "semaphore";
    case LockKind::barrier: return "barrier";
  }
  return "unknown";
}

namespace {

LockKind lock_kind_from(const std::string& text) {
  for (const auto kind : {LockKind::lock, LockKind::semaphore, LockKind::barrier})
    if (text == to_text(kind)) return kind;
  throw Error(Errc::corrupt, "\"" + text + "\" is no kind of lock");
}

// Locks are written as text at once: a hand-over of one that hundreds want has nothing slower.

std::string quoted(const std::string& text) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c < 0x7f && c != '"' && c != '\\';
  });
  return plain ? '"' + text + '"' : Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string text_of(const LockParty& party) {
  std::string text = R"({"session":)" + quoted(party.session.text());
  text += R"(,"session_rev":)" + std::to_string(party.session_rev);
  text += R"(,"claim":)" + std::to_string(party.claim);
  text += R"(,"asked_ms":)" + std::to_string(party.asked_ms);
  if (party.token != 0) text += R"(,"token":)" + std::to_string(party.token);
  if (party.watches) text += R"(,"watches":true)";
  if (!party.note.empty()) text += R"(,"note":)" + quoted(party.note);
  return text + '}';
}

std::string text_of(const std::vector<LockParty>& parties) {
  std::string text = "[";
  for (const auto& party : parties) text += (text.size() > 1 ? "," : "") + text_of(party);
  return text + ']';
}

std::vector<LockParty> parties_from(const Json& json) {
  if (!json.is_array()) throw Error(Errc::corrupt, json.dump() + " is no list of sessions");
  std::vector<LockParty> all;
  for (const auto& one : json) {
    LockParty party;
    party.session = voter_from(one.at("session").get<std::string>());
    party.session_rev = whole<Revision>(one.at("session_rev"));
    party.claim = whole<std::uint64_t>(one.at("claim"));
    if (one.contains("token")) party.token = whole<Revision>(one.at("token"));
    party.watches = one.value("watches", false);
    party.asked_ms = whole<std::int64_t>(one.at("asked_ms"));
    party.note = one.value("note", std::string());
    all.push_back(std::move(party));
  }
  return all;
}

LockRecord lock_record_from(const Json& json) {
  LockRecord record;
  record.key = json.at("key").get<std::string>();
  record.kind = lock_kind_from(json.at("kind").get<std::string>());
  record.limit = whole<int>(json.at("limit"));
  if (record.limit < 1)
    throw Error(Errc::corrupt, std::to_string(record.limit) + " is no limit of holders");
  record.open = json.value("open", false);
  record.holders = parties_from(json.at("holders"));
  record.waiters = parties_from(json.at("waiters"));
  return record;
}

}  // namespace

std::string to_json(const LockRecord& record) {
  std::string text = R"({"v":)" + std::to_string(kVersion);
  text += R"(,"key":)" + quoted(record.key);
  text += R"(,"kind":)" + quoted(to_text(record.kind));
  text += R"(,"limit":)" + std::to_string(record.limit);
  if (record.open) text += R"(,"open":true)";
  text += R"(,"holders":)" + text_of(record.holders);
  text += R"(,"waiters":)" + text_of(record.waiters);
  return text + '}';
}

Result<LockRecord> lock_record_from(const std::string& key, const std::string& text) {
  return parsed<LockRecord>("lock \"" + key + "\"", text,
                            [&](const Json& json) -> Result<LockRecord> {
                              auto record = lock_record_from(json);
                              if (record.key != key)
                                throw Error(Errc::corrupt, "it names lock \"" + record.key + "\"");
                              return record;
                            });
}

std::string to_json(const LockNotice& notice) {
  return R"({"v":)" + std::to_string(kVersion) + R"(,"rev":)" + std::to_string(notice.rev) +
         R"(,"record":)" + to_json(*notice.record) + '}';
}

Result<LockNotice> lock_notice_from(const std::string& text) {
  return parsed<LockNotice>("lock notice", text, [](const Json& json) -> Result<LockNotice> {
    LockNotice notice;
    notice.rev = whole<Revision>(json.at("rev"));
    notice.record = std::make_shared<const LockRecord>(lock_record_from(json.at("record")));
    return notice;
  });
}

std::string to_json(const Heartbeat& heartbeat) {
  return Json{{"v", kVersion},
              {"to", heartbeat.to},
              {"owner", heartbeat.owner.text()},
              {"rev", heartbeat.rev},
              {"sent", heartbeat.sent.time_since_epoch().count()}}
      .dump();
}

Result<Heartbeat> heartbeat_from(const std::string& text) {
  return parsed<Heartbeat>("heartbeat", text, [](const Json& json) -> Result<Heartbeat> {
    return Heartbeat{json.at("to").get<std::string>(),
                     voter_from(json.at("owner").get<std::string>()),
                     whole<Revision>(json.at("rev")), time_from(json.at("sent"))};
  });
}

std::string to_json(const HeartbeatAck& ack) {
  return Json{{"v", kVersion},
              {"owner", ack.owner.text()},
              {"voter", ack.voter.text()},
              {"sent", ack.sent.time_since_epoch().count()}}
      .dump();
}

Result<HeartbeatAck> heartbeat_ack_from(const std::string& text) {
  return parsed<HeartbeatAck>("heartbeat acknowledgement", text,
                              [](const Json& json) -> Result<HeartbeatAck> {
                                return HeartbeatAck{voter_from(json.at("owner").get<std::string>()),
                                                    voter_from(json.at("voter").get<std::string>()),
                                                    time_from(json.at("sent"))};
                              });
}

std::string to_json(const Withdrawal& withdrawal) {
  return Json{{"v", kVersion},
              {"owner", withdrawal.owner.text()},
              {"rev", withdrawal.rev},
              {"voter", withdrawal.voter.text()}}
      .dump();
}

Result<Withdrawal> withdrawal_from(const std::string& text) {
  return parsed<Withdrawal>("withdrawal", text, [](const Json& json) -> Result<Withdrawal> {
    return Withdrawal{voter_from(json.at("owner").get<std::string>()),
                      whole<Revision>(json.at("rev")),
                      voter_from(json.at("voter").get<std::string>())};
  });
}

}  // namespace cluster::coord
