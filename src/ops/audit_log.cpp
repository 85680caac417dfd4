#include "ops/audit_log.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/ids.h"
#include "core/log.h"
#include "nats/stored_message.h"

namespace cluster {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr Duration kFirstRetry = milliseconds(200);
constexpr Duration kLastRetry = milliseconds(5'000);

std::int64_t wall_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// It will be the same when it is tried again.
bool for_good(const Error& error) {
  return error.errc() == Errc::invalid_argument || error.errc() == Errc::incompatible;
}

}  // namespace

nats::Message audit_message(const std::string& platform, const std::string& node,
                            AuditEntry entry) {
  Json fields = Json::object();
  for (auto& [key, value] : entry.fields) fields[key] = std::move(value);
  const Json json{{"v", 1},
                  {"time", nats::rfc3339_from(wall_ns())},
                  {"node", node},
                  {"app", entry.app},
                  {"category", entry.category},
                  {"action", entry.action},
                  {"level", entry.level},
                  {"fields", std::move(fields)}};
  nats::Message message;
  message.subject = platform + "._.audit." + entry.category + "." + entry.action;
  message.data = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return message;
}

AuditLog::AuditLog(Loop& loop, nats::JetStream& jetstream, Options options)
    : loop_(loop),
      jetstream_(jetstream),
      options_(std::move(options)),
      writer_(options_.node + "-" + random_id()),
      retry_(kFirstRetry) {}

AuditLog::~AuditLog() { *alive_ = false; }

void AuditLog::add(AuditEntry entry) {
  if (waiting_.size() >= kMostWaiting) {
    if (dropped_++ == 0)
      log::warn("audit_dropped", {{"node", options_.node},
                                  {"waiting", waiting_.size()},
                                  {"why", trouble_.empty() ? "too many at once" : trouble_}});
    return;
  }
  nats::Message message = audit_message(options_.platform, options_.node, std::move(entry));
  // JetStream keeps one of two with the same id: an entry may be sent again when it is not known
  // whether it was stored.
  message.headers.emplace_back("Nats-Msg-Id", writer_ + "/" + std::to_string(++count_));
  if (flushed_) {
    jetstream_.connection().publish(message);
    return;
  }
  waiting_.push_back(std::move(message));
  next();
}

void AuditLog::next() {
  if (busy_ || waiting_.empty()) return;
  if (!stream_made_) return make_stream();
  busy_ = true;
  jetstream_.publish(waiting_.front(), {},
                     [this, alive = alive_](const Result<nats::PubAck>& stored) {
                       if (!*alive) return;
                       busy_ = false;
                       if (!stored && !for_good(stored.error())) {
                         // Somebody may have deleted the stream.
                         stream_made_ = false;
                         return try_later(stored.error());
                       }
                       if (flushed_) return;
                       waiting_.pop_front();
                       ++(stored ? stored_ : dropped_);
                       trouble_ = stored ? "" : stored.error().what();
                       retry_ = kFirstRetry;
                       next();
                     });
}

void AuditLog::make_stream() {
  busy_ = true;
  nats::StreamConfig config;
  config.name = options_.platform + "_audit";
  config.description = "cpp-cluster: what happened to platform " + options_.platform;
  config.subjects = {options_.platform + "._.audit.>"};
  config.replicas = options_.replicas;
  config.max_age = kRetention;
  config.max_bytes = kMostBytes;
  jetstream_.ensure_stream(config, [this, alive = alive_](const Failure& failure) {
    if (!*alive) return;
    busy_ = false;
    if (failure) return try_later(*failure);
    stream_made_ = true;
    next();
  });
}

void AuditLog::try_later(const Error& error) {
  if (trouble_ != error.what())
    log::warn("audit_trouble", {{"node", options_.node}, {"why", error.what()}});
  trouble_ = error.what();
  busy_ = true;
  timer_ = loop_.after(retry_, [this] {
    busy_ = false;
    next();
  });
  retry_ = std::min(retry_ * 2, kLastRetry);
}

void AuditLog::flush() {
  flushed_ = true;
  for (const auto& message : std::exchange(waiting_, {})) jetstream_.connection().publish(message);
}

AuditLog::Status AuditLog::status() const { return {stored_, dropped_, waiting_.size(), trouble_}; }

}  // namespace cluster
