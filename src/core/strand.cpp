#include "core/strand.h"

#include <atomic>
#include <chrono>

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

  // Called with the mutex held.
  void schedule(const std::shared_ptr<Strand::Queue>& queue, const std::shared_ptr<State>& self) {
    if (queue->scheduled) return;
    queue->scheduled = true;
    ready.push_back(queue);
    if (static_cast<std::size_t>(idle) >= ready.size()) {
      wake.notify_one();
      return;
    }
    ++threads;
    std::thread([self] { self->work(); }).detach();
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
  auto& pool = queue_->pool;
  std::lock_guard lock(pool->mutex);
  if (pool->stopping || queue_->tasks.size() >= queue_->limit) return false;
  queue_->tasks.push_back(std::move(task));
  pool->schedule(queue_, pool);
  return true;
}

bool Strand::in_strand() const { return queue_->runner.load() == std::this_thread::get_id(); }

StrandPool::StrandPool(int idle_seconds) : state_(std::make_shared<State>()) {
  state_->idle_seconds = idle_seconds;
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
