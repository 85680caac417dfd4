#include "sqlite/wal_follower.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kMostPending = 32 * 1024 * 1024;  // bytes that wait to be applied
constexpr std::size_t kMostTasks = 512;                 // and records; a strand takes 1,024

ByteSource source_of_parts(std::vector<std::shared_ptr<const std::string>> parts) {
  return [parts = std::move(parts), part = std::size_t{0}, at = std::size_t{0}](
             char* into, std::size_t most) mutable {
    while (part < parts.size() && at == parts[part]->size()) {
      ++part;
      at = 0;
    }
    if (part == parts.size()) return std::size_t{0};
    const std::size_t n = std::min(most, parts[part]->size() - at);
    std::memcpy(into, parts[part]->data() + at, n);
    at += n;
    return n;
  };
}

CopyPosition position_of(const Replica& replica) {
  CLUSTER_CHECK(replica.position().has_value());
  return {replica.position()->epoch, replica.position()->txid, replica.position()->checksum};
}

}  // namespace

WalFollower::WalFollower(nats::JetStream& jetstream, Strand& strand, std::string stream,
                         std::shared_ptr<Replica> replica, std::uint64_t after, Events events)
    : jetstream_(jetstream),
      strand_(strand),
      stream_(std::move(stream)),
      replica_(std::move(replica)),
      events_(std::move(events)),
      reader_(position_of(*replica_)),
      applied_(after) {
  read_from(after + 1);
}

WalFollower::~WalFollower() { *alive_ = false; }

void WalFollower::stop() {
  stopped_ = true;
  consumer_.reset();
  parts_.clear();
}

void WalFollower::read_from(std::uint64_t sequence) {
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](nats::StoredMessage message) { take(std::move(message)); };
  handlers.caught_up = [this, alive = alive_] {
    if (begun_) return;
    begun_ = true;
    // Behind what still waits to be applied.
    const bool queued = strand_.post([this, alive] {
      jetstream_.connection().defer([this, alive] {
        if (*alive && !stopped_ && events_.caught_up) events_.caught_up();
      });
    });
    if (!queued) begun_ = false;
  };
  handlers.rewound = [this](std::uint64_t delivered, std::uint64_t last) {
    stop();
    if (events_.stuck)
      events_.stuck("the stream ends with record " + std::to_string(last) + ", and record " +
                        std::to_string(delivered) + " was read: it has lost its end",
                    false);
  };
  handlers.trouble = events_.trouble;
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, stream_, std::vector<std::string>{},
      nats::StartAt{nats::StartAt::Kind::sequence, sequence}, std::move(handlers));
}

void WalFollower::take(nats::StoredMessage message) {
  if (stopped_ || paused_) return;
  auto record = stream_record_from(message.headers, message.sequence);
  if (!record) {
    stop();
    if (events_.failed) events_.failed(record.error());
    return;
  }
  const auto verdict = reader_.next(record.value());
  using Kind = StreamReader::Kind;
  switch (verdict.kind) {
    case Kind::skip: return pass(record.value());
    case Kind::gap:
    case Kind::diverged:
      stop();
      if (events_.stuck) events_.stuck(verdict.why, verdict.kind == Kind::diverged);
      return;
    case Kind::invalid:
      stop();
      if (events_.failed)
        events_.failed(Error(Errc::corrupt, "record " + std::to_string(message.sequence) +
                                                " of stream " + stream_ + ": " + verdict.why));
      return;
    case Kind::keep:
    case Kind::apply: break;
  }
  if (verdict.begins) {
    pending_bytes_ -= parts_size_;
    parts_.clear();
    parts_size_ = 0;
  }
  parts_size_ += message.data.size();
  pending_bytes_ += message.data.size();
  parts_.push_back(std::make_shared<const std::string>(std::move(message.data)));
  if (verdict.kind == Kind::keep) return;
  // It counts as applied from here on; if it can't be, following ends.
  reader_.applied(record.value());
  apply(record.value(), std::exchange(parts_, {}), std::exchange(parts_size_, 0));
  if (pending_bytes_ > kMostPending || tasks_ > kMostTasks) {
    paused_ = true;
    consumer_.reset();
  }
}

// A record without anything to apply, in its place among those with.
void WalFollower::pass(const StreamRecord& record) {
  if (tasks_ == 0)
    applied_ = record.sequence;
  else
    passed_ = record.sequence;
}

void WalFollower::apply(const StreamRecord& record, std::vector<Bytes> parts, std::size_t size) {
  ++tasks_;
  passed_ = 0;
  auto& connection = jetstream_.connection();
  auto task = [this, &connection, alive = alive_, replica = replica_, record,
               parts = std::move(parts), size] {
    std::optional<std::string> why;
    std::optional<Error> error;
    try {
      LtxDecoder file(source_of_parts(parts));
      why = replica->apply(file, {record.epoch, record.sequence});
    } catch (const Error& failure) {
      error = failure;
    }
    connection.defer([this, alive, record, size, why, error] {
      if (!*alive || stopped_) return;
      if (error || why) stop();
      if (error) {
        if (events_.failed) events_.failed(*error);
      } else if (why) {
        if (events_.stuck) events_.stuck(*why, true);
      } else {
        was_applied(record, size);
      }
    });
  };
  if (!strand_.post(std::move(task))) {
    stop();
    if (events_.failed)
      events_.failed(
          Error(Errc::system, "replica of stream " + stream_ + ": no thread to apply with"));
  }
}

void WalFollower::was_applied(const StreamRecord& record, std::size_t size) {
  --tasks_;
  applied_ = tasks_ == 0 && passed_ != 0 ? passed_ : record.sequence;
  pending_bytes_ -= size;
  if (paused_ && pending_bytes_ < kMostPending / 2 && tasks_ < kMostTasks / 2) {
    paused_ = false;
    read_from(reader_.sequence() + 1);
  }
  if (events_.applied) events_.applied(record);
}

}  // namespace cluster::sqlite
