#include "sqlite/stream_lag.h"

#include <chrono>
#include <utility>

#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr Duration kEvery = std::chrono::seconds(1);

}  // namespace

StreamLag::StreamLag(Loop& loop, nats::JetStream& jetstream, std::string stream,
                     std::string subject, std::function<std::optional<std::uint64_t>()> behind)
    : jetstream_(jetstream),
      stream_(std::move(stream)),
      subject_(std::move(subject)),
      behind_(std::move(behind)),
      timer_(loop.every(kEvery, [this] { look(); })) {}

StreamLag::~StreamLag() { *alive_ = false; }

void StreamLag::forget() {
  ++turn_;
  known_ = {};
  asking_ = false;
}

void StreamLag::look() {
  const auto has = behind_();
  if (!has || asking_) return;
  asking_ = true;
  // What can't be told now is asked again: the last answer stands until then.
  jetstream_.next_message(
      stream_, subject_, *has + 1,
      [this, alive = alive_, turn = turn_, has](const Result<nats::StoredMessage>& next) {
        if (!*alive || turn != turn_) return;
        if (next) return ask_last(next.value().time_ns);
        asking_ = false;
        if (next.error().errc() == Errc::not_found) known_ = {0, *has, 0};
      });
}

void StreamLag::ask_last(std::int64_t oldest_ns) {
  jetstream_.last_message(
      stream_, subject_,
      [this, alive = alive_, turn = turn_, oldest_ns](const Result<nats::StoredMessage>& last) {
        if (!*alive || turn != turn_) return;
        asking_ = false;
        if (!last) return;
        const auto record = stream_record_from(last.value().headers, last.value().sequence);
        // Behind a message that is none of ours, how many transactions those are can't be told.
        if (record || is_foreign(record.error()))
          known_ = {record ? record.value().last : 0, last.value().sequence, oldest_ns};
      });
}

}  // namespace cluster::sqlite
