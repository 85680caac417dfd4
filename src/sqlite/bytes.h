// Integers in files: big-endian, as SQLite's WAL and LTX have them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace cluster::sqlite {

template <typename T>
T big_endian(T value) noexcept {
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "swaps only on little-endian machines");

/// The caller has made sure that sizeof(T) bytes are there.
template <typename T>
T get_be(const char* bytes) noexcept {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return big_endian(value);
}

template <typename T>
void put_be(char* bytes, T value) noexcept {
  value = big_endian(value);
  std::memcpy(bytes, &value, sizeof(T));
}

template <typename T>
void append_be(std::string& out, T value) {
  char bytes[sizeof(T)];
  put_be(bytes, value);
  out.append(bytes, sizeof(T));
}

}  // namespace cluster::sqlite
