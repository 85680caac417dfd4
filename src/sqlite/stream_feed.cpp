#include "sqlite/stream_feed.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kMostQueued = 8 * 1024 * 1024;  // bytes
constexpr std::size_t kMessage = 512;                 // bytes that one takes besides its data
constexpr auto kPatience = std::chrono::seconds(30);  // for the next message
constexpr std::uint64_t kFirstStep = 16, kStepFactor = 16;

}  // namespace

// Between the loop, which fills it, and the thread that reads.
struct StreamFeed::Queue {
  std::mutex mutex{};
  std::condition_variable_any changed{};
  std::deque<nats::StoredMessage> messages{};
  std::size_t bytes = 0;
  bool paused = false;  // the loop has stopped reading, and waits to be told to go on
  Failure failure{};
};

// The loop's side.
class StreamFeed::Reader : public std::enable_shared_from_this<Reader> {
 public:
  Reader(nats::JetStream& jetstream, std::string stream, std::uint64_t from, std::uint64_t until,
         What what, std::shared_ptr<Queue> queue)
      : jetstream_(jetstream),
        stream_(std::move(stream)),
        next_(from),
        until_(until),
        what_(what),
        queue_(std::move(queue)) {}

  void read() {
    if (next_ > until_) return;
    nats::OrderedConsumer::Handlers handlers;
    handlers.message = [this](nats::StoredMessage message) { take(std::move(message)); };
    handlers.rewound = [this](std::uint64_t delivered, std::uint64_t last) {
      const std::lock_guard lock(queue_->mutex);
      queue_->failure =
          Error(Errc::corrupt, "stream " + stream_ + " ends with record " + std::to_string(last) +
                                   ", and record " + std::to_string(delivered) + " was read");
      queue_->changed.notify_all();
    };
    nats::StartAt start{nats::StartAt::Kind::sequence, next_};
    start.headers_only = what_ == What::headers;
    consumer_ = std::make_unique<nats::OrderedConsumer>(
        jetstream_, stream_, std::vector<std::string>{}, start, std::move(handlers));
  }

 private:
  void take(nats::StoredMessage message) {
    const std::uint64_t sequence = message.sequence;
    bool full = false;
    {
      const std::lock_guard lock(queue_->mutex);
      queue_->bytes += message.data.size() + kMessage;
      queue_->messages.push_back(std::move(message));
      queue_->paused = full = queue_->bytes >= kMostQueued;
      queue_->changed.notify_all();
    }
    next_ = sequence + 1;
    if (!full && sequence < until_) return;
    consumer_.reset();
  }

  nats::JetStream& jetstream_;
  const std::string stream_;
  std::uint64_t next_;
  const std::uint64_t until_;
  const What what_;
  const std::shared_ptr<Queue> queue_;
  std::unique_ptr<nats::OrderedConsumer> consumer_;
};

StreamFeed::StreamFeed(SnapshotStore& store, std::string stream, std::uint64_t after,
                       std::uint64_t until, What what, std::stop_token stop)
    : store_(store),
      stream_(std::move(stream)),
      until_(until),
      stop_(std::move(stop)),
      sequence_(after),
      queue_(std::make_shared<Queue>()) {
  if (after >= until_) return;
  store_.keep(
      [stream = stream_, after, until, what, queue = queue_](nats::JetStream& jetstream) {
        auto reader = std::make_shared<Reader>(jetstream, stream, after + 1, until, what, queue);
        reader->read();
        return reader;
      },
      queue_);
}

StreamFeed::~StreamFeed() { store_.let_go(queue_); }

std::optional<nats::StoredMessage> StreamFeed::next() {
  if (sequence_ >= until_) return std::nullopt;
  nats::StoredMessage message;
  bool go_on = false;
  {
    std::unique_lock lock(queue_->mutex);
    const bool came = queue_->changed.wait_for(lock, stop_, kPatience, [&] {
      return !queue_->messages.empty() || queue_->failure.has_value();
    });
    if (queue_->messages.empty() && queue_->failure) throw *queue_->failure;
    if (!came && stop_.stop_requested())
      throw Error(Errc::shutting_down, "reading stream " + stream_ + ": it was stopped");
    if (!came) throw Error(Errc::timeout, "reading stream " + stream_ + ": nothing comes");
    message = std::move(queue_->messages.front());
    queue_->messages.pop_front();
    queue_->bytes -= message.data.size() + kMessage;
    if (queue_->paused && queue_->bytes < kMostQueued / 2)
      go_on = std::exchange(queue_->paused, false);
  }
  if (go_on) store_.with<Reader>(queue_, [](Reader& reader) { reader.read(); });
  sequence_ = message.sequence;
  if (message.sequence > until_) return std::nullopt;
  return message;
}

std::optional<StreamRecord> newest_record(SnapshotStore& store, const StreamRange& stream,
                                          const std::stop_token& stop) {
  std::optional<StreamRecord> newest;
  // From the end on, in steps that grow: what stands behind the newest record is foreign.
  for (std::uint64_t most = kFirstStep;; most *= kStepFactor) {
    const std::uint64_t all = stream.last + 1 - stream.first;
    StreamFeed feed(store, stream.name, stream.last - std::min(most, all), stream.last,
                    StreamFeed::What::headers, stop);
    while (const auto message = feed.next()) {
      auto record = stream_record_from(message->headers, message->sequence);
      if (!record && !is_foreign(record.error())) throw record.error();
      if (record) newest = std::move(record.value());
    }
    if (newest || most >= all) return newest;
  }
}

}  // namespace cluster::sqlite
