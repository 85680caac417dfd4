// How any text becomes a key of a bucket: letters, digits and - _ / . stand for themselves, each
// other byte is `=` and two hexadecimal digits, and so is a dot where a key can't have one
// (docs/kv.md). Pure.
#pragma once

#include <string>
#include <string_view>

namespace cluster {

/// Longest key as it stands in the bucket, in bytes.
inline constexpr std::size_t kLongestKey = 512;

bool is_utf8(std::string_view text);
/// Why `text` can't be a key: empty, no UTF-8, or too long; empty when it can.
std::string key_text_fault(std::string_view text);
/// As it stands in the bucket.
std::string escaped_key(std::string_view text);
/// A pattern of subjects within the bucket that fits every key that begins with `prefix`, and as
/// few others as can be.
std::string keys_filter(std::string_view prefix);
/// Back again. What is no escape of ours, other programs' keys, is left as it is.
std::string unescaped_key(std::string_view key);

}  // namespace cluster
