// Keeps the snapshots of a database while this node leads it: takes them, merges the stream into
// files that are quicker to replay, drops what is old, and trims the stream. On the loop; the work
// is done on a strand. Whatever fails here is tried again and does not touch replication. It stores
// only transactions that JetStream has, so an old leader's last file harms nobody.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/journal.h"
#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"
#include "sqlite/database_image.h"
#include "sqlite/plan_clocks.h"
#include "sqlite/snapshot_plan.h"
#include "sqlite/snapshot_store.h"

namespace cluster::sqlite {

class SnapshotKeeper {
 public:
  struct Options {
    std::string app{}, node{};  ///< for the log
    std::string stream{};
    std::string folder{};  ///< for files without names
    int replicas = 1;      ///< of the bucket
    SnapshotOptions plan{};
    AuditSink audit{};
  };
  struct Status {
    std::optional<StoredFile> newest{};       ///< the newest snapshot
    std::chrono::milliseconds took{0};        ///< of the newest that this node has taken
    std::uint64_t snapshots = 0, merged = 0;  ///< files in the bucket
    std::uint64_t bytes = 0;                  ///< of them
    Txid reach = 0;                           ///< what can be restored without the stream
    std::uint64_t stream_first = 0;           ///< where that begins, a sequence
    /// By JetStream's time, how old the newest one is; 0: nothing was stored since.
    std::chrono::nanoseconds age{0};
    std::uint64_t taken = 0, failures = 0;  ///< since this object was made
    bool busy = false;                      ///< a snapshot is being taken:
    PageNumber done = 0, all = 0;           ///< pages of it
    std::uint64_t foreign = 0;              ///< objects that are not ours, or can't be
    std::string trouble{};                  ///< what failed last, until it is mended
  };

  /// `store` must outlive it. `take` and `stored` (the last transaction that JetStream has) are
  /// called on the loop while this object lives.
  SnapshotKeeper(Loop& loop, StrandPool& strands, SnapshotStore& store, Options options,
                 TakeImage take, std::function<Txid()> stored);
  /// Ends what is under way, and waits for that.
  ~SnapshotKeeper();
  SnapshotKeeper(const SnapshotKeeper&) = delete;
  SnapshotKeeper& operator=(const SnapshotKeeper&) = delete;

  /// Takes a snapshot now, of what is stored when it begins or later. When nothing has changed
  /// since the newest one, that is the answer. Errors: what failed; unavailable when too many wait;
  /// not_leader when this object goes before.
  void create(Callback<StoredFile> done);
  Status status() const;

 private:
  struct Work;  // of the strand
  struct Made {
    StoredFile file{};
    PageNumber pages = 0;
    std::chrono::milliseconds took{0};
    std::string why{};
  };
  struct Removed {
    std::uint64_t files = 0, snapshots = 0, bytes = 0;
    Txid last = 0;  // the newest transaction of one of them
  };
  struct Outcome {
    Failure failure{};
    std::optional<StoredFile> taken{};
    std::optional<Made> made{};  // a snapshot that is new
    Removed removed{};
    std::vector<ForeignObject> foreign{};  // that were not there before
  };

  void plan_next(Duration delay);
  void look();
  void begin();
  void done(const Outcome& outcome);

  Loop& loop_;
  const Options options_;
  const Journal journal_;
  const TakeImage take_;
  const std::function<Txid()> stored_;
  std::shared_ptr<Work> work_;
  std::unique_ptr<Strand> strand_;
  std::stop_source stop_;
  std::deque<Callback<StoredFile>> wanted_;   // for the next turn
  std::deque<Callback<StoredFile>> waiting_;  // for that under way
  bool working_ = false;
  Txid seen_ = 0;  // what was stored when the last turn began
  Time idle_until_{};
  Duration retry_{};
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
