// How any text becomes a key of a bucket: letters, digits and - _ / . stand for themselves, each
// other byte is `=` and two hexadecimal digits, and so is a dot where a key can't have one
// (docs/kv.md). Pure.
#pragma once

#include <string>
#include <string_view>

namespace cluster {

/// Longest key as it stands in the bucket, in bytes.
inline constexpr std::size_t kLongestKey = 512;

/// Why `text` can't be a key: empty, no UTF-8, or too long; empty when it can.
std::string key_text_fault(std::string_view text);
/// As it stands in the bucket.
std::string escaped_key(std::string_view text);
/// Of a text that more is to follow: every key that begins with `text` begins with this.
std::string escaped_prefix(std::string_view text);
/// Back again. What is no escape of ours, other programs' keys, is left as it is.
std::string unescaped_key(std::string_view key);

}  // namespace cluster
