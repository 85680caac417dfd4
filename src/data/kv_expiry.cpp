#include "data/kv_expiry.h"

#include <algorithm>
#include <charconv>

#include <nlohmann/json.hpp>

#include "core/log.h"
#include "core/wall_time.h"
#include "nats/connection.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr char kMark[] = "cluster_ttl";  // in the stream's metadata
constexpr Duration kExpiryRetry = std::chrono::seconds(1);
constexpr Duration kPerRank = milliseconds(500);
constexpr std::size_t kMostRanks = 20;
constexpr int kMostAtATime = 200;
constexpr Duration kPause = milliseconds(20);

bool marked(const Json& info) {
  return info.is_object() && info.contains("config") && info["config"].is_object() &&
         info["config"].contains("metadata") && info["config"]["metadata"].is_object() &&
         info["config"]["metadata"].contains(kMark);
}

}  // namespace

Failure KvExpiry::mark(const nats::BlockingJetStream& jetstream, const std::string& stream,
                       Duration limit) {
  const auto text = jetstream.api("STREAM.INFO." + stream, "", limit);
  if (!text) return text.error();
  Json info = Json::parse(text.value(), nullptr, false);
  if (!info.is_object() || !info.contains("config"))
    return Error(Errc::incompatible, "stream \"" + stream + "\": its description can't be read");
  if (marked(info)) return std::nullopt;
  Json config = info["config"];
  if (!config.contains("metadata") || !config["metadata"].is_object())
    config["metadata"] = Json::object();
  config["metadata"][kMark] = "1";
  const auto changed = jetstream.api("STREAM.UPDATE." + stream, config.dump(), limit);
  if (!changed) return changed.error();
  return std::nullopt;
}

void KvExpiry::is_marked(nats::JetStream& jetstream, const std::string& stream,
                         Callback<bool> done) {
  jetstream.api("STREAM.INFO." + stream, "", [done](Result<std::string> text) {
    if (text) return done(marked(Json::parse(text.value(), nullptr, false)));
    if (text.error().errc() == Errc::not_found) return done(false);
    done(text.error());
  });
}

KvExpiry::KvExpiry(nats::JetStream& jetstream, Options options)
    : jetstream_(jetstream), options_(std::move(options)) {
  begin();
}

KvExpiry::~KvExpiry() { *alive_ = false; }

// The server's clock first: it says how old what is there is.
void KvExpiry::begin() {
  jetstream_.api(
      "STREAM.INFO." + options_.stream, "", [this, alive = alive_](Result<std::string> text) {
        if (!*alive) return;
        if (!text) {
          timer_ = jetstream_.connection().loop().after(kExpiryRetry, [this] { begin(); });
          return;
        }
        at_ = BootClock::now();
        const Json info = Json::parse(text.value(), nullptr, false);
        // Servers before 2.10 don't tell their time: this machine's is the next best.
        const auto now = info.is_object() && info.contains("ts") && info["ts"].is_string()
                             ? nats::time_ns_from(info["ts"].get<std::string>())
                             : std::nullopt;
        server_ns_ = now.value_or(wall_ns());
        nats::OrderedConsumer::Handlers handlers;
        handlers.message = [this](const nats::StoredMessage& m) { seen(m); };
        handlers.caught_up = [this] { arm(); };
        handlers.trouble = [this](const Error& error) {
          log::warn("key_expiry_trouble", {{"stream", options_.stream}, {"why", error.what()}});
        };
        const std::string filter = "$KV." + options_.stream.substr(3) + ".>";
        consumer_ = std::make_unique<nats::OrderedConsumer>(
            jetstream_, options_.stream, std::vector{filter},
            nats::StartAt{nats::StartAt::Kind::last_per_subject, 0, true}, std::move(handlers));
      });
}

void KvExpiry::seen(const nats::StoredMessage& message) {
  const Time first = first_due();
  if (const auto it = dues_.find(message.subject); it != dues_.end()) {
    order_.erase({it->second.time, message.subject});
    dues_.erase(it);
  }
  note(message);
  if (first_due() != first) arm();
}

Time KvExpiry::first_due() const { return order_.empty() ? Time::max() : order_.begin()->first; }

// When it is to go, if it is.
void KvExpiry::note(const nats::StoredMessage& message) {
  const auto text = message.header(kHeader);
  std::int64_t ttl_ms = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), ttl_ms);
  if (text.empty() || fault != std::errc() || end != text.data() + text.size() || ttl_ms <= 0 ||
      ttl_ms > std::chrono::milliseconds(std::chrono::hours(24 * 366)).count())
    return;
  const Time stored = at_ + std::chrono::nanoseconds(message.time_ns - server_ns_);
  set(message.subject, {stored + milliseconds(ttl_ms), message.sequence});
}

// What is due for so long may go: nodes before this one have had their turn.
Duration KvExpiry::patience() const { return kPerRank * std::min(options_.rank(), kMostRanks); }

void KvExpiry::set(const std::string& subject, Due due) {
  dues_[subject] = due;
  order_.emplace(due.time, subject);
}

void KvExpiry::arm() {
  if (order_.empty()) return timer_.reset();
  timer_ = jetstream_.connection().loop().at(
      std::max(first_due() + patience(), BootClock::now() + milliseconds(1)), [this] { sweep(); });
}

void KvExpiry::sweep() {
  const Time due = BootClock::now() - patience();
  for (int i = 0; i < kMostAtATime && first_due() <= due; ++i) {
    const std::string subject = order_.begin()->second;
    order_.erase(order_.begin());
    remove(subject, dues_.extract(subject).mapped().revision);
  }
  if (first_due() <= due)
    timer_ = jetstream_.connection().loop().after(kPause, [this] { sweep(); });
  else
    arm();
}

void KvExpiry::remove(const std::string& subject, std::uint64_t revision) {
  nats::Message message;
  message.subject = subject;
  message.headers = {{"KV-Operation", "DEL"}};
  nats::Expect expect;
  expect.last_subject_sequence = revision;
  jetstream_.publish(message, expect,
                     [this, alive = alive_, subject, revision](const Result<nats::PubAck>& ack) {
                       // Another node was faster, or it was written again: then it comes here
                       // again.
                       if (!*alive || ack || ack.error().errc() == Errc::wrong_revision) return;
                       if (dues_.contains(subject)) return;
                       set(subject, {BootClock::now() + kExpiryRetry, revision});
                       arm();
                     });
}

}  // namespace cluster
