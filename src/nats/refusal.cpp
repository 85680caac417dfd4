#include "nats/refusal.h"

namespace cluster::nats {

std::optional<Refusal> refusal_from(const std::string& text) {
  // Servers and clients differ in how they begin it.
  if (text.find("ermissions Violation") == std::string::npos) return std::nullopt;
  const auto begin = text.find('"');
  if (begin == std::string::npos) return Refusal{};
  const auto end = text.find('"', begin + 1);
  if (end == std::string::npos) return Refusal{text.substr(begin + 1), true};
  return Refusal{text.substr(begin + 1, end - begin - 1)};
}

}  // namespace cluster::nats
