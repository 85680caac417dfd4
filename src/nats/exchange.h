// Requests and messages of threads other than the loop's, over the connection that a Connection has
// just now. They go straight to libnats and back, for two hand-overs to the loop would cost half of
// a round trip. Blocks; not for the loop.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <unordered_map>

#include "cluster/clock.h"
#include "core/result.h"
#include "nats/message.h"
#include "nats/refusal.h"

namespace cluster::nats {

struct Wire;

/// All methods from any thread. Made before its Connection, and may outlive it.
class Exchange {
 public:
  static constexpr std::size_t kMostWaiting = 65'536;  ///< requests

  Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// The answer, or an Error. Nothing was sent: unavailable (not connected now), invalid_argument
  /// (no subject, or over the server's max_payload), permission_denied (of answers),
  /// shutting_down. Nothing was heard by anybody: no_responders, permission_denied (the subject is
  /// refused). Sent, and nothing is known: timeout, unknown_outcome (the connection was lost
  /// before the answer came, or `stop` was requested).
  Result<Message> request(Message message, Duration timeout, const std::stop_token& stop = {});
  /// Hands each answer to `take`, on the calling thread, until that returns false (nothing then),
  /// or for another reason, which is as request()'s.
  Failure gather(Message message, Duration timeout, const std::stop_token& stop,
                 const std::function<bool(Message)>& take);
  /// Sends at once. As request() where it was not sent; what becomes of it nobody tells.
  Failure publish(const Message& message);
  /// Waits until there is a connection; false after `timeout`, or when there will be none.
  bool wait_connected(Duration timeout);
  /// Of the server connected to now, or last; 0 before.
  std::int64_t max_payload() const noexcept { return max_payload_.load(); }
  /// Requests that wait for an answer.
  std::size_t waiting() const;
  /// Ends all that waits; nothing works afterwards.
  void close();

  /// While it lives nothing of this thread waits for an answer: request() and gather() refuse with
  /// invalid_argument. For libnats' thread, which brings the answers.
  class MayNotBlock {
   public:
    MayNotBlock();
    ~MayNotBlock();
    MayNotBlock(const MayNotBlock&) = delete;
    MayNotBlock& operator=(const MayNotBlock&) = delete;

   private:
    const bool before_;
  };

 private:
  friend class Connection;
  struct Waiter;

  // Of the Connection, on the loop.
  void up(std::shared_ptr<Wire> wire, const std::string& inbox);
  void down(const std::string& why);
  /// The server refuses a subject to us, or our answers; `why` makes the error for a subject.
  void refused(const Refusal& refusal, const std::function<Error(const std::string& subject)>& why);
  /// Of libnats' thread.
  void answered(Message message);

  Result<std::shared_ptr<Wire>> wire_now(const Message& message) const;
  void forget(std::uint64_t id);

  mutable std::mutex mutex_;  // over all below
  std::condition_variable connected_;
  std::shared_ptr<Wire> wire_;
  std::string inbox_;  // `<inbox>.x.`
  Failure answers_refused_;
  bool closed_ = false;
  std::uint64_t last_id_ = 0;
  std::unordered_map<std::uint64_t, std::shared_ptr<Waiter>> waiters_;
  std::atomic<std::int64_t> max_payload_{0};
};

}  // namespace cluster::nats
