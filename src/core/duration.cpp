#include "core/duration.h"

#include <array>
#include <charconv>
#include <cstdint>

namespace cluster {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t ms;
};
constexpr std::array<Unit, 4> kUnits{{{"h", 3'600'000}, {"m", 60'000}, {"s", 1'000}, {"ms", 1}}};
constexpr std::int64_t kLongestMs = 10LL * 365 * 24 * 3'600'000;  // ten years

Error fault(std::string_view text, const std::string& why) {
  return Error(Errc::invalid_argument, "\"" + std::string(text) + "\" " + why);
}

}  // namespace

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const std::string form = "is no duration: write one like 700ms, 15s, 2m or 1h";
  if (text.empty()) return fault(text, form);
  std::int64_t total = 0;
  std::int64_t previous_unit = INT64_MAX;
  std::string_view rest = text;
  while (!rest.empty()) {
    std::int64_t number = 0;
    const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    if (failure == std::errc::result_out_of_range) return fault(text, "is too long");
    if (failure != std::errc() || rest[0] == '-') return fault(text, form);
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    const std::string_view name = rest.substr(0, rest.find_first_of("0123456789"));
    if (name.empty()) {
      const std::string n = std::to_string(number);
      return fault(text, "has no unit: write " + n + "ms, " + n + "s, " + n + "m or " + n + "h");
    }
    const Unit* unit = nullptr;
    for (const Unit& u : kUnits)
      if (u.name == name) unit = &u;
    if (unit == nullptr || unit->ms >= previous_unit) return fault(text, form);
    if (number > (kLongestMs - total) / unit->ms) return fault(text, "is longer than ten years");
    total += number * unit->ms;
    previous_unit = unit->ms;
    rest.remove_prefix(name.size());
  }
  return std::chrono::milliseconds(total);
}

std::string format_duration(std::chrono::milliseconds span) {
  const std::int64_t ms = span.count();
  if (ms == 0) return "0s";
  for (const Unit& unit : kUnits)
    if (ms % unit.ms == 0) return std::to_string(ms / unit.ms) + std::string(unit.name);
  return std::to_string(ms) + "ms";
}

}  // namespace cluster
