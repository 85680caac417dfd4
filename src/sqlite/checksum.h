// Checksums of files, and which pages a database has (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cluster::sqlite {

/// Page numbers begin at 1.
using PageNumber = std::uint32_t;

/// Set in an LTX file's checksum, so that it is not 0.
constexpr std::uint64_t kChecksumFlag = 1ULL << 63;

/// CRC-64/ISO (reflected, polynomial 0x1B), of bytes in pieces. Check value: "123456789" gives
/// 0xb90956c775a41001.
class Crc64 {
 public:
  void add(std::string_view bytes) noexcept;
  std::uint64_t value() const noexcept { return value_; }

 private:
  std::uint64_t value_ = 0;
};

/// A number that stands for a text; never 0.
std::uint64_t number_of(std::string_view text) noexcept;

/// The page that holds SQLite's lock byte at 1 GiB: never written, in no LTX file, in no hash.
constexpr PageNumber lock_page(std::uint32_t page_size) noexcept {
  return 0x40000000U / page_size + 1;
}

/// The page behind `number` (0: the first), without the lock page.
constexpr PageNumber page_after(PageNumber number, std::uint32_t page_size) noexcept {
  return number + 1 == lock_page(page_size) ? number + 2 : number + 1;
}

constexpr bool is_page_size(std::uint64_t size) noexcept {
  return size >= 512 && size <= 65536 && (size & (size - 1)) == 0;
}

}  // namespace cluster::sqlite
