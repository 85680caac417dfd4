// What a leader's program committed after the last transaction that its node noted, before that
// node was killed: found out when the node looks at the database again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sqlite/handle.h"
#include "sqlite/position_log.h"
#include "sqlite/wal_index.h"

namespace cluster::sqlite {

struct LeftOver {
  Txid transactions = 0;
  bool at_least = false;  ///< there may be more, that were overwritten
};
/// As a log has it: "3", or "at least 3".
std::string to_text(const LeftOver& found);

/// How many transactions the database has gone on by since `noted`, a record of this node's lead;
/// nothing when that can't be shown. It goes on from it
/// - if the WAL still has the record's frame: each frame's checksum is made from all before it, and
///   a run's salts are drawn at random;
/// - if the database file without its WAL is what the record says. `in_file`: its hash, where that
///   is known; else the file is read when it is needed;
/// - if the WAL was begun anew since: SQLite adds 1 to the first salt each time. The run before is
///   still there behind the record's frame when the new one is not as long yet.
/// To be called while a read transaction that sees what `header`, the wal-index's, says keeps the
/// WAL.
std::optional<LeftOver> left_over(const Handle& handle, const WalIndexHeader& header,
                                  const PositionRecord& noted,
                                  std::optional<std::uint64_t> in_file = {});

/// The pages that these transactions wrote, any number of times each; nothing when not all are
/// known.
std::optional<std::vector<PageNumber>> pages_left_over(const Handle& handle,
                                                       const WalIndexHeader& header,
                                                       const PositionRecord& noted,
                                                       std::optional<std::uint64_t> in_file = {});

}  // namespace cluster::sqlite
