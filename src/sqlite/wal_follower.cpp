#include "sqlite/wal_follower.h"

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "sqlite/spill.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kMostPending = 32 * 1024 * 1024;  // bytes that wait to be applied
constexpr std::size_t kMostTasks = 512;                 // and records; a strand takes 1,024

CopyPosition replica_position(const Replica& replica) {
  if (!replica.exists()) return {};
  CLUSTER_CHECK(replica.position().has_value());
  return {replica.position()->epoch, replica.position()->txid, replica.position()->hash};
}

}  // namespace

struct WalFollower::File {
  explicit File(const std::string& folder) : parts(folder) {}
  Spill parts;
};

WalFollower::WalFollower(nats::JetStream& jetstream, Strand& strand, std::string stream,
                         std::shared_ptr<Replica> replica, std::uint64_t after, Events events)
    : jetstream_(jetstream),
      strand_(strand),
      stream_(std::move(stream)),
      replica_(std::move(replica)),
      events_(std::move(events)),
      reader_(replica_position(*replica_)),
      folder_(std::filesystem::absolute(replica_->path()).parent_path()),
      applied_(after),
      taken_(after),
      newest_(reader_.position().txid) {
  read_from(after + 1);
}

WalFollower::~WalFollower() { *alive_ = false; }

std::uint64_t WalFollower::done() const noexcept {
  return tasks_ == 0 && !file_ ? std::max(applied_, taken_) : applied_;
}

void WalFollower::stop() {
  stopped_ = true;
  consumer_.reset();
  file_.reset();
}

void WalFollower::read_from(std::uint64_t sequence) {
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](nats::StoredMessage message) { take(std::move(message)); };
  handlers.caught_up = [this, alive = alive_] {
    if (begun_) return;
    begun_ = true;
    // Behind what still waits to be applied.
    const bool queued = strand_.post([this, alive, &connection = jetstream_.connection()] {
      connection.defer([this, alive] {
        if (*alive && !stopped_ && events_.caught_up) events_.caught_up();
      });
    });
    if (!queued) begun_ = false;
  };
  handlers.rewound = [this](std::uint64_t, std::uint64_t last) {
    stop();
    if (events_.rewound) events_.rewound(last);
  };
  handlers.trouble = events_.trouble;
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, stream_, std::vector<std::string>{},
      nats::StartAt{.kind = nats::StartAt::Kind::sequence, .sequence = sequence, .goes_on = true},
      std::move(handlers));
}

void WalFollower::take(nats::StoredMessage message) {
  if (stopped_ || paused_) return;
  // Records are removed from the stream's beginning only: none is missing in between.
  end_ = std::max(end_, message.sequence + message.pending);
  taken_ = std::max(taken_, message.sequence);
  auto record = stream_record_from(message.headers, message.sequence);
  if (!record && is_foreign(record.error())) {
    if (events_.foreign) events_.foreign(message.sequence, record.error());
    return;
  }
  if (!record) {
    stop();
    if (events_.failed) events_.failed(record.error(), message.sequence);
    return;
  }
  const auto verdict = reader_.next(record.value());
  using Kind = StreamReader::Kind;
  switch (verdict.kind) {
    case Kind::skip:
      // Parts that a fence cuts off never count.
      if (record.value().fence) newest_ = reader_.position().txid;
      return pass(record.value());
    case Kind::gap:
    case Kind::diverged:
      stop();
      if (events_.stuck)
        events_.stuck({verdict.why, verdict.kind == Kind::diverged,
                       record.value().fence ? record.value().last : record.value().first - 1,
                       message.sequence});
      return;
    case Kind::invalid:
      stop();
      if (events_.failed)
        events_.failed(Error(Errc::corrupt, "record " + std::to_string(message.sequence) +
                                                " of stream " + stream_ + ": " + verdict.why),
                       message.sequence);
      return;
    case Kind::keep:
    case Kind::apply: break;
  }
  if (verdict.begins || !file_) file_ = std::make_shared<File>(folder_);
  waiting_.push_back(message.time_ns);
  newest_ = record.value().last;
  // It counts as applied from here on; if it can't be, following ends.
  if (verdict.kind == Kind::apply) reader_.applied(record.value());
  work(record.value(), std::move(message.data));
  if (pending_bytes_ > kMostPending || tasks_ > kMostTasks) {
    paused_ = true;
    consumer_.reset();
  }
}

// A record without anything to apply, in its place among those with.
void WalFollower::pass(const StreamRecord& record) {
  if (tasks_ > 0) {
    passed_ = record;
    return;
  }
  applied_ = record.sequence;
  if (events_.applied) events_.applied(record);
}

void WalFollower::work(const StreamRecord& record, std::string bytes) {
  ++tasks_;
  passed_.reset();
  const std::size_t size = bytes.size();
  pending_bytes_ += size;
  auto file = record.final ? std::exchange(file_, nullptr) : file_;
  auto& connection = jetstream_.connection();
  auto task = [this, &connection, alive = alive_, replica = replica_, record, file,
               bytes = std::move(bytes), size] {
    std::optional<std::string> why;
    std::optional<Error> error;
    try {
      file->parts.append(bytes);
      if (record.final) {
        LtxDecoder decoder(file->parts.source());
        why =
            replica->apply(decoder, {record.epoch, record.sequence}, {record.before, record.hash});
      }
    } catch (const Error& failure) {
      error = failure;
    }
    connection.defer([this, alive, record, size, why, error] {
      if (!*alive || stopped_) return;
      if (error || why) stop();
      if (error) {
        if (events_.failed) events_.failed(*error, record.sequence);
      } else if (why) {
        if (events_.stuck) events_.stuck({*why, true, {}});
      } else {
        worked(record, size);
      }
    });
  };
  if (!strand_.post(std::move(task))) {
    stop();
    if (events_.failed)
      events_.failed(
          Error(Errc::system, "replica of stream " + stream_ + ": no thread to apply with"),
          record.sequence);
  }
}

void WalFollower::worked(const StreamRecord& record, std::size_t size) {
  const auto alive = alive_;
  --tasks_;
  pending_bytes_ -= size;
  waiting_.pop_front();
  if (record.final) applied_ = record.sequence;
  if (paused_ && pending_bytes_ < kMostPending / 2 && tasks_ < kMostTasks / 2) {
    paused_ = false;
    read_from(taken_ + 1);
  }
  if (record.final && events_.applied) events_.applied(record);
  if (*alive && tasks_ == 0 && passed_) pass(*std::exchange(passed_, std::nullopt));
}

}  // namespace cluster::sqlite
