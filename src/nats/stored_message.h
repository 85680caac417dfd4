// How JetStream hands out stored messages: as JSON with base64, or to a consumer with their place
// in the reply subject. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/result.h"
#include "nats/jetstream.h"

namespace cluster::nats {

/// Where a message delivered to a consumer stands, from its reply subject ($JS.ACK.…, both forms).
struct DeliveryPlace {
  std::uint64_t stream_sequence = 0;
  std::uint64_t consumer_sequence = 0;
  std::int64_t time_ns = 0;
  std::uint64_t pending = 0;
  std::uint64_t deliveries = 0;  ///< to any member of the consumer, this one included
};
std::optional<DeliveryPlace> delivery_place_from(std::string_view reply);

/// The answer's `message` object of STREAM.MSG.GET, as JSON text.
Result<StoredMessage> stored_message_from(const std::string& json);

/// Nanoseconds since 1970 of an RFC 3339 time in UTC; nothing for what is none.
std::optional<std::int64_t> time_ns_from(std::string_view rfc3339);
/// RFC 3339 in UTC, with as many digits of the fraction as it needs.
std::string rfc3339_from(std::int64_t time_ns);

std::optional<std::string> from_base64(std::string_view text);

}  // namespace cluster::nats
