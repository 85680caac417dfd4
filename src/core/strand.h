// Where users' code runs: tasks of one strand run one at a time and in order, on a thread of a pool
// that grows with the strands that are busy and shrinks when they rest. So a thousand idle apps
// cost no thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace cluster {

class StrandPool;

/// Made by StrandPool::strand(). Dropping it lets queued tasks finish. All methods from any thread.
class Strand {
 public:
  using Task = std::function<void()>;
  ~Strand() = default;

  /// Queues a task; false, and nothing queued, when `limit` tasks already wait, or when no thread
  /// runs and the system gives none. A task must not throw.
  bool post(Task task);
  /// True on the thread that runs one of this strand's tasks.
  bool in_strand() const;

 private:
  friend class StrandPool;
  struct Queue;
  explicit Strand(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}
  std::shared_ptr<Queue> queue_;
};

class StrandPool {
 public:
  /// Threads end after `idle_seconds` without work.
  explicit StrandPool(int idle_seconds = 10);
  /// Waits for tasks that run; what still waits in queues is dropped.
  ~StrandPool();
  StrandPool(const StrandPool&) = delete;
  StrandPool& operator=(const StrandPool&) = delete;

  std::unique_ptr<Strand> strand(std::size_t limit = 1024);
  /// For tests: as if the system gave no more threads.
  void refuse_threads(bool refuse);

 private:
  friend class Strand;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cluster
