#include "data/kv_watch.h"

#include <utility>

#include "core/key_text.h"
#include "core/log.h"
#include "core/thrown_by.h"

namespace cluster {

void KvWatch::Core::begin() {
  if (consumer || !bucket->on_loop_) return;
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](const nats::StoredMessage& message) {
    KvEntry entry = bucket->entry_from(message);
    resume_at = message.sequence + 1;
    if (entry.key.starts_with(prefix)) take({std::move(entry)});
  };
  handlers.caught_up = [this] {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(caught_up_, true)) return;
    }
    if (options.caught_up) take({{}, options.caught_up});
  };
  handlers.rewound = [this](std::uint64_t delivered, std::uint64_t last) {
    const std::string why = "bucket \"" + bucket->options_.bucket +
                            "\" has lost its end: revision " + std::to_string(delivered) +
                            " was there, now it ends with " + std::to_string(last);
    log::error("kv_rewound", {{"bucket", bucket->options_.bucket}, {"why", why}});
    resume_at = last + 1;
    if (options.lost) take({{}, [lost = options.lost, why] { lost(why); }});
  };
  handlers.trouble = [this](const Error& error) {
    // The first write makes the bucket.
    if (error.errc() != Errc::not_found)
      log::warn("kv_watch_trouble", {{"bucket", bucket->options_.bucket}, {"why", error.what()}});
  };
  nats::StartAt start{nats::StartAt::Kind::last_per_subject, 0};
  if (resume_at != 0) start = {nats::StartAt::Kind::sequence, resume_at};
  consumer = std::make_unique<nats::OrderedConsumer>(
      *bucket->on_loop_, bucket->stream(), std::vector{filter}, start, std::move(handlers));
}

void KvWatch::Core::halt() { consumer.reset(); }

// On the loop.
void KvWatch::Core::take(Item item) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  queue_.push_back(std::move(item));
  if (queue_.size() >= kMostQueued && !full_) {
    full_ = true;
    // Not from within the consumer's own callback.
    bucket->gate_->post([self = shared_from_this()] { self->halt(); });
  }
  if (std::exchange(scheduled_, true)) return;
  if (!strand->post([self = shared_from_this()] { self->run(); })) scheduled_ = false;
}

void KvWatch::Core::resume() {
  bucket->gate_->post([self = shared_from_this()] {
    {
      const std::lock_guard lock(self->mutex_);
      if (self->ended_) return;
    }
    self->begin();
  });
}

// On the strand: all that waits.
void KvWatch::Core::run() {
  std::unique_lock lock(mutex_);
  runner_ = std::this_thread::get_id();
  while (!queue_.empty() && !ended_) {
    const Item item = std::move(queue_.front());
    queue_.pop_front();
    if (full_ && queue_.size() <= kMostQueued / 2) {
      full_ = false;
      resume();
    }
    lock.unlock();
    call(item);
    lock.lock();
  }
  scheduled_ = false;
  runner_ = {};
  rested_.notify_all();
}

void KvWatch::Core::call(const Item& item) {
  const auto thrown = thrown_by([&] { item.news ? item.news() : handler(item.entry); });
  if (thrown)
    log::error("kv_handler_threw",
               {{"bucket", bucket->options_.bucket}, {"key", item.entry.key}, {"why", *thrown}});
}

void KvWatch::Core::end() {
  std::unique_lock lock(mutex_);
  ended_ = true;
  queue_.clear();
  if (runner_ != std::this_thread::get_id())
    rested_.wait(lock, [this] { return runner_ == std::thread::id{}; });
  lock.unlock();
  bucket->gate_->post([self = shared_from_this()] {
    self->halt();
    self->bucket->watches_.erase(self.get());
  });
}

KvWatch::KvWatch(KvWatch&&) noexcept = default;

KvWatch& KvWatch::operator=(KvWatch&& other) noexcept {
  std::swap(core_, other.core_);
  return *this;
}

KvWatch::~KvWatch() {
  if (core_) core_->end();
}

}  // namespace cluster
