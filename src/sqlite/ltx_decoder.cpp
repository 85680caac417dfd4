#include <algorithm>
#include <cstring>

#include <lz4.h>

#include "cluster/error.h"
#include "core/check.h"
#include "sqlite/bytes.h"
#include "sqlite/ltx.h"
#include "sqlite/varint.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kBufferSize = 64 * 1024;
constexpr PageNumber kMostPages = 0xfffffffe;  // SQLite's own limit

}  // namespace

LtxDecoder::LtxDecoder(ByteSource source) : source_(std::move(source)) {
  buffer_.resize(kBufferSize);
  read_header();
}

void LtxDecoder::corrupt(const std::string& what) const {
  throw Error(Errc::corrupt, "LTX file, before byte " + std::to_string(offset_) + ": " + what);
}

void LtxDecoder::read(char* into, std::size_t size) {
  while (size > 0) {
    if (at_ == end_) {
      at_ = 0;
      end_ = source_(buffer_.data(), buffer_.size());
      CLUSTER_CHECK(end_ <= buffer_.size());
      if (end_ == 0) corrupt("it ends too early");
    }
    const std::size_t n = std::min(size, end_ - at_);
    std::memcpy(into, buffer_.data() + at_, n);
    at_ += n;
    into += n;
    size -= n;
    offset_ += n;
  }
}

void LtxDecoder::read_header() {
  char b[kLtxHeaderSize];
  read(b, sizeof b);
  if (std::memcmp(b, "LTX1", 4) != 0) corrupt("it does not begin with LTX1: it is no LTX file");
  const auto flags = get_be<std::uint32_t>(b + 4);
  if ((flags & ~kLtxNoDatabaseChecksums) != 0)
    throw Error(Errc::incompatible, "LTX file with flags " + std::to_string(flags) +
                                        ", which this version does not know: upgrade cpp-cluster");
  auto& h = header_;
  h.page_size = get_be<std::uint32_t>(b + 8);
  h.commit = get_be<std::uint32_t>(b + 12);
  h.min_txid = get_be<std::uint64_t>(b + 16);
  h.max_txid = get_be<std::uint64_t>(b + 24);
  h.timestamp_ms = static_cast<std::int64_t>(get_be<std::uint64_t>(b + 32));
  const auto before = get_be<std::uint64_t>(b + 40);
  h.wal_offset = static_cast<std::int64_t>(get_be<std::uint64_t>(b + 48));
  h.wal_size = static_cast<std::int64_t>(get_be<std::uint64_t>(b + 56));
  h.wal_salt1 = get_be<std::uint32_t>(b + 64);
  h.wal_salt2 = get_be<std::uint32_t>(b + 68);
  h.node_id = get_be<std::uint64_t>(b + 72);
  if (h.commit > kMostPages) corrupt("a database of " + std::to_string(h.commit) + " pages");
  if (!is_page_size(h.page_size)) corrupt("a page size of " + std::to_string(h.page_size));
  if (h.min_txid == 0 || h.min_txid > h.max_txid)
    corrupt("transactions from " + std::to_string(h.min_txid) + " to " +
            std::to_string(h.max_txid));
  if (h.wal_offset < 0 || h.wal_size < 0) corrupt("a negative place in the WAL");
  if (h.wal_offset == 0 && (h.wal_size != 0 || h.wal_salt1 != 0 || h.wal_salt2 != 0))
    corrupt("a size or salts of a WAL, but no place in it");
  database_checksums_ = flags == 0;
  const bool wanted = database_checksums_ && !h.snapshot();
  if (wanted != (before != 0) || (wanted && (before & kChecksumFlag) == 0))
    corrupt("its checksum of the database before is malformed");
  crc_.add({b, sizeof b});
  compressed_.resize(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(h.page_size))));
  page_.resize(h.page_size);
}

bool LtxDecoder::next(PageNumber& number, std::string_view& page) {
  if (done_) return false;
  const std::uint64_t frame_at = offset_;
  char frame[10];
  read(frame, 6);
  const auto n = get_be<std::uint32_t>(frame);
  const auto flags = get_be<std::uint16_t>(frame + 4);
  if (n == 0 && flags == 0) {
    crc_.add({frame, 6});
    read_end();
    done_ = true;
    return false;
  }
  if (n == 0) corrupt("a page without a number");
  if (flags == 0)
    throw Error(Errc::incompatible,
                "LTX file whose pages are LZ4 frames, as Litestream before 0.5.1 wrote them");
  if (flags != kLtxSizeFollows) corrupt("a page with flags " + std::to_string(flags));
  if (n <= last_ || n > header_.commit || n == lock_page(header_.page_size))
    corrupt("page " + std::to_string(n) + " behind page " + std::to_string(last_) + " of " +
            std::to_string(header_.commit));
  if (header_.snapshot() && n != page_after(last_, header_.page_size))
    corrupt("a snapshot without the pages between " + std::to_string(last_) + " and " +
            std::to_string(n));
  read(frame + 6, 4);
  const auto length = get_be<std::uint32_t>(frame + 6);
  if (length == 0 || length > compressed_.size())
    corrupt("page " + std::to_string(n) + " has " + std::to_string(length) + " compressed bytes");
  read(compressed_.data(), length);
  const int got = LZ4_decompress_safe(compressed_.data(), page_.data(), static_cast<int>(length),
                                      static_cast<int>(page_.size()));
  if (got < 0 || static_cast<std::size_t>(got) != page_.size())
    corrupt("page " + std::to_string(n) + " can't be decompressed");
  crc_.add({frame, sizeof frame});
  crc_.add(page_);
  std::string entry;
  append_varint(entry, n);
  append_varint(entry, frame_at);
  append_varint(entry, offset_ - frame_at);
  index_.add(entry);
  index_size_ += entry.size();
  last_ = n;
  number = n;
  page = page_;
  return true;
}

void LtxDecoder::read_end() {
  if (header_.snapshot() && page_after(last_, header_.page_size) <= header_.commit)
    corrupt("a snapshot that ends with page " + std::to_string(last_) + " of " +
            std::to_string(header_.commit));
  // The index says of each page what its frame has said already.
  Crc64 index;
  for (std::uint64_t left = index_size_; left > 0;) {
    char piece[4096];
    const std::size_t n = std::min<std::uint64_t>(left, sizeof piece);
    read(piece, n);
    index.add({piece, n});
    crc_.add({piece, n});
    left -= n;
  }
  if (index.value() != index_.value()) corrupt("its index does not fit its pages");
  char end[9 + kLtxTrailerSize];
  read(end, sizeof end);
  if (end[0] != 0 || get_be<std::uint64_t>(end + 1) != index_size_ + 1)
    corrupt("its index has another length");
  const auto after = get_be<std::uint64_t>(end + 9);
  checksum_ = get_be<std::uint64_t>(end + 17);
  crc_.add({end, 17});
  if (checksum_ != (crc_.value() | kChecksumFlag)) corrupt("its checksum is wrong");
  if (database_checksums_ != (after != 0) || (database_checksums_ && (after & kChecksumFlag) == 0))
    corrupt("its checksum of the database afterwards is malformed");
  if (at_ != end_ || source_(buffer_.data(), 1) != 0) corrupt("more bytes follow its end");
}

ByteSource source_of(std::string_view bytes) {
  return [bytes](char* into, std::size_t most) mutable {
    const std::size_t n = std::min(most, bytes.size());
    std::memcpy(into, bytes.data(), n);
    bytes.remove_prefix(n);
    return n;
  };
}

}  // namespace cluster::sqlite
