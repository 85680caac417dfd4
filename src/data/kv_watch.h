// A watch of an app's bucket: a consumer on the loop, a bounded queue, a strand for the handler.
// When the handler is slow, the consumer ends, and another takes up where the queue ends.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "data/kv_bucket.h"

namespace cluster {

struct KvWatch::Core : std::enable_shared_from_this<KvWatch::Core> {
  static constexpr std::size_t kMostQueued = 1'000;

  std::shared_ptr<KvBucket> bucket{};
  std::string prefix{};
  std::string filter{};  ///< of subjects
  std::function<void(const KvEntry&)> handler{};
  KvWatchOptions options{};
  std::unique_ptr<Strand> strand{};

  // Of the loop:
  std::unique_ptr<nats::OrderedConsumer> consumer{};
  std::uint64_t resume_at = 0;  ///< the first revision wanted; 0: the newest of each key first

  void begin();  ///< on the loop, when NATS can be used
  void halt();   ///< on the loop: no consumer any more
  void end();    ///< of the watch's owner: nothing runs any more when it returns

 private:
  struct Item {
    KvEntry entry{};
    std::function<void()> news{};  // instead of an entry
  };

  void take(Item item);
  void resume();
  void run();
  void call(const Item& item);

  std::mutex mutex_;  // over what follows
  std::condition_variable rested_;
  std::deque<Item> queue_;
  bool scheduled_ = false;
  bool full_ = false;
  bool ended_ = false;
  bool caught_up_ = false;
  std::thread::id runner_{};
};

}  // namespace cluster
