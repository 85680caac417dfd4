// LTX files, version 3: the pages that a range of transactions left behind (docs/formats.md). Pure;
// streams through whatever is given for reading and writing, in memory that does not grow with the
// pages' bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

/// Counts up from 1 in each database and never repeats.
using Txid = std::uint64_t;

struct LtxHeader {
  std::uint32_t page_size = 0;  ///< bytes: a power of two, 512 to 65,536
  PageNumber commit = 0;        ///< pages of the database afterwards
  Txid min_txid = 0;            ///< 1: a snapshot, which has all pages
  Txid max_txid = 0;
  std::int64_t timestamp_ms = 0;  ///< of the last transaction, since 1970
  std::int64_t wal_offset = 0;    ///< bytes: where in the WAL it comes from; 0: from no WAL
  std::int64_t wal_size = 0;
  std::uint32_t wal_salt1 = 0, wal_salt2 = 0;
  std::uint64_t node_id = 0;

  bool snapshot() const noexcept { return min_txid == 1; }
};

constexpr std::size_t kLtxHeaderSize = 100;
constexpr std::size_t kLtxTrailerSize = 16;
constexpr std::uint32_t kLtxNoDatabaseChecksums = 2;  ///< flag of a header
constexpr std::uint16_t kLtxSizeFollows = 1;          ///< flag of a page

using ByteSink = std::function<void(std::string_view)>;
/// Reads up to `most` bytes; 0 only at the end.
using ByteSource = std::function<std::size_t(char* into, std::size_t most)>;

/// Writes one file, without checksums of the database: Litestream refuses a chain of files whose
/// last one has them. What it is given is checked: a page out of order, out of range or of another
/// size is a mistake of the caller's and ends the process.
class LtxEncoder {
 public:
  /// Writes the header. `acceleration`: LZ4's; 1 compresses best, more is faster.
  LtxEncoder(const LtxHeader& header, ByteSink sink, int acceleration = 1);

  /// Ascending page numbers up to header.commit, without the lock page; a snapshot's without a gap.
  void add(PageNumber number, std::string_view page);
  /// After the last page: writes the index and the trailer. Returns the file's checksum.
  std::uint64_t finish();

  std::size_t pages() const noexcept { return pages_; }
  /// Bytes that the file has so far.
  std::uint64_t size() const noexcept { return size_; }

 private:
  void put(std::string_view bytes);
  void flush();

  LtxHeader header_;
  ByteSink sink_;
  int acceleration_;
  Crc64 crc_;
  PageNumber last_ = 0;
  std::size_t pages_ = 0;
  std::uint64_t size_ = 0;
  std::string index_;
  std::string out_;
  std::string compressed_;
};

/// Reads one file and believes nothing: whatever is wrong throws Error{corrupt} that says where
/// (Error{incompatible} for a version or an option that is not known here). The file's checksum is
/// verified; checksums of the database, which files of others may have, are not looked at.
class LtxDecoder {
 public:
  /// Reads the header.
  explicit LtxDecoder(ByteSource source);

  const LtxHeader& header() const noexcept { return header_; }
  /// The next page, in order; false after the last, when all of the file has been verified.
  /// `page` is valid until the next call.
  bool next(PageNumber& number, std::string_view& page);
  /// The file's checksum, once next() has returned false.
  std::uint64_t checksum() const noexcept { return checksum_; }
  std::uint64_t size() const noexcept { return offset_; }  ///< bytes read so far

 private:
  [[noreturn]] void corrupt(const std::string& what) const;
  void read(char* into, std::size_t size);
  void read_header();
  void read_end();
  std::uint64_t read_varint(std::string& index);

  ByteSource source_;
  std::string buffer_;
  std::size_t at_ = 0, end_ = 0;  // in buffer_
  std::uint64_t offset_ = 0;      // in the file
  LtxHeader header_;
  bool database_checksums_ = false;
  std::uint64_t checksum_ = 0;
  Crc64 crc_;
  Crc64 index_;  // of what the index must be
  std::uint64_t index_size_ = 0;
  PageNumber last_ = 0;
  std::string compressed_, page_;
  bool done_ = false;
};

/// A source that reads `bytes`, which must live as long as it.
ByteSource source_of(std::string_view bytes);

/// Hands over the pages that adjacent files, oldest first, leave behind: ascending, each page's
/// newest version, up to the last file's commit. Reads and so verifies all files to their ends.
/// Throws as LtxDecoder does, Error{corrupt} when a snapshot lacks a page, and
/// Error{invalid_argument} for files that are not adjacent or of different page sizes.
void merge_pages(const std::vector<LtxDecoder*>& files,
                 const std::function<void(PageNumber, std::string_view)>& page);

/// The same as one file. Returns its checksum.
std::uint64_t merge_ltx(const std::vector<LtxDecoder*>& files, const ByteSink& sink,
                        int acceleration = 1);

}  // namespace cluster::sqlite
