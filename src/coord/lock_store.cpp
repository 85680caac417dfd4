#include "coord/lock_store.h"

#include <utility>

#include "coord/records_json.h"

namespace cluster::coord {
namespace {

constexpr Duration kLockWriteTimeout = std::chrono::seconds(1);
constexpr Duration kNoticeTimeout = std::chrono::milliseconds(300);
constexpr int kNoticeTries = 5;

}  // namespace

LockStore::LockStore(nats::JetStream& jetstream, const std::string& platform,
                     const std::string& node, int replicas, Events events)
    : jetstream_(jetstream),
      subjects_(platform + "._.locks."),
      node_(node),
      bucket_(jetstream, platform + "_locks"),
      replicas_(replicas),
      events_(std::move(events)) {
  jetstream_.connection().on_state(
      std::weak_ptr<const void>(alive_), [this](nats::ConnectionState state, const std::string&) {
        if (state == nats::ConnectionState::connected && ready_ == Ready::yes) events_.doubt();
      });
}

LockStore::~LockStore() { *alive_ = false; }

// Whoever asks is asked again when this fails: what is queued is dropped then.
void LockStore::when_ready(std::function<void()> then) {
  if (ready_ == Ready::yes) return then();
  if (queued_.size() < kMostQueued) queued_.push_back(std::move(then));
  if (ready_ == Ready::no) prepare();
}

void LockStore::prepare() {
  ready_ = Ready::asked;
  if (!notices_) {
    auto& connection = jetstream_.connection();
    notices_ = connection.subscribe(subjects_ + node_, [this](const nats::Message& message) {
      if (!message.reply.empty()) jetstream_.connection().publish({.subject = message.reply});
      auto notice = lock_notice_from(message.data);
      if (!notice) return events_.trouble(notice.error());
      events_.told(notice.value());
    });
  }
  nats::BucketConfig config;
  config.bucket = bucket_.bucket();
  config.description = "cpp-cluster: locks";
  config.replicas = replicas_;
  bucket_.ensure(config, [this, alive = alive_](const Failure& failure) {
    if (*alive) prepared(failure);
  });
}

void LockStore::prepared(const Failure& failure) {
  ready_ = failure ? Ready::no : Ready::yes;
  const auto queued = std::exchange(queued_, {});
  if (failure) return events_.trouble(*failure);
  for (const auto& then : queued) then();
}

void LockStore::read(const ReadLock& read) {
  when_ready([this, key = read.key] {
    jetstream_.last_message("KV_" + bucket_.bucket(), "$KV." + bucket_.bucket() + "." + key,
                            [this, key, alive = alive_](Result<nats::StoredMessage> message) {
                              if (!*alive) return;
                              if (!message) {
                                if (message.error().errc() == Errc::not_found)
                                  return events_.read(key, 0, std::nullopt);
                                return events_.trouble(message.error());
                              }
                              // A marker: somebody has removed the record.
                              if (!message.value().header("KV-Operation").empty())
                                return events_.read(key, message.value().sequence, std::nullopt);
                              auto record = lock_record_from(key, message.value().data);
                              if (!record) return events_.trouble(record.error());
                              events_.read(key, message.value().sequence, record.value());
                            });
  });
}

void LockStore::write(const WriteLock& write) {
  when_ready([this, key = write.key, number = write.number, expected = write.expected,
              text = to_json(write.record)]() mutable {
    bucket_.update(key, std::move(text), expected, kLockWriteTimeout,
                   [this, key, number, alive = alive_](Result<std::uint64_t> stored) {
                     if (!*alive) return;
                     if (stored)
                       return events_.written(key, number, WriteOutcome::stored, stored.value());
                     if (stored.error().errc() == Errc::wrong_revision)
                       return events_.written(key, number, WriteOutcome::refused, 0);
                     // Perhaps the bucket has gone.
                     if (stored.error().errc() == Errc::unavailable) ready_ = Ready::no;
                     events_.trouble(stored.error());
                     events_.written(key, number, WriteOutcome::unknown, 0);
                   });
  });
}

void LockStore::tell(const LockNotice& notice) {
  tell_once(subjects_ + notice.to, to_json(notice), kNoticeTries);
}

// Nobody relies on it, but whom it does not reach waits until it looks by itself.
void LockStore::tell_once(const std::string& subject, const std::string& data, int left) {
  if (left == 0) return;
  jetstream_.connection().request(
      {.subject = subject, .data = data}, kNoticeTimeout,
      [this, subject, data, left, alive = alive_](const Result<nats::Message>& answer) {
        if (*alive && !answer && answer.error().errc() == Errc::timeout)
          tell_once(subject, data, left - 1);
      });
}

}  // namespace cluster::coord
