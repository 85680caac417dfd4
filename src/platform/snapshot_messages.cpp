#include "platform/snapshot_messages.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "core/wall_time.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// Between questions: a small database is done at once, a large one need not be asked about often.
constexpr milliseconds kAskAgainFirst{10};
constexpr milliseconds kAskAgain{200};

}  // namespace

DatabaseSnapshot snapshot_from(const sqlite::StoredFile& file) {
  return {file.max,  file.end.epoch, file.end.sequence, wall_time_from(nanoseconds(file.time_ns)),
          file.size, file.name()};
}

Json json_of(const DatabaseSnapshot& snapshot) {
  return {{"object", snapshot.object},
          {"txid", snapshot.txid},
          {"epoch", snapshot.epoch},
          {"sequence", snapshot.sequence},
          {"time", nats::rfc3339_from(wall_ns_from(snapshot.time))},
          {"bytes", snapshot.bytes}};
}

std::string answer_text(const std::string& app, const SnapshotAnswer& answer) {
  Json out{{"v", 1}, {"app", app}, {"id", answer.id}, {"snapshot", nullptr}};
  if (answer.snapshot)
    out["snapshot"] = json_of(*answer.snapshot);
  else
    out["progress"] = {{"pages", answer.pages}, {"of", answer.of}};
  return out.dump();
}

Result<SnapshotAnswer> answer_from(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  SnapshotAnswer answer;
  answer.id = text_in(json, "id");
  if (answer.id.empty()) return Error(Errc::incompatible, "the answer is no snapshot's: " + text);
  if (json.contains("progress")) {
    answer.pages = number_in(json["progress"], "pages");
    answer.of = number_in(json["progress"], "of");
  }
  if (!json.contains("snapshot") || !json["snapshot"].is_object()) return answer;
  const Json& file = json["snapshot"];
  const auto time = nats::time_ns_from(text_in(file, "time"));
  answer.snapshot =
      DatabaseSnapshot{number_in(file, "txid"),     number_in(file, "epoch"),
                       number_in(file, "sequence"), wall_time_from(nanoseconds(time.value_or(0))),
                       number_in(file, "bytes"),    text_in(file, "object")};
  return answer;
}

DatabaseSnapshot take_snapshot(
    const std::string& app, const std::function<std::string(const std::string&)>& ask,
    const std::function<void(const SnapshotAnswer&, milliseconds)>& pause) {
  Json request{{"v", 1}, {"app", app}};
  for (milliseconds wait = kAskAgainFirst;; wait = std::min(2 * wait, kAskAgain)) {
    auto answer = answer_from(ask(request.dump()));
    if (answer.value().snapshot) return *answer.value().snapshot;
    request["id"] = answer.value().id;
    pause(answer.value(), wait);
  }
}

}  // namespace cluster
