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

/// Answers requests on the subject with what they carried, as long as it lives. Throws Failed.
class Echo {
 public:
  Echo(const std::string& url, const std::string& subject);
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
