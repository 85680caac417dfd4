#include <lz4.h>

#include "core/check.h"
#include "sqlite/bytes.h"
#include "sqlite/ltx.h"
#include "sqlite/varint.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kFlushAt = 64 * 1024;

std::string bytes_of(const LtxHeader& h) {
  std::string out = "LTX1";
  append_be(out, kLtxNoDatabaseChecksums);
  append_be(out, h.page_size);
  append_be(out, h.commit);
  append_be(out, h.min_txid);
  append_be(out, h.max_txid);
  append_be(out, static_cast<std::uint64_t>(h.timestamp_ms));
  append_be<std::uint64_t>(out, 0);  // checksum of the database before
  append_be(out, static_cast<std::uint64_t>(h.wal_offset));
  append_be(out, static_cast<std::uint64_t>(h.wal_size));
  append_be(out, h.wal_salt1);
  append_be(out, h.wal_salt2);
  append_be(out, h.node_id);
  out.resize(kLtxHeaderSize);
  return out;
}

}  // namespace

LtxEncoder::LtxEncoder(const LtxHeader& header, ByteSink sink, int acceleration)
    : header_(header), sink_(std::move(sink)), acceleration_(acceleration) {
  CLUSTER_CHECK(is_page_size(header.page_size));
  CLUSTER_CHECK(header.min_txid > 0 && header.min_txid <= header.max_txid);
  CLUSTER_CHECK(header.wal_offset > 0 || (header.wal_offset == 0 && header.wal_size == 0 &&
                                          header.wal_salt1 == 0 && header.wal_salt2 == 0));
  compressed_.resize(
      static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(header.page_size))));
  const std::string bytes = bytes_of(header);
  crc_.add(bytes);
  put(bytes);
}

void LtxEncoder::put(std::string_view bytes) {
  out_ += bytes;
  size_ += bytes.size();
  if (out_.size() >= kFlushAt) flush();
}

void LtxEncoder::flush() {
  sink_(out_);
  out_.clear();
}

void LtxEncoder::add(PageNumber number, std::string_view page) {
  CLUSTER_CHECK(page.size() == header_.page_size);
  CLUSTER_CHECK(number > last_ && number <= header_.commit);
  CLUSTER_CHECK(number != lock_page(header_.page_size));
  if (header_.snapshot()) CLUSTER_CHECK(number == page_after(last_, header_.page_size));
  const int length =
      LZ4_compress_fast(page.data(), compressed_.data(), static_cast<int>(page.size()),
                        static_cast<int>(compressed_.size()), acceleration_);
  CLUSTER_CHECK(length > 0);
  char frame[10];
  put_be(frame, number);
  put_be(frame + 4, kLtxSizeFollows);
  put_be(frame + 6, static_cast<std::uint32_t>(length));
  append_varint(index_, number);
  append_varint(index_, size_);
  append_varint(index_, sizeof frame + static_cast<std::uint64_t>(length));
  crc_.add({frame, sizeof frame});
  crc_.add(page);
  put({frame, sizeof frame});
  put({compressed_.data(), static_cast<std::size_t>(length)});
  last_ = number;
  ++pages_;
}

std::uint64_t LtxEncoder::finish() {
  if (header_.snapshot()) CLUSTER_CHECK(page_after(last_, header_.page_size) > header_.commit);
  constexpr std::string_view kEndOfPages{"\0\0\0\0\0\0", 6};
  index_ += '\0';
  append_be<std::uint64_t>(index_, index_.size());
  std::string trailer;
  append_be<std::uint64_t>(trailer, 0);  // checksum of the database afterwards
  crc_.add(kEndOfPages);
  crc_.add(index_);
  crc_.add(trailer);
  const std::uint64_t checksum = crc_.value() | kChecksumFlag;
  append_be(trailer, checksum);
  put(kEndOfPages);
  put(index_);
  put(trailer);
  flush();
  return checksum;
}

}  // namespace cluster::sqlite
