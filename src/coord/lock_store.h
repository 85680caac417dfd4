// Carries out what Locks decide: reads and writes records in the bucket `<p>_locks`, which it makes
// when somebody needs it, and tells other nodes. On the loop.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coord/locks.h"
#include "core/loop.h"
#include "nats/key_value.h"

namespace cluster::coord {

class LockStore {
 public:
  struct Events {
    std::function<void(const std::string& key, Revision rev, const std::optional<LockRecord>&)>
        read{};
    std::function<void(const std::string& key, std::uint64_t number, WriteOutcome, Revision)>
        written{};
    std::function<void(const LockNotice&)> told{};
    std::function<void()> doubt{};  ///< what others have told may have been missed
    std::function<void(const Error&)> trouble{};
  };

  LockStore(nats::JetStream& jetstream, const std::string& platform, const std::string& node,
            int replicas, Events events);
  ~LockStore();
  LockStore(const LockStore&) = delete;
  LockStore& operator=(const LockStore&) = delete;

  /// Before the first of these: the bucket is there, notices are heard.
  void read(const ReadLock& read);
  void write(const WriteLock& write);
  void tell(const LockNotice& notice);

 private:
  static constexpr std::size_t kMostQueued = 10'000;

  void when_ready(std::function<void()> then);
  void prepare();
  void prepared(const Failure& failure);
  void tell_once(const std::string& subject, const std::string& data, int left);

  nats::JetStream& jetstream_;
  const std::string subjects_;  // `<p>._.locks.`
  const std::string node_;
  nats::KeyValue bucket_;
  const int replicas_;
  const Events events_;
  enum class Ready { no, asked, yes } ready_ = Ready::no;
  std::vector<std::function<void()>> queued_;
  nats::Subscription notices_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::coord
