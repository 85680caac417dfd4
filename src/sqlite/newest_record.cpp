#include "sqlite/newest_record.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "sqlite/snapshot_store.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint64_t kFirstStep = 256;  // messages
constexpr std::uint64_t kStepFactor = 16;
constexpr Duration kPatience = std::chrono::seconds(10);  // for the next message

// The last one of those that have left the stream's beginning.
std::uint64_t removed_from(const nats::StreamState& state) {
  return state.messages == 0 ? state.last_seq : state.first_seq - 1;
}

}  // namespace

NewestRecord::NewestRecord(nats::JetStream& jetstream, std::string stream, std::uint64_t from,
                           Callback<Found> done)
    : jetstream_(jetstream),
      stream_(std::move(stream)),
      from_(std::max<std::uint64_t>(from, 1)),
      done_(std::move(done)) {
  look_at_last();
}

NewestRecord::~NewestRecord() { *alive_ = false; }

void NewestRecord::answer(Result<Found> found) {
  consumer_.reset();
  patience_.reset();
  const auto done = std::move(done_);
  done(std::move(found));
}

void NewestRecord::look_at_last() {
  // Of any subject: a stream may have been given more of them.
  jetstream_.last_message(
      stream_, ">", [this, alive = alive_](const Result<nats::StoredMessage>& message) {
        if (!*alive) return;
        // It has none, or the last one was deleted.
        if (!message && message.error().errc() == Errc::not_found) return ask_stream();
        if (!message) return answer(message.error());
        auto record = stream_record_from(message.value().headers, message.value().sequence);
        if (!record && is_foreign(record.error())) return ask_stream();
        if (!record) return answer(record.error());
        found_.end = message.value().sequence;
        found_.record = std::move(record.value());
        answer(found_);
      });
}

void NewestRecord::ask_stream() {
  jetstream_.stream(stream_, [this, alive = alive_](const Result<nats::StreamState>& state) {
    if (!*alive) return;
    if (!state) return answer(state.error());
    found_.history = history_of(state.value());
    found_.end = state.value().last_seq;
    // An end before what is known to be there: it was lost, or this answer is an old one.
    const std::uint64_t known = found_.end < from_ ? 0 : from_ - 1;
    found_.gone = std::min(found_.end, std::max(removed_from(state.value()), known));
    first_ = found_.gone + 1;
    look_back(kFirstStep);
  });
}

// From the end on, in steps that grow: what is wanted is near it, if nobody floods the stream.
void NewestRecord::look_back(std::uint64_t most) {
  if (first_ > found_.end) return answer(found_);
  most_ = most;
  begin_ = found_.end - first_ < most ? first_ : found_.end - most + 1;
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](const nats::StoredMessage& message) { take(message); };
  handlers.caught_up = [this] { looked(); };
  handlers.trouble = [this](const Error& error) { answer(error); };
  handlers.rewound = [this](std::uint64_t, std::uint64_t) {
    answer(Error(Errc::unavailable, "stream " + stream_ + " has lost its end meanwhile"));
  };
  nats::StartAt start{nats::StartAt::Kind::sequence, begin_};
  start.headers_only = true;
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, stream_, std::vector<std::string>{}, start, std::move(handlers));
  patient();
}

void NewestRecord::patient() {
  patience_ = jetstream_.connection().loop().after(kPatience, [this] {
    answer(Error(Errc::timeout, "reading the end of stream " + stream_ + ": nothing comes"));
  });
}

void NewestRecord::take(const nats::StoredMessage& message) {
  if (message.sequence > found_.end) return looked();
  auto record = stream_record_from(message.headers, message.sequence);
  if (!record && !is_foreign(record.error())) return answer(record.error());
  if (record) found_.record = std::move(record.value());
  if (message.sequence == found_.end) return looked();
  patient();
}

void NewestRecord::looked() {
  consumer_.reset();
  if (found_.record) return answer(found_);
  begin_ == first_ ? confirm() : look_back(most_ * kStepFactor);
}

// A record that somebody has removed meanwhile must not count as none.
void NewestRecord::confirm() {
  patience_.reset();
  jetstream_.stream(stream_, [this, alive = alive_](const Result<nats::StreamState>& state) {
    if (!*alive) return;
    if (!state) return answer(state.error());
    if (history_of(state.value()) != found_.history)
      return answer(Error(Errc::unavailable, "stream " + stream_ + " was made anew meanwhile"));
    found_.gone = std::min(found_.end, std::max(removed_from(state.value()), found_.gone));
    answer(found_);
  });
}

}  // namespace cluster::sqlite
