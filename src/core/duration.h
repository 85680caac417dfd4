// Time spans as people write them: 700ms, 15s, 2m, 1h, 1m30s. Pure.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "core/result.h"

namespace cluster {

/// Whole numbers, each with its unit (ms, s, m, h), largest first. A bare number is refused, since
/// nobody can tell what it counts. Error{invalid_argument} says what is wrong with `text`.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

/// The same the other way, exact: 700ms, 15s, 90s, 2m, 1h.
std::string format_duration(std::chrono::milliseconds span);

}  // namespace cluster
