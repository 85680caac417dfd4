// How a message goes out through libnats. For connection.cpp and exchange.cpp.
#pragma once

#include <cstdint>
#include <string>

#include <nats/nats.h>

#include "nats/message.h"

namespace cluster::nats {

/// It may be a subject: not empty, no white space, no control characters.
bool subject_fits(const std::string& subject);
/// Why the message can't be sent at all; empty when it can. `max_payload` 0: not known.
std::string message_fault(const Message& message, std::int64_t max_payload);
natsStatus send(natsConnection* nc, const Message& message);
/// A number as the last token of a subject under which its answer comes, and back.
std::string token_of(std::uint64_t id);
std::uint64_t id_from_subject(const std::string& subject);

}  // namespace cluster::nats
