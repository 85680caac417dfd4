#include "ops/audit_log.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/ids.h"
#include "core/log.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr Duration kFirstRetry = milliseconds(200);
constexpr Duration kLastRetry = milliseconds(5'000);

// It will be the same when it is tried again.
bool never_to_be_stored(const Error& error) {
  return error.errc() == Errc::invalid_argument || error.errc() == Errc::incompatible;
}

}  // namespace

std::shared_ptr<AuditPlace> AuditPlace::take(std::shared_ptr<AuditRoom> room) {
  if (room->taken.fetch_add(1) < AuditRoom::kMost)
    return std::make_shared<AuditPlace>(std::move(room));
  --room->taken;
  ++room->dropped;
  return nullptr;
}

AuditPlace::~AuditPlace() {
  if (!sent_) ++room_->dropped;
  --room_->taken;
}

AuditLog::AuditLog(Loop& loop, nats::JetStream& jetstream, Options options)
    : loop_(loop),
      jetstream_(jetstream),
      options_(std::move(options)),
      writer_(options_.node + "-" + random_id()),
      retry_(kFirstRetry) {}

AuditLog::~AuditLog() { *alive_ = false; }

void AuditLog::open(int replicas) {
  replicas_ = std::max(1, replicas);
  next();
}

void AuditLog::add(AuditEntry entry, std::string id) {
  if (own_waiting_ < kMostWaiting) return queue(std::move(entry), std::move(id), nullptr);
  const bool first = dropped() == told_dropped_;
  ++dropped_;
  if (first)
    log::warn("audit_dropped", {{"node", options_.node},
                                {"waiting", waiting_.size()},
                                {"why", trouble_.empty() ? "too many at once" : trouble_}});
}

void AuditLog::add(AuditEntry entry, std::shared_ptr<AuditPlace> place) {
  queue(std::move(entry), {}, std::move(place));
}

void AuditLog::queue(AuditEntry entry, std::string id, std::shared_ptr<AuditPlace> place) {
  entry.node = options_.node;
  nats::Message message = audit_message(options_.platform, std::move(entry));
  // JetStream keeps one of two with the same id: an entry may be sent again when it is not known
  // whether it was stored.
  if (id.empty()) id = writer_ + "/" + std::to_string(++count_);
  message.headers.emplace_back("Nats-Msg-Id", std::move(id));
  if (flushed_) {
    jetstream_.connection().publish(message);
    if (place) place->sent();
    return;
  }
  if (!place) ++own_waiting_;
  waiting_.push_back({std::move(message), std::move(place)});
  next();
}

void AuditLog::next() {
  if (busy_ || waiting_.empty() || replicas_ == 0) return;
  if (!stream_made_) return make_stream();
  busy_ = true;
  jetstream_.publish(waiting_.front().message, {},
                     [this, alive = alive_](const Result<nats::PubAck>& stored) {
                       if (*alive) on_answer(stored);
                     });
}

void AuditLog::on_answer(const Result<nats::PubAck>& stored) {
  busy_ = false;
  if (!stored && !never_to_be_stored(stored.error())) {
    // Somebody may have deleted the stream.
    stream_made_ = false;
    return try_later(stored.error());
  }
  if (flushed_) return;
  const Waiting done = std::move(waiting_.front());
  waiting_.pop_front();
  if (!done.place)
    --own_waiting_;
  else if (stored)
    done.place->sent();
  if (stored)
    ++stored_;
  else if (!done.place)
    ++dropped_;
  trouble_ = stored ? "" : stored.error().what();
  retry_ = kFirstRetry;
  if (stored && waiting_.size() < kMostWaiting / 2) tell_of_drops();
  next();
}

// Whoever reads the log is to see that something is missing here.
void AuditLog::tell_of_drops() {
  const std::uint64_t all = dropped();
  const std::uint64_t more = all - std::exchange(told_dropped_, all);
  if (more == 0) return;
  add({.category = "audit",
       .action = "dropped",
       .level = "warn",
       .fields = {{"entries", std::to_string(more)}}});
}

void AuditLog::make_stream() {
  busy_ = true;
  jetstream_.api("STREAM.INFO." + audit_stream_name(options_.platform), "",
                 [this, alive = alive_](const Result<std::string>& info) {
                   if (!*alive) return;
                   if (info) return stream_is_there(info.value());
                   if (info.error().errc() != Errc::not_found) return stream_answer(info.error());
                   jetstream_.ensure_stream(
                       audit_stream(options_.platform, options_.keep, replicas_),
                       [this, alive](const Failure& failure) {
                         if (*alive) stream_answer(failure);
                       });
                 });
}

void AuditLog::stream_is_there(const std::string& info) {
  const auto update = audit_limits_update(info, options_.keep);
  if (!update) return stream_answer(std::nullopt);
  jetstream_.api("STREAM.UPDATE." + audit_stream_name(options_.platform), *update,
                 [this, alive = alive_](const Result<std::string>& changed) {
                   if (!*alive) return;
                   // Entries go there all the same.
                   if (!changed)
                     log::warn("audit_limits_not_changed",
                               {{"node", options_.node}, {"why", changed.error().what()}});
                   else
                     log::info("audit_limits_changed", {{"node", options_.node}});
                   stream_answer(std::nullopt);
                 });
}

void AuditLog::stream_answer(const Failure& failure) {
  busy_ = false;
  if (failure) return try_later(*failure);
  stream_made_ = true;
  next();
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
  own_waiting_ = 0;
  for (const auto& one : std::exchange(waiting_, {})) {
    jetstream_.connection().publish(one.message);
    if (one.place) one.place->sent();
  }
}

AuditLog::Status AuditLog::status() const {
  return {stored_, dropped(), waiting_.size(), trouble_};
}

}  // namespace cluster
