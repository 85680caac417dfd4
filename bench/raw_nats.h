// What NATS itself takes, by libnats alone: the reference beside our figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/report.h"

namespace bench {

constexpr std::size_t kMessageBytes = 128;

struct RawNats {
  Distribution request{};      ///< request and reply of 128 B, the responder on another connection
  Distribution kv_update{};    ///< compare-and-set of 128 B in a key-value bucket
  Distribution publish_ack{};  ///< 128 B into a stream, until JetStream has acknowledged
};

/// The operations that ours are measured beside, each as libnats has it, on one connection and from
/// any thread. All throw Failed.
class RawClient {
 public:
  explicit RawClient(const std::string& url);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  /// To an Echo.
  void request(const std::string& subject, const std::string& data);
  /// Of a bucket of its own, of one replica and with one value of history.
  std::uint64_t put(const std::string& key, const std::string& data);
  std::uint64_t update(const std::string& key, const std::string& data, std::uint64_t revision);
  void get(const std::string& key);
  /// Into a stream of its own, until it is acknowledged; `id` for its window of duplicates.
  void publish(const std::string& data, const std::string& id);

 private:
  struct Core;
  Core* core_;
};

/// Answers requests on the subject with what they carried, as long as it lives: on the thread that
/// libnats delivers them on, which must never block, or on `workers` threads of its own, as whoever
/// has to wait for something does. Throws Failed.
class Echo {
 public:
  Echo(const std::string& url, const std::string& subject, int workers = 0);
  ~Echo();
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

 private:
  struct Core;
  Core* core_;
};

/// `count` of each, one after the other. Leaves nothing on the server. Throws Failed.
RawNats measure_raw_nats(const std::string& url, int replicas, int count);

/// Messages of so many bytes into a stream, one after the other, until each is acknowledged.
Distribution raw_publish_ack(const std::string& url, int count, std::size_t bytes);

/// Messages of these sizes into a stream without waiting between them, `depth` under way, until the
/// last is acknowledged.
cluster::Duration raw_publish_async(const std::string& url, const std::vector<std::size_t>& sizes,
                                    std::int64_t depth);

}  // namespace bench
