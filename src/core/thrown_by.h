// What users' code throws, as text for the log and for others.
#pragma once

#include <exception>
#include <optional>
#include <string>

namespace cluster {

/// Why `work()` has failed; nothing when it has returned.
template <typename Work>
std::optional<std::string> thrown_by(const Work& work) {
  try {
    work();
    return std::nullopt;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "not a std::exception";
  }
}

}  // namespace cluster
