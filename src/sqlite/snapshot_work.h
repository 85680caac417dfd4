// Writes the files of a snapshot bucket: from an image of the database, from the WAL stream, from
// files that are there. Blocks; throws Error as the store does, shutting_down when `stop` is
// requested. What was begun and not finished is not seen by anybody.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "sqlite/database_image.h"
#include "sqlite/record_time.h"
#include "sqlite/snapshot_plan.h"
#include "sqlite/snapshot_store.h"

namespace cluster::sqlite {

/// Where the image's transaction ends in the stream, and when that was stored. The stream is read
/// again, for it goes on. `files`: of its history. Error{not_found} when somebody has deleted it;
/// unavailable when it does not have that transaction, nor anything behind it.
StoredAt place_of(SnapshotStore& store, const StreamRange& stream, const Files& files,
                  const DatabaseImage& image, std::stop_token stop);

/// What a file is said to be of.
struct FileOrigin {
  std::uint64_t history = 0;
  StoredAt at{};
  std::int64_t led_ms = 0;  ///< as StoredFile's
};
/// A snapshot of the image. Error{corrupt} when a page of the image is not what the image says.
/// `progress`: pages done, pages in all.
StoredFile store_snapshot(SnapshotStore& store, const DatabaseImage& image,
                          const FileOrigin& origin,
                          const std::function<void(PageNumber, PageNumber)>& progress,
                          std::stop_token stop);

/// One file of level 1, of what the stream has behind `start`: up to its end, or about
/// options.merge_bytes. Nothing when it has no transactions there. Error{corrupt} when the stream
/// does not go on from `start`. `led_ms`: now. `folder`: for files without names.
std::optional<StoredFile> store_range(SnapshotStore& store, const StreamRange& stream,
                                      const StoredFile& start, std::int64_t led_ms,
                                      const SnapshotOptions& options, const std::string& folder,
                                      std::stop_token stop);

/// The merged file. `at`: while a source is read, that source, for who catches what this throws.
StoredFile store_merge(SnapshotStore& store, const PlannedMerge& merge, const std::string& folder,
                       std::stop_token stop, StoredFile& at);

}  // namespace cluster::sqlite
