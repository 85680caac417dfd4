// Snapshots that were asked for from outside: each is begun at once and asked about until it is
// there, so that it may take long and show how far it is. On the loop.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "core/result.h"
#include "platform/snapshot_messages.h"
#include "sqlite/replicated_database.h"

namespace cluster {

class SnapshotRequests {
 public:
  /// Begins one (`id` empty), or tells how that one is doing. Errors: what failed; not_leader;
  /// not_found for an id that is not known (any more).
  Result<SnapshotAnswer> ask(const std::string& id, sqlite::ReplicatedDatabase* database);

 private:
  struct Request {
    std::string id{};
    std::optional<Result<sqlite::StoredFile>> result{};
  };
  std::deque<std::shared_ptr<Request>> requests_;  // the newest at the end
};

}  // namespace cluster
