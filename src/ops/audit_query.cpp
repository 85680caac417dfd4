#include "ops/audit_query.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "ops/audit_entry.h"

namespace cluster {
namespace {

constexpr std::uint64_t kFirstWindow = 1'000;  // messages of the stream
constexpr std::uint64_t kGrowth = 4;
constexpr Duration kRetry = std::chrono::milliseconds(200);

bool may_be_mended(const Error& error) {
  return error.errc() == Errc::unavailable || error.errc() == Errc::timeout ||
         error.errc() == Errc::no_responders || error.errc() == Errc::unknown_outcome;
}

}  // namespace

AuditQuery::AuditQuery(nats::JetStream& jetstream, std::string platform, AuditFilter filter)
    : jetstream_(jetstream),
      platform_(std::move(platform)),
      filter_(std::move(filter)),
      size_(std::max<std::uint64_t>(kFirstWindow, 2 * filter_.limit)) {}

void AuditQuery::start(Callback<std::vector<AuditEntry>> done) {
  done_ = std::move(done);
  look();
}

void AuditQuery::cancel() {
  done_ = {};
  timer_.reset();
  consumer_.reset();
}

void AuditQuery::look() {
  jetstream_.stream(audit_stream_name(platform_),
                    [self = shared_from_this()](const Result<nats::StreamState>& state) {
                      if (!self->done_) return;
                      if (state) {
                        self->first_ = std::max<std::uint64_t>(1, state.value().first_seq);
                        self->to_ = state.value().last_seq + 1;
                        return self->read_window();
                      }
                      if (state.error().errc() == Errc::not_found)
                        return self->finish(std::vector<AuditEntry>());
                      if (!may_be_mended(state.error())) return self->finish(state.error());
                      self->timer_ = self->jetstream_.connection().loop().after(
                          kRetry, [raw = self.get()] { raw->look(); });
                    });
}

void AuditQuery::read_window() {
  if (to_ <= first_ || reached_since_ || found_.size() >= filter_.limit) {
    const auto more = found_.size() - std::min(found_.size(), filter_.limit);
    return finish(std::vector<AuditEntry>(
        std::make_move_iterator(found_.begin() + static_cast<std::ptrdiff_t>(more)),
        std::make_move_iterator(found_.end())));
  }
  from_ = to_ - std::min(size_, to_ - first_);
  size_ *= kGrowth;
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](const nats::StoredMessage& message) { take(message); };
  handlers.caught_up = [this] { window_is_read(); };
  handlers.trouble = [this](const Error& error) {
    if (!may_be_mended(error)) finish(error);
  };
  nats::StartAt start;
  start.kind = nats::StartAt::Kind::sequence;
  start.sequence = from_;
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, audit_stream_name(platform_), std::vector{audit_subject(platform_, filter_)},
      start, std::move(handlers));
}

void AuditQuery::take(const nats::StoredMessage& message) {
  if (message.sequence >= to_) return window_is_read();
  if (filter_.since && message.time_ns < stored_since_ns(*filter_.since)) reached_since_ = true;
  auto entry = audit_entry_from(message);
  if (!entry || !fits(*entry, filter_)) return;
  window_.push_back(std::move(*entry));
  if (window_.size() > filter_.limit) window_.pop_front();
}

void AuditQuery::window_is_read() {
  const auto self = shared_from_this();
  consumer_.reset();
  found_.insert(found_.begin(), std::make_move_iterator(window_.begin()),
                std::make_move_iterator(window_.end()));
  window_.clear();
  to_ = from_;
  // Not from within the consumer's callback: the next one takes its place.
  jetstream_.connection().loop().post([self] {
    if (self->done_) self->read_window();
  });
}

void AuditQuery::finish(Result<std::vector<AuditEntry>> answer) {
  const auto self = shared_from_this();
  consumer_.reset();
  if (auto done = std::exchange(done_, {})) done(std::move(answer));
}

}  // namespace cluster
