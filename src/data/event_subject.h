// The subjects of events, and what may stand in them (docs/events.md). Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cluster {

/// Why it can't be: the subject of an event that is published, a pattern, an id, a durable's name,
/// or whose events are wanted (an app, `_` or `*`). Empty when it can.
std::string event_subject_fault(std::string_view subject);
std::string event_pattern_fault(std::string_view pattern);
std::string event_id_fault(std::string_view id);
std::string durable_name_fault(std::string_view name);
std::string event_source_fault(std::string_view app);

/// `<platform>.<app>.events.<subject>`.
std::string event_subject(const std::string& platform, const std::string& app,
                          std::string_view subject);
struct EventPlace {
  std::string app{}, subject{};
};
/// Back again; nothing for what is no event of that platform.
std::optional<EventPlace> event_place(const std::string& platform, std::string_view subject);

/// What a durable subscription gives up: `_dead.<durable>.<subject>`.
std::string dead_subject(const std::string& durable, const std::string& subject);
/// Events whose subject begins with `_` are ours: only a pattern that says so gets them.
bool wants_reserved(std::string_view pattern);
/// The pattern fits what a durable subscription of that name gives up, which would come back to it.
bool fits_dead_of(std::string_view pattern, const std::string& durable);

}  // namespace cluster
