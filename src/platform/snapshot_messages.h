// What a node is asked for a snapshot of an app's database, and what it answers; and how one asks
// until the snapshot is there. For nodes and commands alike.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "cluster/snapshots.h"
#include "core/result.h"
#include "sqlite/stored_file.h"

namespace cluster {

/// A node's answer: the snapshot, or how far it is.
struct SnapshotAnswer {
  std::string id{};  ///< of the request, to ask again
  std::optional<DatabaseSnapshot> snapshot{};
  std::uint64_t pages = 0, of = 0;
};

DatabaseSnapshot snapshot_from(const sqlite::StoredFile& file);
nlohmann::json json_of(const DatabaseSnapshot& snapshot);

std::string answer_text(const std::string& app, const SnapshotAnswer& answer);
/// Error{incompatible} for what is no answer.
Result<SnapshotAnswer> answer_from(const std::string& text);

/// Begins a snapshot, and asks until it is there. `ask` sends a request to the leader and returns
/// its answer; `pause` waits for that long, and knows when to give up: what they throw comes out.
DatabaseSnapshot take_snapshot(
    const std::string& app, const std::function<std::string(const std::string& request)>& ask,
    const std::function<void(const SnapshotAnswer& so_far, std::chrono::milliseconds time)>& pause);

}  // namespace cluster
