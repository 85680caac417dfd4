// What a database holds, found out without reading all of it: the hash file says what the database
// file holds, its state shows that nobody has written to it since, and what the WAL has goes on
// top.
#pragma once

#include <cstdint>
#include <optional>

#include "sqlite/handle.h"
#include "sqlite/hash_file.h"
#include "sqlite/page_hash.h"
#include "sqlite/position_log.h"
#include "sqlite/wal_index.h"

namespace cluster::sqlite {

struct KnownContent {
  PageHashes pages{};
  WalPosition end{};  ///< where the WAL ends
  /// The newest record of those whose place is in the WAL, and whose content was found there.
  std::optional<PositionRecord> noted{};
  /// Nobody has written to the database file since the node noted what it holds. False: somebody
  /// has. Probably SQLite has moved into it what is in the WAL; only reading all of it can show
  /// that.
  bool proven = false;
};

/// Of the database that `handle` has open, with the WAL that `header` says. Nothing where it can't
/// be told: there is no mark, or what was noted in `log` of the newest place in the WAL is not what
/// comes out there; or somebody has written to the file since, and no such place is in the WAL. To
/// be called while a read transaction keeps the WAL from being begun anew; `hashes` then knows what
/// has changed since its mark. Throws Error{corrupt} when a frame of the WAL is damaged,
/// Error{system}.
std::optional<KnownContent> known_content(const Handle& handle, const WalIndexHeader& header,
                                          HashFile& hashes, const PositionLog& log);

}  // namespace cluster::sqlite
