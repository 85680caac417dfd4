// An app's own keys and values, in the JetStream bucket `<platform>_<app>`, which every node and,
// as a NATS bucket, every other NATS client sees. What it promises: docs/kv.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cluster {

class KvBucket;

/// Of an app's bucket; they count when it is made, with the first write.
struct KvOptions {
  int history = 1;                  ///< values kept of each key: 1 to 64
  std::int64_t max_bytes = 0;       ///< of all values together; 0: no limit. Writes fail beyond
  std::int32_t max_value_size = 0;  ///< bytes; 0: what NATS takes (max_payload, 1 MiB as it comes)
};

struct KvEntry {
  std::string key{};
  std::string value{};
  /// Of this write: grows with every write to the bucket, so it orders them all
  std::uint64_t revision = 0;
  bool removed = false;  ///< the key was removed by this write; in history and watches only
  std::chrono::system_clock::time_point time{};  ///< by the NATS server's clock
  std::chrono::milliseconds ttl{0};              ///< it was written with; 0: it stays
};

struct KvWrite {
  /// The key is removed so long after this write, unless it is written again: by a node that has
  /// the app, soon after its time and not before it. While none runs it stays. 100 ms to 366 days;
  /// 0: it stays
  std::chrono::milliseconds ttl{0};
  std::chrono::milliseconds timeout{5'000};
};

/// Ends its watch when it is destroyed: then no handler runs any more, and one that runs is waited
/// for (not when it is destroyed by that handler).
class KvWatch {
 public:
  KvWatch() noexcept = default;
  KvWatch(KvWatch&&) noexcept;
  KvWatch& operator=(KvWatch&&) noexcept;
  ~KvWatch();

 private:
  friend class Kv;
  friend class KvBucket;
  struct Core;
  explicit KvWatch(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

struct KvWatchOptions {
  /// Given: every write from this revision on that history still has, instead of the newest value
  /// of each key first.
  std::optional<std::uint64_t> from_revision{};
  /// Called once, when what stood there at the beginning has been handed over.
  std::function<void()> caught_up{};
  /// The store has lost writes that it had acknowledged, for which the watch can't stand (a
  /// restored backup, say): read what you need again.
  std::function<void(const std::string& why)> lost{};
};

/// From App::kv(). Keys are UTF-8 texts of up to 512 bytes once escaped (docs/kv.md says how they
/// stand in the bucket); values any bytes. Methods block, at most for `timeout`; from any thread
/// but that of Platform::run(). While NATS is away they try again, as long as that is safe. Throw
/// Error: invalid_argument (a key or a value that can't be; says why), unavailable (NATS or
/// JetStream did not answer in time: nothing was written), unknown_outcome (of a write: it was
/// sent, and whether it was stored is unknown), permission_denied, shutting_down.
class Kv {
 public:
  using Timeout = std::chrono::milliseconds;
  static constexpr Timeout kTimeout{5'000};

  explicit Kv(std::shared_ptr<KvBucket> bucket) : bucket_(std::move(bucket)) {}

  /// The newest value, as all acknowledged writes have left it; nothing for a key that is not
  /// there.
  std::optional<KvEntry> get(std::string_view key, Timeout timeout = kTimeout) const;
  /// Stores a value, whatever was there; its revision.
  std::uint64_t put(std::string_view key, std::string_view value, Timeout timeout = kTimeout);
  std::uint64_t put(std::string_view key, std::string_view value, const KvWrite& options);
  /// Stores a value if the key is not there, else throws Error{wrong_revision}.
  std::uint64_t create(std::string_view key, std::string_view value, Timeout timeout = kTimeout);
  std::uint64_t create(std::string_view key, std::string_view value, const KvWrite& options);
  /// Stores a value if the key's last write has that revision, else throws Error{wrong_revision}.
  std::uint64_t update(std::string_view key, std::string_view value, std::uint64_t revision,
                       Timeout timeout = kTimeout);
  std::uint64_t update(std::string_view key, std::string_view value, std::uint64_t revision,
                       const KvWrite& options);
  /// Removes the key, if it is there; history keeps its values.
  void remove(std::string_view key, Timeout timeout = kTimeout);
  /// The same if the key's last write has that revision, else throws Error{wrong_revision}.
  void remove_revision(std::string_view key, std::uint64_t revision, Timeout timeout = kTimeout);
  /// Removes the key and all its history.
  void purge(std::string_view key, Timeout timeout = kTimeout);

  /// Those that are there and begin with `prefix`, in order. Throws Error{overloaded} for more than
  /// `limit`.
  std::vector<std::string> keys(std::string_view prefix = {}, std::size_t limit = 100'000,
                                Timeout timeout = kTimeout) const;
  std::vector<KvEntry> entries(std::string_view prefix = {}, std::size_t limit = 100'000,
                               Timeout timeout = kTimeout) const;
  /// All that is kept of one key, the oldest first, its removals too.
  std::vector<KvEntry> history(std::string_view key, Timeout timeout = kTimeout) const;

  /// Calls `handler` for each key that begins with `prefix`: first with what is there, then with
  /// each write as it comes, once and in order, also across reconnects. On a thread of its own, one
  /// call at a time; slow handlers hold up nobody else. What it throws is logged. Returns at once.
  [[nodiscard]] KvWatch watch(std::string_view prefix, std::function<void(const KvEntry&)> handler,
                              KvWatchOptions options = {});

 private:
  std::shared_ptr<KvBucket> bucket_;
};

}  // namespace cluster
