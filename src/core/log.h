// The log: one line an event, `key=value` behind the event's name. spdlog stays in log.cpp.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace cluster::log {

enum class Level { trace, debug, info, warn, error, off };

/// One `key=value` of a line. Values with blanks, quotes or control characters are quoted and
/// escaped.
struct Field {
  std::string_view key;
  std::string value;

  Field(std::string_view k, std::string v) : key(k), value(std::move(v)) {}
  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(v) {}
  template <typename T>
    requires std::is_arithmetic_v<T>
  Field(std::string_view k, T v) : key(k), value(std::to_string(v)) {
    if constexpr (std::is_same_v<T, bool>) value = v ? "true" : "false";
  }
};

using Fields = std::initializer_list<Field>;

/// Sets where lines go and which: `file` empty means standard error. Call before other threads log.
void configure(Level level, const std::string& file = {});
/// The level of that name (trace, debug, info, warn, error, off); throws Error{invalid_argument}.
Level level_from(std::string_view name);
bool enabled(Level level) noexcept;

/// From any thread. Never throws: a line that can't be written is lost.
void write(Level level, std::string_view event, std::span<const Field> fields) noexcept;
inline void write(Level level, std::string_view event, Fields fields) noexcept {
  write(level, event, std::span<const Field>(fields.begin(), fields.size()));
}
inline void debug(std::string_view event, Fields fields = {}) noexcept {
  write(Level::debug, event, fields);
}
inline void info(std::string_view event, Fields fields = {}) noexcept {
  write(Level::info, event, fields);
}
inline void warn(std::string_view event, Fields fields = {}) noexcept {
  write(Level::warn, event, fields);
}
inline void error(std::string_view event, Fields fields = {}) noexcept {
  write(Level::error, event, fields);
}

/// What a line looks like behind time and level; for tests and other sinks.
std::string format(std::string_view event, std::span<const Field> fields);
inline std::string format(std::string_view event, Fields fields) {
  return format(event, std::span<const Field>(fields.begin(), fields.size()));
}

}  // namespace cluster::log
