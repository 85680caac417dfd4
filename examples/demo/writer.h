// The demo's client: writes numbered notes through whoever leads, one after the other, and looks
// which are there.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "cluster/clock.h"

namespace demo {

/// The first answer that came from a leader.
struct FirstAnswer {
  cluster::Time time{};
  std::string node{};
  std::uint64_t epoch = 0;
  cluster::Duration silence{};  ///< since the answer before, of another leader; 0: there was none
};

struct Written {
  std::uint64_t notes = 0;    ///< that were answered with 201: number 1 up to this
  std::uint64_t refused = 0;  ///< attempts that were not
  /// Answers of an epoch that was older than one that had answered before: two led at once.
  std::uint64_t stale = 0;
};

/// What the service has.
struct Kept {
  std::uint64_t missing = 0;        ///< of the first so many numbers
  std::uint64_t first_missing = 0;  ///< 0: none is
  std::uint64_t twice = 0;          ///< tried again, since nobody had answered the first time
};
/// Reads all notes; nothing when the service does not answer.
std::optional<Kept> read_notes(int port, std::uint64_t up_to);

class Writer {
 public:
  /// Begins at once. `first_answer` is called on the writer's thread.
  Writer(int port, std::function<void(FirstAnswer)> first_answer);

  Written written() const;

 private:
  void run(const std::stop_token& stop);
  void answered(std::string node, std::uint64_t epoch);

  const int port_;
  const std::function<void(FirstAnswer)> first_answer_;
  mutable std::mutex mutex_;
  Written written_;
  std::uint64_t epoch_ = 0;
  cluster::Time last_answer_{};
  std::jthread thread_;
};

}  // namespace demo
