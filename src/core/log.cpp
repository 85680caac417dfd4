#include "core/log.h"

#include <cstdio>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "cluster/error.h"

namespace cluster::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::trace: return spdlog::level::trace;
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warn: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
    case Level::off: return spdlog::level::off;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger>& logger() {
  static auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("cluster",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    made->set_level(spdlog::level::info);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return instance;
}

void append_value(std::string& out, std::string_view value) {
  bool plain = !value.empty();
  for (char c : value)
    if (c == ' ' || c == '"' || c == '=' || c == '\\' || static_cast<unsigned char>(c) < 0x20)
      plain = false;
  if (plain) {
    out += value;
    return;
  }
  out += '"';
  for (char c : value) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

void configure(Level level, const std::string& file) {
  if (!file.empty()) {
    try {
      auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
      logger()->sinks().assign(1, sink);
      logger()->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    } catch (const spdlog::spdlog_ex& e) {
      throw Error(Errc::invalid_argument, "log file \"" + file + "\" can't be opened: " + e.what());
    }
  }
  logger()->set_level(to_spdlog(level));
}

Level level_from(std::string_view name) {
  for (auto [text, level] : {std::pair<std::string_view, Level>{"trace", Level::trace},
                             {"debug", Level::debug},
                             {"info", Level::info},
                             {"warn", Level::warn},
                             {"error", Level::error},
                             {"off", Level::off}})
    if (name == text) return level;
  throw Error(Errc::invalid_argument, "log level \"" + std::string(name) +
                                          "\": known are trace, debug, info, warn, error, off");
}

bool enabled(Level level) noexcept { return logger()->should_log(to_spdlog(level)); }

std::string format(std::string_view event, std::span<const Field> fields) {
  std::string line(event);
  for (const auto& f : fields) {
    line += ' ';
    line += f.key;
    line += '=';
    append_value(line, f.value);
  }
  return line;
}

void write(Level level, std::string_view event, std::span<const Field> fields) noexcept {
  if (!enabled(level)) return;
  try {
    logger()->log(to_spdlog(level), "{}", format(event, fields));
  } catch (...) {
    // Nothing is left to report to.
  }
}

}  // namespace cluster::log
