// What names of buckets, key-value and object store alike, may be made of.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

#include "cluster/error.h"

namespace cluster::nats {

/// Not empty, and nothing but ASCII letters, digits and characters of `more`.
inline bool consists_of_alphanumerics_and(std::string_view more, std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || more.find(c) != std::string_view::npos;
  });
}

/// Throws Error{invalid_argument}.
inline void check_bucket_name(const std::string& name) {
  if (!consists_of_alphanumerics_and("-_", name))
    throw Error(Errc::invalid_argument,
                "\"" + name + "\" can't be a bucket's name: letters, digits, - and _ are allowed");
}

}  // namespace cluster::nats
