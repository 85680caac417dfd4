// SQLite's wal-index: the memory that all connections of a database in WAL mode share. It says how
// much of the WAL counts (sqlite.org/walformat.html). Read through SQLite's own handle of it, so
// that no lock of SQLite's is disturbed.
#pragma once

#include <cstdint>
#include <optional>

#include "sqlite/handle.h"
#include "sqlite/wal_format.h"

namespace cluster::sqlite {

/// As it stands in the shared memory, in the machine's byte order; the salts as the WAL has them.
struct WalIndexHeader {
  std::uint32_t version = 0;
  std::uint32_t unused = 0;
  std::uint32_t change = 0;  ///< counts transactions
  std::uint8_t initialised = 0;
  std::uint8_t big_endian_words = 0;
  std::uint16_t page_size_code = 0;
  std::uint32_t max_frame = 0;  ///< frames of the WAL that count; 0: none
  std::uint32_t pages = 0;      ///< of the database
  std::uint32_t frame_checksum[2] = {};
  std::uint32_t salt_bytes[2] = {};
  std::uint32_t checksum[2] = {};

  bool operator==(const WalIndexHeader&) const = default;
  std::uint32_t page_size() const noexcept {
    return (page_size_code & 0xfe00U) + ((page_size_code & 0x0001U) << 16);
  }
  void set_page_size(std::uint32_t size) noexcept {
    page_size_code = static_cast<std::uint16_t>((size & 0xff00U) | (size >> 16));
  }
  WalSalts salts() const noexcept;
  WalChecksum last_checksum() const noexcept { return {frame_checksum[0], frame_checksum[1]}; }
  /// What `checksum` must be.
  WalChecksum own_checksum() const noexcept;
};
static_assert(sizeof(WalIndexHeader) == 48);

/// Where the WAL ends.
inline WalPosition end_of(const WalIndexHeader& header) noexcept {
  return {header.salts(), header.max_frame, header.last_checksum()};
}

constexpr std::uint32_t kWalIndexVersion = 3007000;

/// A segment of the wal-index; with `make`, also one that is not there yet. `handle` must have read
/// something in WAL mode; the memory stays for as long as it is open.
volatile std::uint32_t* map_wal_index(const Handle& handle, std::uint32_t segment, bool make);

class WalIndex {
 public:
  WalIndex() = default;
  /// `handle` must have read something in WAL mode, and stay open for as long as this is used.
  explicit WalIndex(const Handle& handle);

  explicit operator bool() const noexcept { return memory_ != nullptr; }
  /// Nothing while a writer is just changing it, or died at that: ask again.
  std::optional<WalIndexHeader> header() const noexcept;
  /// Frames that are in the database file already.
  std::uint32_t backfilled() const noexcept;
  /// Frames that a checkpoint is to move, or has moved. Older versions of SQLite leave it 0.
  std::uint32_t backfill_attempted() const noexcept;

 private:
  const volatile std::uint32_t* memory_ = nullptr;
};

}  // namespace cluster::sqlite
