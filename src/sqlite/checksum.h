// Checksums of pages and databases as LTX files have them (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace cluster::sqlite {

/// Page numbers begin at 1.
using PageNumber = std::uint32_t;

/// Set in each checksum of an LTX file, so that none is 0.
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

/// CRC-64/ISO of the page's number (big-endian) and its bytes, with the flag.
std::uint64_t page_checksum(PageNumber number, std::string_view page) noexcept;

/// The page that holds SQLite's lock byte at 1 GiB: never written, in no LTX file, in no checksum.
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

/// The checksums of all pages of a database, and of the whole: XOR over the pages, with the flag.
/// 8 bytes a page; so the checksum after a transaction costs what the transaction's pages cost.
class PageChecksums {
 public:
  explicit PageChecksums(std::uint32_t page_size = 4096) : lock_page_(lock_page(page_size)) {}

  /// Grows the database to hold the page. The lock page is left out.
  void set(PageNumber number, std::uint64_t checksum);
  void set(PageNumber number, std::string_view page) { set(number, page_checksum(number, page)); }
  /// The database now has so many pages. Pages that are new have no checksum until they are set.
  void resize(PageNumber pages);
  /// 0: never set.
  std::uint64_t at(PageNumber number) const noexcept {
    return number == 0 || number > pages_.size() ? 0 : pages_[number - 1];
  }
  PageNumber size() const noexcept { return static_cast<PageNumber>(pages_.size()); }
  std::uint64_t database() const noexcept { return database_ | kChecksumFlag; }

 private:
  PageNumber lock_page_;
  std::vector<std::uint64_t> pages_;
  std::uint64_t database_ = 0;
};

}  // namespace cluster::sqlite
