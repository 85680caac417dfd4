// Removes keys whose time is up, for NATS servers that can't. A key that is to go carries the
// header Cluster-Ttl; who finds that it is older removes exactly this write of it, so that it does
// no harm when several nodes do. On the loop, but for mark().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/loop.h"
#include "nats/blocking_jetstream.h"
#include "nats/jetstream.h"

namespace cluster {

class KvExpiry {
 public:
  static constexpr char kHeader[] = "Cluster-Ttl";  ///< milliseconds since it was stored

  struct Options {
    std::string stream{};
    /// Among the nodes that may do this; those behind the first wait a little longer.
    std::function<std::size_t()> rank{};
  };
  KvExpiry(nats::JetStream& jetstream, Options options);
  ~KvExpiry();
  KvExpiry(const KvExpiry&) = delete;
  KvExpiry& operator=(const KvExpiry&) = delete;

  /// Writes into the stream's metadata that it has such keys, and asks whether it has.
  static Failure mark(const nats::BlockingJetStream& jetstream, const std::string& stream,
                      Duration limit);
  static void is_marked(nats::JetStream& jetstream, const std::string& stream, Callback<bool> done);

 private:
  struct Due {
    Time time{};
    std::uint64_t revision = 0;
  };

  void begin();
  void seen(const nats::StoredMessage& message);
  void note(const nats::StoredMessage& message);
  void set(const std::string& subject, Due due);
  Time first_due() const;
  Duration patience() const;
  void arm();
  void sweep();
  void remove(const std::string& subject, std::uint64_t revision);

  nats::JetStream& jetstream_;
  const Options options_;
  std::int64_t server_ns_ = 0;  // what the server's clock showed …
  Time at_{};                   // … then
  std::unique_ptr<nats::OrderedConsumer> consumer_;
  std::unordered_map<std::string, Due> dues_;  // by subject
  std::set<std::pair<Time, std::string>> order_;
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster
