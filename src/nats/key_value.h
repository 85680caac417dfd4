// A JetStream key-value bucket, on the wire as every NATS client has it (stream KV_<bucket>,
// subjects $KV.<bucket>.<key>).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nats/jetstream.h"

namespace cluster::nats {

struct BucketConfig {
  std::string bucket{};
  std::string description{};
  int history = 1;  ///< 1 to 64
  int replicas = 1;
  std::int64_t max_bytes = -1;
  std::int32_t max_value_size = -1;
};

struct KvEntry {
  enum class Operation { put, remove, purge };
  std::string key{};
  std::string value{};
  std::uint64_t revision = 0;
  Operation operation = Operation::put;
  std::int64_t time_ns = 0;  ///< wall time, since 1970
};

/// Follows keys until destroyed: first the newest entry of each, then each change as it comes, also
/// across reconnects.
class KvWatch {
 public:
  struct Handlers {
    std::function<void(KvEntry)> entry{};
    std::function<void()> caught_up{};  ///< once: the first entries are complete
    /// As OrderedConsumer's
    std::function<void(std::uint64_t delivered, std::uint64_t last)> rewound{};
    std::function<void(const Error&)> trouble{};
  };

 private:
  friend class KeyValue;
  KvWatch(JetStream& jetstream, const std::string& bucket, const std::string& keys,
          Handlers handlers);
  std::unique_ptr<OrderedConsumer> consumer_;
};

/// Calls answer as JetStream's do; `update` and `create` fail with wrong_revision. Keys:
/// `[-/_=.a-zA-Z0-9]+`, not beginning or ending with a dot; others are Error{invalid_argument}.
class KeyValue {
 public:
  KeyValue(JetStream& jetstream, std::string bucket);

  const std::string& bucket() const noexcept { return bucket_; }
  /// Makes the bucket unless it is there (its configuration is then left alone).
  void ensure(const BucketConfig& config, Completion done);
  /// The newest entry, from the stream's leader; not_found for a key that is absent or removed.
  void get(const std::string& key, Callback<KvEntry> done);
  void put(const std::string& key, std::string value, Callback<std::uint64_t> done);
  /// Stores if the key's revision is `revision`; 0: if it was never written.
  void update(const std::string& key, std::string value, std::uint64_t revision,
              Callback<std::uint64_t> done);
  void update(const std::string& key, std::string value, std::uint64_t revision, Duration timeout,
              Callback<std::uint64_t> done);
  void remove(const std::string& key, Callback<std::uint64_t> done);
  /// `keys`: a key, or a subject pattern with * and >.
  [[nodiscard]] std::unique_ptr<KvWatch> watch(const std::string& keys, KvWatch::Handlers handlers);

 private:
  void store(const std::string& key, Message message, Expect expect, Duration timeout,
             Callback<std::uint64_t> done);

  JetStream& jetstream_;
  std::string bucket_;
};

}  // namespace cluster::nats
