// Which objects of a snapshot bucket claim what can't be: their stream's records say otherwise.
// They are foreign, and nothing is decided by them. What an object's content is shows only when it
// is read.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "sqlite/snapshot_plan.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/stored_file.h"
#include "sqlite/stream_record.h"

namespace cluster::sqlite {

/// The record of a stream at a place; with epoch 0 for a message that is no record; nothing when
/// it has none there, or none that can be read.
using RecordAt = std::function<std::optional<StreamRecord>(std::uint64_t sequence)>;

/// Looks at the files that say that they are of that stream, and makes foreign what its records
/// contradict: by the record at a file's end, or, where that is gone, by the first that is there.
/// `known`: files that were looked at before, which are not again; those that are right are added.
/// Pure but for `record_at`.
void find_impossible(StoreListing& listing, const StreamRange& stream, const RecordAt& record_at,
                     std::vector<StoredFile>* known = nullptr);

/// What is kept of a database.
struct KeptFiles {
  StoreListing listing{};
  std::optional<StreamRange> stream{};  ///< nothing: it does not exist
};
/// Reads what the bucket has, and what the stream says of it. Blocks; throws as SnapshotStore does.
KeptFiles kept_files(SnapshotStore& store, const std::string& stream, std::stop_token stop = {},
                     std::vector<StoredFile>* known = nullptr);
/// The files alone, for a range of the stream that is known already.
Files files_kept(SnapshotStore& store, const StreamRange& stream, std::stop_token stop = {});

}  // namespace cluster::sqlite
