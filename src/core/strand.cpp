#include "core/strand.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace cluster {

struct Strand::Queue {
  std::shared_ptr<StrandPool::State> pool;
  std::size_t limit = 0;
  std::deque<Task> tasks;  // under the pool's mutex
  bool scheduled = false;  // in the pool's ready list, or running
  std::atomic<std::thread::id> runner{};
};

struct StrandPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable ended;
  std::deque<std::shared_ptr<Strand::Queue>> ready;
  int idle = 0;
  int threads = 0;
  int idle_seconds = 10;
  bool stopping = false;
  bool refuse_threads = false;  // for tests

  enum class Scheduled {
    yes,
    wake,  // so far: one that waits has yet to be woken, without the mutex, which it wants first
    no,    // there is no thread that could run it, and none to be had
  };
  // Called with the mutex held.
  Scheduled schedule(const std::shared_ptr<Strand::Queue>& queue,
                     const std::shared_ptr<State>& self) {
    if (queue->scheduled) return Scheduled::yes;
    queue->scheduled = true;
    ready.push_back(queue);
    if (static_cast<std::size_t>(idle) >= ready.size()) return Scheduled::wake;
    ++threads;
    try {
      if (refuse_threads) throw std::system_error(EAGAIN, std::generic_category());
      std::thread([self] { self->work(); }).detach();
      return Scheduled::yes;
    } catch (const std::system_error&) {
      // The system's limit of threads is reached. Those that run take it up when they are free.
      --threads;
      if (threads > 0) return Scheduled::yes;
      ready.pop_back();
      queue->scheduled = false;
      return Scheduled::no;
    }
  }

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      if (ready.empty() && !stopping) {
        ++idle;
        bool woken = wake.wait_for(lock, std::chrono::seconds(idle_seconds),
                                   [&] { return stopping || !ready.empty(); });
        --idle;
        if (!woken) break;
      }
      if (stopping) break;
      auto queue = std::move(ready.front());
      ready.pop_front();
      auto task = std::move(queue->tasks.front());
      queue->tasks.pop_front();
      queue->runner.store(std::this_thread::get_id());
      lock.unlock();
      task();
      task = nullptr;  // what it captured goes before the lock is taken
      lock.lock();
      queue->runner.store(std::thread::id{});
      if (queue->tasks.empty()) {
        queue->scheduled = false;
      } else {
        ready.push_back(std::move(queue));
      }
    }
    --threads;
    ended.notify_all();
  }
};

bool Strand::post(Task task) {
  const auto pool = queue_->pool;
  std::unique_lock lock(pool->mutex);
  if (pool->stopping || queue_->tasks.size() >= queue_->limit) return false;
  queue_->tasks.push_back(std::move(task));
  const auto scheduled = pool->schedule(queue_, pool);
  if (scheduled == StrandPool::State::Scheduled::no) queue_->tasks.pop_back();
  lock.unlock();
  if (scheduled == StrandPool::State::Scheduled::wake) pool->wake.notify_one();
  return scheduled != StrandPool::State::Scheduled::no;
}

bool Strand::in_strand() const { return queue_->runner.load() == std::this_thread::get_id(); }

StrandPool::StrandPool(int idle_seconds) : state_(std::make_shared<State>()) {
  state_->idle_seconds = idle_seconds;
}

void StrandPool::refuse_threads(bool refuse) {
  std::lock_guard lock(state_->mutex);
  state_->refuse_threads = refuse;
}

StrandPool::~StrandPool() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->wake.notify_all();
  state_->ended.wait(lock, [&] { return state_->threads == 0; });
  auto dropped = std::move(state_->ready);
  lock.unlock();
}

std::unique_ptr<Strand> StrandPool::strand(std::size_t limit) {
  auto queue = std::make_shared<Strand::Queue>();
  queue->pool = state_;
  queue->limit = limit;
  return std::unique_ptr<Strand>(new Strand(std::move(queue)));
}

}  // namespace cluster
