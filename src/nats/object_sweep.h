// Frees what uploads to an object store have left behind whose program died: chunks that no object
// has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nats/jetstream.h"
#include "nats/object_info.h"

namespace cluster::nats {

/// `objects`: all that the bucket had before this call. Of the other chunks' ids, at most 100 a
/// call, those go to which nothing was added for `age`: longer than any upload rests. Ages are by
/// the servers' clocks, never by this machine's. Answers with how many went; not_found when there
/// is no bucket. The JetStream must outlive it.
void sweep_chunks(JetStream& jetstream, const std::string& bucket,
                  const std::vector<ObjectInfo>& objects, Duration age,
                  Callback<std::uint64_t> done);

}  // namespace cluster::nats
