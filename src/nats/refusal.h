// What a server says that this user may not do. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cluster::nats {

struct Refusal {
  std::string subject{};
  bool cut = false;  ///< the subject is longer than that: the client library keeps 255 bytes

  bool names(std::string_view other) const {
    return cut ? other.starts_with(subject) : other == subject;
  }
};

/// From `Permissions Violation for Publish to "a.b"` and its like; none: it says something else.
std::optional<Refusal> refusal_from(const std::string& text);

}  // namespace cluster::nats
