// What a page holds, and what a whole database holds, as a number each: two copies with the same
// number hold the same. docs/formats.md, "Hashes".
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

/// XXH3-64 (xxhash.com) of the page's bytes, with the page's number as its seed. Never 0, which
/// stands for a page that is not known.
std::uint64_t page_hash(PageNumber number, std::string_view page) noexcept;

using PageHash = std::pair<PageNumber, std::uint64_t>;

/// The hashes of all pages of a database, and that of the whole: their sum modulo 2^64. 8 bytes a
/// page; so the hash after a transaction costs what the transaction's pages cost.
///
/// The sum does not depend on the order in which pages were written. What the same change does to
/// several pages does not cancel out, since a hash is no linear function of its page, and depends
/// on the page's number.
class PageHashes {
 public:
  explicit PageHashes(std::uint32_t page_size = 4096) : lock_page_(lock_page(page_size)) {}

  /// Grows the database to hold the page. The lock page is left out.
  void set(PageNumber number, std::uint64_t hash);
  void set(PageNumber number, std::string_view page) { set(number, page_hash(number, page)); }
  /// The database now has so many pages. Pages that are new have no hash until they are set.
  void resize(PageNumber pages);
  /// Both at once: what a transaction does.
  void change(PageNumber pages, const std::vector<PageHash>& changed);

  /// 0: never set.
  std::uint64_t at(PageNumber number) const noexcept {
    return number == 0 || number > pages_.size() ? 0 : pages_[number - 1];
  }
  PageNumber size() const noexcept { return static_cast<PageNumber>(pages_.size()); }
  /// Of the whole; never 0, which stands for no database.
  std::uint64_t database() const noexcept { return not_zero(database_); }
  /// What database() will be after change(). `changed`: each page once.
  std::uint64_t database_after(PageNumber pages,
                               const std::vector<PageHash>& changed) const noexcept;

  /// The hash of a database whose pages' hashes add up to `sum`.
  static std::uint64_t not_zero(std::uint64_t sum) noexcept { return sum == 0 ? 1 : sum; }

 private:
  PageNumber lock_page_;
  std::vector<std::uint64_t> pages_;
  std::uint64_t database_ = 0;
};

/// Of a database before and after a file of transactions.
struct Hashes {
  std::uint64_t before = 0;  ///< 0: there was none
  std::uint64_t after = 0;
};

}  // namespace cluster::sqlite
