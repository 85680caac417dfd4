#include "core/key_text.h"

#include <algorithm>

namespace cluster {
namespace {

constexpr char kDigits[] = "0123456789ABCDEF";

bool plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '/';
}

int value_of(char digit) {
  const auto* end = kDigits + 16;
  const auto* at = std::find(kDigits, end, digit);
  return at == end ? -1 : static_cast<int>(at - kDigits);
}

std::string escape(std::string_view text, bool complete) {
  std::string key;
  key.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool last = complete && i + 1 == text.size();
    // A key must not begin or end with a dot, nor have two in a row.
    const bool dot = c == '.' && i > 0 && !last && text[i - 1] != '.';
    if (plain(c) || dot) {
      key += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    key += '=';
    key += kDigits[byte >> 4];
    key += kDigits[byte & 15];
  }
  return key;
}

}  // namespace

// RFC 3629: no overlong forms, no surrogates, nothing past U+10FFFF.
bool is_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = byte(i);
    const int more = first < 0x80   ? 0
                     : first < 0xC2 ? -1
                     : first < 0xE0 ? 1
                     : first < 0xF0 ? 2
                     : first < 0xF5 ? 3
                                    : -1;
    if (more < 0) return false;
    for (int n = 1; n <= more; ++n)
      if ((byte(i + static_cast<std::size_t>(n)) & 0xC0u) != 0x80u) return false;
    const unsigned second = byte(i + 1);
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F))
      return false;
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

std::string key_text_fault(std::string_view text) {
  if (text.empty()) return "it is empty";
  if (!is_utf8(text)) return "it is no UTF-8";
  const auto size = escaped_key(text).size();
  if (size > kLongestKey)
    return "it has " + std::to_string(size) + " bytes in the bucket, at most " +
           std::to_string(kLongestKey) + " are allowed";
  return {};
}

std::string escaped_key(std::string_view text) { return escape(text, true); }

std::string keys_filter(std::string_view prefix) {
  // Whether a dot at its end stands for itself depends on what follows.
  while (!prefix.empty() && prefix.back() == '.') prefix.remove_suffix(1);
  const std::string key = escape(prefix, false);
  const auto dot = key.rfind('.');
  return dot == std::string::npos ? ">" : key.substr(0, dot) + ".>";
}

std::string unescaped_key(std::string_view key) {
  std::string text;
  text.reserve(key.size());
  for (std::size_t i = 0; i < key.size(); ++i) {
    const int high = key[i] == '=' && i + 2 < key.size() ? value_of(key[i + 1]) : -1;
    const int low = high >= 0 ? value_of(key[i + 2]) : -1;
    if (low >= 0) {
      text += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      text += key[i];
    }
  }
  return text;
}

}  // namespace cluster
