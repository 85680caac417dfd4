#include "sqlite/wal_format.h"

#include <cstring>

#include "cluster/error.h"
#include "core/check.h"
#include "sqlite/bytes.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint32_t kWalMagic = 0x377f0682;  // its last bit: checksums read big-endian words
constexpr std::uint32_t kWalVersion = 3007000;

template <bool swap>
void add_words(WalChecksum& sum, const char* at, const char* end) noexcept {
  std::uint32_t s1 = sum.first, s2 = sum.second;
  for (; at < end; at += 8) {
    std::uint32_t words[2];
    std::memcpy(words, at, sizeof words);
    if constexpr (swap) {
      words[0] = big_endian(words[0]);
      words[1] = big_endian(words[1]);
    }
    s1 += words[0] + s2;
    s2 += words[1] + s1;
  }
  sum = {s1, s2};
}

}  // namespace

void WalChecksum::add(std::string_view bytes, bool big_endian_words) noexcept {
  CLUSTER_CHECK(bytes.size() % 8 == 0);
  const char* end = bytes.data() + bytes.size();
  big_endian_words ? add_words<true>(*this, bytes.data(), end)
                   : add_words<false>(*this, bytes.data(), end);
}

WalHeader wal_header_from(std::string_view bytes) {
  CLUSTER_CHECK(bytes.size() == kWalHeaderSize);
  const char* b = bytes.data();
  const auto magic = get_be<std::uint32_t>(b);
  if ((magic & ~1U) != kWalMagic) throw Error(Errc::corrupt, "WAL: it does not begin as one");
  if (const auto version = get_be<std::uint32_t>(b + 4); version != kWalVersion)
    throw Error(Errc::incompatible, "WAL: format version " + std::to_string(version) +
                                        ", known is " + std::to_string(kWalVersion));
  WalHeader header;
  header.big_endian_words = (magic & 1) != 0;
  header.page_size = get_be<std::uint32_t>(b + 8);
  header.sequence = get_be<std::uint32_t>(b + 12);
  header.salts = {get_be<std::uint32_t>(b + 16), get_be<std::uint32_t>(b + 20)};
  header.checksum.add(bytes.substr(0, 24), header.big_endian_words);
  const WalChecksum written{get_be<std::uint32_t>(b + 24), get_be<std::uint32_t>(b + 28)};
  if (header.checksum != written) throw Error(Errc::corrupt, "WAL: its header's checksum is wrong");
  if (!is_page_size(header.page_size))
    throw Error(Errc::corrupt, "WAL: a page size of " + std::to_string(header.page_size));
  return header;
}

WalChecksum put_wal_header(char* into, const WalHeader& header) {
  put_be(into, kWalMagic | (header.big_endian_words ? 1U : 0U));
  put_be(into + 4, kWalVersion);
  put_be(into + 8, header.page_size);
  put_be(into + 12, header.sequence);
  put_be(into + 16, header.salts.first);
  put_be(into + 20, header.salts.second);
  WalChecksum checksum;
  checksum.add({into, 24}, header.big_endian_words);
  put_be(into + 24, checksum.first);
  put_be(into + 28, checksum.second);
  return checksum;
}

WalFrameHeader wal_frame_header_from(std::string_view bytes) noexcept {
  CLUSTER_CHECK(bytes.size() == kWalFrameHeaderSize);
  const char* b = bytes.data();
  return {get_be<std::uint32_t>(b),
          get_be<std::uint32_t>(b + 4),
          {get_be<std::uint32_t>(b + 8), get_be<std::uint32_t>(b + 12)},
          {get_be<std::uint32_t>(b + 16), get_be<std::uint32_t>(b + 20)}};
}

void put_wal_frame_header(char* into, PageNumber page, PageNumber commit, const WalSalts& salts,
                          std::string_view content, bool big_endian_words, WalChecksum& checksum) {
  put_be(into, page);
  put_be(into + 4, commit);
  put_be(into + 8, salts.first);
  put_be(into + 12, salts.second);
  checksum.add({into, 8}, big_endian_words);
  checksum.add(content, big_endian_words);
  put_be(into + 16, checksum.first);
  put_be(into + 20, checksum.second);
}

bool wal_frame_follows(const WalFrameHeader& frame, std::string_view header, std::string_view page,
                       const WalSalts& salts, bool big_endian_words,
                       WalChecksum& checksum) noexcept {
  if (frame.salts != salts || frame.page == 0) return false;
  WalChecksum next = checksum;
  next.add(header.substr(0, 8), big_endian_words);
  next.add(page, big_endian_words);
  if (next != frame.checksum) return false;
  checksum = next;
  return true;
}

}  // namespace cluster::sqlite
