// An app's bucket for threads that block: writes and reads go over an Exchange, lists and watches
// over consumers on the loop. May outlive its platform, and then answers that it has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/kv.h"
#include "core/loop_gate.h"
#include "core/strand.h"
#include "data/kv_expiry.h"
#include "nats/blocking_jetstream.h"

namespace cluster {

class KvBucket : public std::enable_shared_from_this<KvBucket> {
 public:
  using Milliseconds = std::chrono::milliseconds;
  struct Options {
    std::string bucket{};
    KvOptions kv{};
    /// Where it is said that the bucket now has keys that are to go.
    std::string expiry_subject{};
    /// Of this node, among those that remove such keys, on the loop; empty: it does not.
    std::function<std::size_t()> rank{};
  };

  KvBucket(Loop& loop, StrandPool& strands, std::shared_ptr<nats::Exchange> exchange,
           Options options);
  ~KvBucket();

  // Of the loop.

  /// NATS can be used; replicas of the bucket where this node makes it.
  void open(nats::JetStream& jetstream, int replicas);
  /// It can't any more.
  void close();

  // Of any other thread: what Kv promises.

  /// Throws invalid_argument for what can't be a key.
  void check_key(std::string_view key) const { checked(key); }
  std::optional<KvEntry> get(std::string_view key, Milliseconds timeout);
  std::uint64_t write(std::string_view key, nats::Message message, const nats::Expect& expect,
                      Milliseconds timeout);
  std::uint64_t create(std::string_view key, std::string_view value, const KvWrite& options);
  /// As it is stored. Sees to it that it goes when its time is up.
  nats::Message value(std::string_view value, const KvWrite& options);

  struct Wanted {
    std::string prefix{};              ///< of keys as users write them
    std::optional<std::string> key{};  ///< this one, instead
    bool all = false;                  ///< what history has, not the newest only
    bool values = true;
    std::size_t limit = 0;
  };
  std::vector<KvEntry> list(const Wanted& wanted, Milliseconds timeout);

  std::shared_ptr<KvWatch::Core> watch(std::string_view prefix,
                                       std::function<void(const KvEntry&)> handler,
                                       KvWatchOptions options);

 private:
  friend struct KvWatch::Core;

  enum class Reads { unknown, of_leader, direct };

  std::string checked(std::string_view key) const;
  std::string subject(const std::string& key) const { return "$KV." + options_.bucket + "." + key; }
  std::string stream() const { return "KV_" + options_.bucket; }
  /// What the stored message says, if it is for users to see.
  KvEntry entry_from(const nats::StoredMessage& message) const;
  /// Looks whether there are keys that are to go, and from then on removes them. On the loop.
  void look_for_expiry();
  std::optional<nats::StoredMessage> last(const std::string& key, Time deadline);
  void make(Time deadline);
  bool know_reads(Time deadline);
  struct Listing;
  void begin_list(std::uint64_t id, const Wanted& wanted, const std::shared_ptr<Listing>& listing);
  /// Waits a little before the next try, or throws the error that has come when there is no time
  /// left.
  void pause_or_throw(const Error& error, Time deadline) const;

  const std::shared_ptr<LoopGate> gate_;
  StrandPool& strands_;  // of the loop: it goes with the platform
  const nats::BlockingJetStream jetstream_;
  const Options options_;
  std::atomic<bool> made_{false}, marked_{false};
  std::atomic<Reads> reads_{Reads::unknown};
  std::atomic<int> replicas_{0};  // 0: not known yet
  std::atomic<std::uint64_t> last_list_{0};

  // Of the loop:
  nats::JetStream* on_loop_ = nullptr;
  std::map<std::uint64_t, std::unique_ptr<nats::OrderedConsumer>> lists_;  // under way
  std::map<std::uint64_t, std::function<void()>> early_lists_;             // until NATS can be used
  std::map<KvWatch::Core*, std::shared_ptr<KvWatch::Core>> watches_;
  std::unique_ptr<KvExpiry> expiry_;
  LoopSource expiry_retry_;
  nats::Subscription expiry_news_;
  std::shared_ptr<const bool> watches_connection_;
};

}  // namespace cluster
