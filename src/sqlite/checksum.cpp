#include "sqlite/checksum.h"

#include <isa-l/crc64.h>

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

}  // namespace cluster::sqlite
