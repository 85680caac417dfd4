#include "data/kv_bucket.h"

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <thread>
#include <utility>

#include "core/deadline.h"
#include "core/key_text.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "data/kv_watch.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kRetry{20};
constexpr Duration kLookAgain = std::chrono::seconds(5);
constexpr milliseconds kShortestTtl{100};
constexpr milliseconds kLongestTtl = std::chrono::hours(24 * 366);

bool removes(const nats::StoredMessage& message) {
  return !message.header("KV-Operation").empty() || !message.header("Nats-Marker-Reason").empty();
}

}  // namespace

KvBucket::KvBucket(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
                   Options options)
    : gate_(std::make_shared<LoopGate>(loop)),
      strands_(strands),
      jetstream_(std::move(exchange)),
      options_(std::move(options)) {}

KvBucket::~KvBucket() = default;

// ---- the loop's side

void KvBucket::open(nats::JetStream& jetstream, int replicas) {
  on_loop_ = &jetstream;
  replicas_.store(replicas);
  for (const auto& [core, watch] : watches_) watch->begin();
  for (const auto& [id, begin] : std::exchange(early_lists_, {})) begin();
  if (!options_.rank) return;
  if (!expiry_news_) {
    expiry_news_ = jetstream.connection().subscribe(
        options_.expiry_subject, [this](const nats::Message&) { look_for_expiry(); });
    // What was told in between has not come here.
    watches_connection_ = std::make_shared<const bool>(true);
    jetstream.connection().on_state(std::weak_ptr<const void>(watches_connection_),
                                    [this](nats::ConnectionState state, const std::string&) {
                                      if (state == nats::ConnectionState::connected)
                                        look_for_expiry();
                                    });
  }
  look_for_expiry();
}

void KvBucket::look_for_expiry() {
  if (!on_loop_ || expiry_) return;
  KvExpiry::is_marked(*on_loop_, stream(), [self = shared_from_this()](const Result<bool>& marked) {
    if (!self->on_loop_ || self->expiry_) return;
    if (!marked) {
      log::warn("key_expiry_unknown",
                {{"bucket", self->options_.bucket}, {"why", marked.error().what()}});
      // Who may not look does not remove keys: other nodes do.
      if (marked.error().errc() != Errc::permission_denied)
        self->expiry_retry_ = self->on_loop_->connection().loop().after(
            kLookAgain, [raw = self.get()] { raw->look_for_expiry(); });
      return;
    }
    if (marked.value())
      self->expiry_ = std::make_unique<KvExpiry>(
          *self->on_loop_, KvExpiry::Options{self->stream(), self->options_.rank});
  });
}

void KvBucket::close() {
  gate_->close();
  on_loop_ = nullptr;
  expiry_.reset();
  expiry_retry_.reset();
  expiry_news_ = {};
  watches_connection_.reset();
  lists_.clear();
  early_lists_.clear();
  for (const auto& [core, watch] : watches_) watch->halt();
  watches_.clear();
}

// ---- of other threads

std::string KvBucket::checked(std::string_view key) const {
  if (auto fault = key_text_fault(key); !fault.empty())
    throw Error(Errc::invalid_argument, "\"" + std::string(key) + "\" can't be a key of bucket \"" +
                                            options_.bucket + "\": " + fault);
  gate_->check_may_block("bucket \"" + options_.bucket + "\"");
  return escaped_key(key);
}

KvEntry KvBucket::entry_from(const nats::StoredMessage& message) const {
  KvEntry entry;
  entry.key = unescaped_key(std::string_view(message.subject)
                                .substr(std::min(message.subject.size(), subject("").size())));
  entry.value = message.data;
  entry.revision = message.sequence;
  entry.removed = removes(message);
  entry.time = wall_time_from(std::chrono::nanoseconds(message.time_ns));
  const auto ttl = message.header(KvExpiry::kHeader);
  std::int64_t ms = 0;
  if (!ttl.empty()) std::from_chars(ttl.data(), ttl.data() + ttl.size(), ms);
  entry.ttl = milliseconds(ms);
  return entry;
}

nats::Message KvBucket::value(std::string_view value, const KvWrite& options) {
  nats::Message message;
  message.data = value;
  if (options.ttl == milliseconds(0)) return message;
  if (options.ttl < kShortestTtl || options.ttl > kLongestTtl)
    throw Error(Errc::invalid_argument, "bucket \"" + options_.bucket + "\": a ttl of " +
                                            std::to_string(options.ttl.count()) +
                                            " ms is not from 100 ms to 366 days");
  message.headers = {{KvExpiry::kHeader, std::to_string(options.ttl.count())}};
  if (marked_.load()) return message;
  gate_->check_may_block("bucket \"" + options_.bucket + "\"");
  const Time deadline = deadline_after(options.timeout);
  make(deadline);
  while (auto failure = KvExpiry::mark(jetstream_, stream(), left_until(deadline))) {
    if (failure->errc() != Errc::unavailable && failure->errc() != Errc::timeout &&
        failure->errc() != Errc::unknown_outcome)
      throw Error(failure->errc(),
                  "bucket \"" + options_.bucket +
                      "\": it can't be marked to have keys with a ttl: " + failure->what());
    // Nothing of the user's was sent, and marking it again does no harm.
    pause_or_throw(Error(Errc::unavailable, failure->what()), deadline);
  }
  nats::Message news;
  news.subject = options_.expiry_subject;
  if (!news.subject.empty())
    if (auto failure = jetstream_.exchange().publish(news)) throw *failure;
  marked_.store(true);
  return message;
}

void KvBucket::pause_or_throw(const Error& error, Time deadline) const {
  if (BootClock::now() + kRetry >= deadline) throw error;
  std::this_thread::sleep_for(kRetry);
}

// The bucket is there, at the latest now.
void KvBucket::make(Time deadline) {
  while (!made_.load()) {
    nats::StreamConfig config;
    config.name = stream();
    config.description = "cpp-cluster: keys of an app";
    config.subjects = {subject(">")};
    config.replicas = std::max(1, replicas_.load());
    config.max_msgs_per_subject = options_.kv.history;
    config.max_bytes = options_.kv.max_bytes == 0 ? -1 : options_.kv.max_bytes;
    config.max_msg_size = options_.kv.max_value_size == 0 ? -1 : options_.kv.max_value_size;
    config.duplicate_window = std::chrono::minutes(2);
    config.allow_rollup = true;
    config.allow_direct = true;
    config.deny_delete = true;
    config.discard_new = true;
    // Before the first session it is not known how many replicas it should have.
    auto there = replicas_.load() == 0 ? jetstream_.stream(config.name, left_until(deadline))
                                       : jetstream_.ensure_stream(config, left_until(deadline));
    if (there) {
      reads_.store(there.value().config.replicas == 1 && there.value().config.allow_direct
                       ? Reads::direct
                       : Reads::of_leader);
      made_.store(true);
      return;
    }
    Error error = there.error();
    if (error.errc() == Errc::not_found)
      error =
          Error(Errc::unavailable, "bucket \"" + options_.bucket +
                                       "\" is not there yet, and made once this node has joined "
                                       "its platform");
    if (error.errc() == Errc::unknown_outcome || error.errc() == Errc::timeout)
      error = Error(Errc::unavailable, error.what());  // nothing of the user's was sent
    if (error.errc() != Errc::unavailable) throw error;
    pause_or_throw(error, deadline);
  }
}

// Whether there is a bucket; and then how it is read: of one replica directly, which is faster.
bool KvBucket::know_reads(Time deadline) {
  while (reads_.load() == Reads::unknown) {
    auto there = jetstream_.stream(stream(), left_until(deadline));
    if (there) {
      reads_.store(there.value().config.replicas == 1 && there.value().config.allow_direct
                       ? Reads::direct
                       : Reads::of_leader);
      break;
    }
    if (there.error().errc() == Errc::not_found) return false;
    if (there.error().errc() != Errc::unavailable && there.error().errc() != Errc::timeout &&
        there.error().errc() != Errc::unknown_outcome)
      throw there.error();
    pause_or_throw(Error(Errc::unavailable, there.error().what()), deadline);
  }
  return true;
}

std::optional<nats::StoredMessage> KvBucket::last(const std::string& key, Time deadline) {
  if (!know_reads(deadline)) return std::nullopt;
  while (true) {
    auto message =
        reads_.load() == Reads::direct
            ? jetstream_.last_message_direct(stream(), subject(key), left_until(deadline))
            : jetstream_.last_message(stream(), subject(key), left_until(deadline));
    if (message) return std::move(message.value());
    const Error& error = message.error();
    if (error.errc() == Errc::not_found) return std::nullopt;
    if (error.errc() != Errc::unavailable && error.errc() != Errc::unknown_outcome &&
        error.errc() != Errc::timeout)
      throw error;
    // Reading again does no harm.
    pause_or_throw(Error(Errc::unavailable, error.what()), deadline);
  }
}

std::optional<KvEntry> KvBucket::get(std::string_view key, Milliseconds timeout) {
  auto message = last(checked(key), deadline_after(timeout));
  if (!message || removes(*message)) return std::nullopt;
  return entry_from(*message);
}

std::uint64_t KvBucket::write(std::string_view key, nats::Message message,
                              const nats::Expect& expect, Milliseconds timeout) {
  const Time deadline = deadline_after(timeout);
  message.subject = subject(checked(key));
  const std::string what = "write of key \"" + std::string(key) + "\"";
  make(deadline);
  while (true) {
    auto ack = jetstream_.publish(message, expect, left_until(deadline));
    if (ack) return ack.value().sequence;
    const Error& error = ack.error();
    if (error.errc() == Errc::timeout || error.errc() == Errc::unknown_outcome)
      throw Error(Errc::unknown_outcome,
                  what + ": " + error.what() + "; read the key to see whether it was stored");
    if (error.errc() != Errc::unavailable) throw Error(error.errc(), what + ": " + error.what());
    // It was not stored: no harm in trying again.
    pause_or_throw(Error(Errc::unavailable, what + ": " + error.what()), deadline);
  }
}

std::uint64_t KvBucket::create(std::string_view key, std::string_view text,
                               const KvWrite& options) {
  const Time deadline = deadline_after(options.timeout);
  const nats::Message message = value(text, options);
  nats::Expect expect;
  expect.last_subject_sequence = 0;
  while (true) {
    try {
      return write(key, message, expect, std::chrono::ceil<Milliseconds>(left_until(deadline)));
    } catch (const Error& error) {
      if (error.errc() != Errc::wrong_revision) throw;
      // A key that was removed leaves a marker, which has a revision.
      const auto there = last(checked(key), deadline);
      if (there && !removes(*there))
        throw Error(Errc::wrong_revision, "key \"" + std::string(key) +
                                              "\" is there already, with "
                                              "revision " +
                                              std::to_string(there->sequence));
      expect.last_subject_sequence = there ? there->sequence : 0;
      if (BootClock::now() >= deadline)
        throw Error(Errc::unavailable, "key \"" + std::string(key) +
                                           "\" is written and removed by others all the time");
    }
  }
}

// A list under way: the loop fills it, the caller waits.
struct KvBucket::Listing {
  std::mutex mutex{};
  std::condition_variable changed{};
  std::vector<KvEntry> entries{};
  bool complete = false;
  bool too_many = false;
  bool denied = false;
  Failure trouble{};  // that came last

  void add(KvEntry entry, std::size_t limit) {
    const std::lock_guard lock(mutex);
    if (complete) return;
    too_many = limit != 0 && entries.size() >= limit;
    if (!too_many) return entries.push_back(std::move(entry));
    complete = true;
    changed.notify_all();
  }
  void end() {
    const std::lock_guard lock(mutex);
    complete = true;
    changed.notify_all();
  }
  void fail(const Error& error) {
    const std::lock_guard lock(mutex);
    if (complete) return;
    trouble = error;
    // Where nobody has written anything there is no bucket. A refusal stays one.
    denied = error.errc() == Errc::permission_denied;
    if (error.errc() != Errc::not_found && !denied) return;
    complete = true;
    changed.notify_all();
  }
};

void KvBucket::begin_list(std::uint64_t id, const Wanted& wanted,
                          const std::shared_ptr<Listing>& listing) {
  if (!on_loop_) {
    listing->fail(Error(Errc::unavailable, "this node has not joined its platform yet"));
    early_lists_[id] = [this, id, wanted, listing] { begin_list(id, wanted, listing); };
    return;
  }
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this, listing, wanted](const nats::StoredMessage& message) {
    KvEntry entry = entry_from(message);
    if (!entry.key.starts_with(wanted.prefix) || (entry.removed && !wanted.all)) return;
    listing->add(std::move(entry), wanted.limit);
  };
  handlers.caught_up = [listing] { listing->end(); };
  handlers.trouble = [listing](const Error& error) { listing->fail(error); };
  const std::string filter = wanted.key ? escaped_key(*wanted.key) : keys_filter(wanted.prefix);
  const nats::StartAt start{
      wanted.all ? nats::StartAt::Kind::all : nats::StartAt::Kind::last_per_subject, 0,
      !wanted.values};
  lists_[id] = std::make_unique<nats::OrderedConsumer>(
      *on_loop_, stream(), std::vector{subject(filter)}, start, std::move(handlers));
}

std::vector<KvEntry> KvBucket::list(const Wanted& wanted, Milliseconds timeout) {
  gate_->check_may_block("bucket \"" + options_.bucket + "\"");
  const std::string what = "list of bucket \"" + options_.bucket + "\"";
  const auto listing = std::make_shared<Listing>();
  const auto id = ++last_list_;
  if (!gate_->post([self = shared_from_this(), id, wanted, listing] {
        self->begin_list(id, wanted, listing);
      }))
    throw Error(Errc::shutting_down, what + ": the platform has stopped");
  {
    std::unique_lock lock(listing->mutex);
    listing->changed.wait_for(lock, std::min(timeout, kLongestWait),
                              [&] { return listing->complete; });
  }
  gate_->post([self = shared_from_this(), id] {
    self->lists_.erase(id);
    self->early_lists_.erase(id);
  });
  const std::lock_guard lock(listing->mutex);
  if (listing->too_many)
    throw Error(Errc::overloaded, what + ": more than " + std::to_string(wanted.limit) +
                                      " keys begin with \"" + wanted.prefix +
                                      "\"; name a longer prefix or a higher limit");
  if (listing->denied) throw Error(Errc::permission_denied, what + ": " + listing->trouble->what());
  if (!std::exchange(listing->complete, true))
    throw Error(Errc::unavailable,
                what + ": not complete within " + std::to_string(timeout.count()) + " ms" +
                    (listing->trouble ? std::string(": ") + listing->trouble->what() : ""));
  return std::move(listing->entries);
}

std::shared_ptr<KvWatch::Core> KvBucket::watch(std::string_view prefix,
                                               std::function<void(const KvEntry&)> handler,
                                               KvWatchOptions options) {
  auto core = std::make_shared<KvWatch::Core>();
  core->bucket = shared_from_this();
  core->prefix = prefix;
  core->filter = subject(keys_filter(prefix));
  core->handler = std::move(handler);
  core->resume_at = options.from_revision ? std::max<std::uint64_t>(1, *options.from_revision) : 0;
  core->options = std::move(options);
  const bool posted = gate_->post([this, core] {
    core->strand = strands_.strand();
    watches_.emplace(core.get(), core);
    core->begin();
  });
  if (!posted)
    throw Error(Errc::shutting_down,
                "watch of bucket \"" + options_.bucket + "\": the platform has stopped");
  return core;
}

}  // namespace cluster
