// Removes a snapshot that somebody wants to be rid of, unless it is needed.
#pragma once

#include <stop_token>
#include <string>

#include "sqlite/snapshot_store.h"

namespace cluster::sqlite {

/// Of the database whose WAL stream is named. Blocks; throws as SnapshotStore and plan_removal()
/// do. Returns what was removed.
StoredFile remove_snapshot(SnapshotStore& store, const std::string& stream, Txid txid, bool force,
                           std::stop_token stop = {});

}  // namespace cluster::sqlite
