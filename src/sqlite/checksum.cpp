#include "sqlite/checksum.h"

#include <isa-l/crc64.h>

#include "core/check.h"
#include "sqlite/bytes.h"

namespace cluster::sqlite {

void Crc64::add(std::string_view bytes) noexcept {
  value_ =
      crc64_iso_refl(value_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

std::uint64_t number_of(std::string_view text) noexcept {
  Crc64 crc;
  crc.add(text);
  return crc.value() | 1;
}

std::uint64_t page_checksum(PageNumber number, std::string_view page) noexcept {
  char prefix[4];
  put_be(prefix, number);
  Crc64 crc;
  crc.add({prefix, sizeof prefix});
  crc.add(page);
  return crc.value() | kChecksumFlag;
}

void PageChecksums::set(PageNumber number, std::uint64_t checksum) {
  CLUSTER_CHECK(number > 0);
  if (number == lock_page_) return;
  if (number > pages_.size()) resize(number);
  database_ ^= pages_[number - 1] ^ checksum;
  pages_[number - 1] = checksum;
}

void PageChecksums::resize(PageNumber pages) {
  for (std::size_t i = pages; i < pages_.size(); ++i) database_ ^= pages_[i];
  pages_.resize(pages);
}

}  // namespace cluster::sqlite
