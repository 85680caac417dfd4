#include "nats/exchange.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "nats/link.h"
#include "nats/send.h"

namespace cluster::nats {
namespace {

thread_local bool may_not_block = false;

std::string request_to(const std::string& subject) { return "request to \"" + subject + "\""; }

}  // namespace

// One thread that waits for its answer, or answers.
struct Exchange::Waiter {
  explicit Waiter(std::string s) : subject(std::move(s)) {}

  // Whoever is woken is to find the mutex free.
  void give(Message message) {
    {
      const std::lock_guard lock(mutex);
      answers.push_back(std::move(message));
    }
    came.notify_one();
  }
  void fail(Error why) {
    {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::move(why);
    }
    came.notify_one();
  }

  const std::string subject;
  std::mutex mutex;
  std::condition_variable came;
  std::deque<Message> answers;
  Failure failure;  // none come any more
};

Exchange::MayNotBlock::MayNotBlock() : before_(std::exchange(may_not_block, true)) {}
Exchange::MayNotBlock::~MayNotBlock() { may_not_block = before_; }

void Exchange::up(std::shared_ptr<Wire> wire, const std::string& inbox) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  max_payload_.store(wire->server.max_payload);
  wire_ = std::move(wire);
  inbox_ = inbox;
  answers_refused_.reset();
  connected_.notify_all();
}

void Exchange::down(const std::string& why) {
  std::unordered_map<std::uint64_t, std::shared_ptr<Waiter>> lost;
  {
    const std::lock_guard lock(mutex_);
    wire_.reset();
    lost.swap(waiters_);
  }
  for (const auto& [id, waiter] : lost)
    waiter->fail(Error(Errc::unknown_outcome,
                       request_to(waiter->subject) + ": " + why +
                           " before the answer came; whether it took effect is unknown"));
}

void Exchange::refused(const Refusal& refusal,
                       const std::function<Error(const std::string& subject)>& why) {
  std::vector<std::shared_ptr<Waiter>> hit;
  {
    const std::lock_guard lock(mutex_);
    const bool ours = !inbox_.empty() && refusal.names(inbox_ + "*");
    if (ours) answers_refused_ = why(inbox_ + "*");
    for (const auto& [id, waiter] : waiters_)
      if (ours || refusal.names(waiter->subject)) hit.push_back(waiter);
  }
  for (const auto& waiter : hit) waiter->fail(why(waiter->subject));
}

void Exchange::answered(Message message) {
  std::shared_ptr<Waiter> waiter;
  {
    const std::lock_guard lock(mutex_);
    const auto it = waiters_.find(id_from_subject(message.subject));
    if (it == waiters_.end()) return;  // its time limit has passed
    waiter = it->second;
  }
  if (message.status == 503)
    return waiter->fail(
        Error(Errc::no_responders, "nobody listens on \"" + waiter->subject + "\""));
  waiter->give(std::move(message));
}

void Exchange::close() {
  std::unordered_map<std::uint64_t, std::shared_ptr<Waiter>> lost;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    wire_.reset();
    lost.swap(waiters_);
    connected_.notify_all();
  }
  for (const auto& [id, waiter] : lost)
    waiter->fail(Error(
        Errc::unknown_outcome,
        request_to(waiter->subject) + ": the platform stops; whether it took effect is unknown"));
}

bool Exchange::wait_connected(Duration timeout) {
  std::unique_lock lock(mutex_);
  connected_.wait_for(lock, timeout, [this] { return wire_ || closed_; });
  return wire_ != nullptr;
}

std::size_t Exchange::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiters_.size();
}

void Exchange::forget(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  waiters_.erase(id);
}

// With the mutex held.
Result<std::shared_ptr<Wire>> Exchange::wire_now(const Message& message) const {
  const std::string what = "message to \"" + message.subject + "\"";
  if (closed_) return Error(Errc::shutting_down, what + ": the platform has stopped");
  if (!wire_) return Error(Errc::unavailable, what + ": not connected to NATS now");
  return wire_;
}

Failure Exchange::publish(const Message& message) {
  if (auto fault = message_fault(message, max_payload()); !fault.empty())
    return Error(Errc::invalid_argument, "publish: " + fault);
  std::shared_ptr<Wire> wire;
  {
    const std::lock_guard lock(mutex_);
    auto now = wire_now(message);
    if (!now) return now.error();
    wire = std::move(now.value());
  }
  const std::lock_guard use(wire->use);
  if (!wire->over && send(wire->nc, message) == NATS_OK) return std::nullopt;
  return Error(Errc::unavailable,
               "message to \"" + message.subject + "\": the connection to NATS has just ended");
}

Result<Message> Exchange::request(Message message, Duration timeout, const std::stop_token& stop) {
  Message answer;
  auto failure = gather(std::move(message), timeout, stop, [&answer](Message first) {
    answer = std::move(first);
    return false;
  });
  if (failure) return *failure;
  return answer;
}

Failure Exchange::gather(Message message, Duration timeout, const std::stop_token& stop,
                         const std::function<bool(Message)>& take) {
  if (auto fault = message_fault(message, max_payload()); !fault.empty())
    return Error(Errc::invalid_argument, "request: " + fault);
  if (may_not_block)
    return Error(Errc::invalid_argument,
                 request_to(message.subject) +
                     ": it would wait for itself: a quick handler of a call may not block");
  const Time deadline = BootClock::now() + timeout;
  const auto waiter = std::make_shared<Waiter>(message.subject);
  std::shared_ptr<Wire> wire;
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    auto now = wire_now(message);
    if (!now) return now.error();
    if (answers_refused_) return answers_refused_;
    if (waiters_.size() >= kMostWaiting)
      return Error(Errc::overloaded,
                   request_to(message.subject) + ": too many requests wait for their answers");
    wire = std::move(now.value());
    id = ++last_id_;
    message.reply = inbox_ + token_of(id);
    waiters_.emplace(id, waiter);
  }
  struct Forget {
    Exchange& exchange;
    std::uint64_t id;
    ~Forget() { exchange.forget(id); }
  } const forget{*this, id};
  {
    const std::lock_guard use(wire->use);
    if (wire->over)
      return Error(Errc::unavailable, request_to(waiter->subject) + ": not connected to NATS now");
    if (send(wire->nc, message) != NATS_OK)
      return Error(Errc::unknown_outcome,
                   request_to(waiter->subject) +
                       ": the connection to NATS has just ended; whether it was sent is unknown");
  }
  const std::stop_callback stopped(stop, [&] {
    waiter->fail(
        Error(Errc::unknown_outcome,
              request_to(waiter->subject) + ": it was stopped; whether it took effect is unknown"));
  });
  std::unique_lock lock(waiter->mutex);
  while (true) {
    while (waiter->answers.empty() && !waiter->failure) {
      const Time now = BootClock::now();
      if (now >= deadline)
        return Error(Errc::timeout,
                     request_to(waiter->subject) + ": no answer within the time limit");
      waiter->came.wait_for(lock, deadline - now);
    }
    if (waiter->answers.empty()) return waiter->failure;
    Message answer = std::move(waiter->answers.front());
    waiter->answers.pop_front();
    lock.unlock();
    if (!take(std::move(answer))) return std::nullopt;
    lock.lock();
  }
}

}  // namespace cluster::nats
