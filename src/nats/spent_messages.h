// Frees libnats' messages, many at a time. For link.cpp and send.cpp.
#pragma once

#include <nats/nats.h>

namespace cluster::nats {

/// Frees `message`, now or together with some that follow: libnats has a thread for that, and wakes
/// it for each that comes alone, which costs more than the message did. What waits here is bounded:
/// less than 64 messages, and less than 256 KiB. Null is let be. Any thread.
void let_go(natsMsg* message);

}  // namespace cluster::nats
