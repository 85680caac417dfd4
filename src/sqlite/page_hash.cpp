#include "sqlite/page_hash.h"

// All of it is in its header: nothing is linked.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/check.h"

namespace cluster::sqlite {

std::uint64_t page_hash(PageNumber number, std::string_view page) noexcept {
  const std::uint64_t hash = XXH3_64bits_withSeed(page.data(), page.size(), number);
  return hash == 0 ? 1 : hash;
}

void PageHashes::set(PageNumber number, std::uint64_t hash) {
  CLUSTER_CHECK(number > 0);
  if (number == lock_page_) return;
  if (number > pages_.size()) resize(number);
  database_ += hash - pages_[number - 1];
  pages_[number - 1] = hash;
}

void PageHashes::resize(PageNumber pages) {
  for (std::size_t i = pages; i < pages_.size(); ++i) database_ -= pages_[i];
  pages_.resize(pages);
}

void PageHashes::change(PageNumber pages, const std::vector<PageHash>& changed) {
  resize(pages);
  for (const auto& [number, hash] : changed)
    if (number <= pages) set(number, hash);
}

std::uint64_t PageHashes::database_after(PageNumber pages,
                                         const std::vector<PageHash>& changed) const noexcept {
  std::uint64_t sum = database_;
  for (std::size_t i = pages; i < pages_.size(); ++i) sum -= pages_[i];
  for (const auto& [number, hash] : changed)
    if (number <= pages && number != lock_page_) sum += hash - at(number);
  return not_zero(sum);
}

}  // namespace cluster::sqlite
