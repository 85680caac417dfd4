// Removes the records of locks that nobody has used for long, which otherwise would stay for ever,
// one for each name. On the loop of the node that coordinates the platform.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/loop.h"
#include "nats/jetstream.h"

namespace cluster::coord {

class LockSweeper {
 public:
  struct Options {
    std::string platform{};
    /// No write that was sent before a record was removed may come after that: no message is on its
    /// way for as long as this.
    Duration idle = std::chrono::hours(1);
    Duration first = std::chrono::minutes(1);
    Duration interval = std::chrono::minutes(10);
    std::function<void(int removed)> swept{};  ///< after each round
  };
  LockSweeper(nats::JetStream& jetstream, Options options);
  ~LockSweeper();
  LockSweeper(const LockSweeper&) = delete;
  LockSweeper& operator=(const LockSweeper&) = delete;

 private:
  static constexpr std::size_t kMostAtATime = 1'000;  // in one round

  std::string stream() const { return "KV_" + options_.platform + "_locks"; }
  void begin();
  void seen(const nats::StoredMessage& message);
  void remove_next();
  void end();

  nats::JetStream& jetstream_;
  const Options options_;
  LoopSource timer_;
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  std::vector<std::pair<std::string, std::uint64_t>> idle_;  // subjects and revisions
  int removed_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::coord
