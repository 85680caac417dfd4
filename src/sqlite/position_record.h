// Where a database stood after a transaction, as the files beside it have it.
#pragma once

#include <cstdint>
#include <string>

#include "sqlite/ltx.h"
#include "sqlite/wal_format.h"

namespace cluster::sqlite {

/// A place in a database's history, by which it is found again: the WAL up to a frame, whose
/// checksum is made from all before it. The hash of the content then confirms it.
struct PositionRecord {
  std::uint64_t epoch = 0;
  Txid txid = 0;
  std::uint64_t sequence = 0;  ///< of its message in the stream; 0: not known yet
  std::uint64_t hash = 0;      ///< of the database then
  std::uint32_t page_size = 0;
  WalPosition end{};      ///< where it ends in the database's WAL; frame 0: not in it
  bool leading = false;   ///< noted while this node led: others wrote to the database
  bool at_least = false;  ///< it may be a later transaction than `txid`
  bool operator==(const PositionRecord&) const = default;
};

constexpr std::size_t kPositionRecordSize = 56;
/// Appends so many bytes. docs/formats.md, "The position file".
void append_record(std::string& bytes, const PositionRecord& record);
/// From so many bytes.
PositionRecord record_from(const char* bytes);

}  // namespace cluster::sqlite
