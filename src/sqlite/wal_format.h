// The format of SQLite's write-ahead log (sqlite.org/fileformat2.html, "The Write-Ahead Log"):
// header, frames, their cumulative checksum. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

constexpr std::size_t kWalHeaderSize = 32;
constexpr std::size_t kWalFrameHeaderSize = 24;

/// What tells one run of a WAL from the next: SQLite adds 1 to the first and draws the second anew
/// each time it begins the file again.
struct WalSalts {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  bool operator==(const WalSalts&) const = default;
};

/// The cumulative checksum of a WAL, in the byte order that its header names.
struct WalChecksum {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  bool operator==(const WalChecksum&) const = default;

  /// `bytes`: a multiple of 8.
  void add(std::string_view bytes, bool big_endian_words) noexcept;
};

/// A place in a WAL, behind a frame.
struct WalPosition {
  WalSalts salts{};
  std::uint32_t frame = 0;  ///< 0: before the first
  WalChecksum checksum{};   ///< of the WAL up to there
  bool operator==(const WalPosition&) const = default;
  /// The same place; the checksum before the first frame is known only once there is one.
  bool same(const WalPosition& other) const noexcept {
    return salts == other.salts && frame == other.frame;
  }
};

struct WalHeader {
  bool big_endian_words = false;  ///< how checksums read their input
  std::uint32_t page_size = 0;
  std::uint32_t sequence = 0;  ///< of checkpoints
  WalSalts salts{};
  WalChecksum checksum{};  ///< the frames' goes on from it
};

/// Throws Error{corrupt} when `bytes` (kWalHeaderSize of them) are no header, Error{incompatible}
/// for another version of the format.
WalHeader wal_header_from(std::string_view bytes);
/// Writes kWalHeaderSize bytes, with the checksum of the rest, which it also returns.
WalChecksum put_wal_header(char* into, const WalHeader& header);

struct WalFrameHeader {
  PageNumber page = 0;
  PageNumber commit = 0;  ///< the last frame of a transaction: pages of the database; else 0
  WalSalts salts{};
  WalChecksum checksum{};
};

WalFrameHeader wal_frame_header_from(std::string_view bytes) noexcept;
/// Writes the header of a frame (kWalFrameHeaderSize bytes) that follows `checksum`, which goes on
/// to be that of the WAL up to this frame.
void put_wal_frame_header(char* into, PageNumber page, PageNumber commit, const WalSalts& salts,
                          std::string_view content, bool big_endian_words, WalChecksum& checksum);

/// Is this frame the next one behind `checksum`? Then `checksum` goes on to it.
bool wal_frame_follows(const WalFrameHeader& frame, std::string_view header, std::string_view page,
                       const WalSalts& salts, bool big_endian_words,
                       WalChecksum& checksum) noexcept;

/// Where frame `number` (the first is 1) begins in the file.
constexpr std::int64_t wal_frame_offset(std::uint32_t number, std::uint32_t page_size) noexcept {
  return static_cast<std::int64_t>(kWalHeaderSize) +
         (static_cast<std::int64_t>(number) - 1) *
             static_cast<std::int64_t>(kWalFrameHeaderSize + page_size);
}

/// Bytes of a WAL that has so many frames; 0 when it has none.
constexpr std::uint64_t wal_length(std::uint32_t frames, std::uint32_t page_size) noexcept {
  return frames == 0 ? 0
                     : kWalHeaderSize + std::uint64_t{frames} * (kWalFrameHeaderSize + page_size);
}

}  // namespace cluster::sqlite
