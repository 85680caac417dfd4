#include "core/journal.h"

#include <utility>
#include <vector>

namespace cluster {
namespace {

const char* to_text(log::Level level) {
  return level == log::Level::error ? "error" : level == log::Level::warn ? "warn" : "info";
}

}  // namespace

Journal::Journal(std::string category, std::string app, std::string node, AuditSink audit)
    : category_(std::move(category)),
      app_(std::move(app)),
      node_(std::move(node)),
      audit_(std::move(audit)) {}

void Journal::tell(log::Level level, std::string_view event,
                   std::span<const log::Field> fields) const {
  std::vector<log::Field> all;
  if (!app_.empty()) all.emplace_back("app", app_);
  all.emplace_back("node", node_);
  all.insert(all.end(), fields.begin(), fields.end());
  log::write(level, event, all);
  enter(level, event, fields);
}

void Journal::enter(log::Level level, std::string_view event,
                    std::span<const log::Field> fields) const {
  if (!audit_) return;
  const std::string prefix = category_ + "_";
  AuditEntry entry;
  entry.category = category_;
  entry.action = event.starts_with(prefix) ? event.substr(prefix.size()) : event;
  entry.app = app_;
  entry.level = to_text(level);
  for (const auto& field : fields) entry.fields.emplace_back(field.key, field.value);
  audit_(std::move(entry));
}

}  // namespace cluster
