// Unsigned integers of 7 bits a byte, the lowest first (LEB128), as LTX's page index has them.
#pragma once

#include <cstdint>
#include <string>

namespace cluster::sqlite {

inline void append_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(0x80 | (value & 0x7f));
    value >>= 7;
  }
  out += static_cast<char>(value);
}

}  // namespace cluster::sqlite
