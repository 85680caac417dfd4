// Fields of JSON that comes from outside, where each may be missing or of another type; and JSON as
// text whatever it holds.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace cluster {

/// The text of a field; empty: `json` is no object, or has no text there.
std::string text_in(const nlohmann::json& json, const char* key);

/// The number of a field; 0: `json` is no object, or has no whole number from 0 on there.
std::uint64_t number_in(const nlohmann::json& json, const char* key);

/// On one line. Bytes that are no UTF-8 are replaced: it never throws for what a text holds.
std::string text_of(const nlohmann::json& json);

}  // namespace cluster
