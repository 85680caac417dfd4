// Tells what happens to something of an app: as a line of the log, and as an entry of the audit
// log. Neither throws nor blocks; on the loop.
#pragma once

#include <string>
#include <string_view>

#include "core/audit.h"
#include "core/log.h"

namespace cluster {

class Journal {
 public:
  /// `category`: of the audit log's entries, "database" say. `app`: empty for the node itself.
  Journal(std::string category, std::string app, std::string node, AuditSink audit);

  /// `event` is the log's; in the audit log without the category before it ("database_primary" is
  /// "primary"). App and node are added.
  void info(std::string_view event, log::Fields fields = {}) const {
    tell(log::Level::info, event, fields);
  }
  void warn(std::string_view event, log::Fields fields = {}) const {
    tell(log::Level::warn, event, fields);
  }
  void error(std::string_view event, log::Fields fields = {}) const {
    tell(log::Level::error, event, fields);
  }
  void tell(log::Level level, std::string_view event, std::span<const log::Field> fields) const;
  void tell(log::Level level, std::string_view event, log::Fields fields) const {
    tell(level, event, std::span<const log::Field>(fields.begin(), fields.size()));
  }
  /// The entry alone, of what the log has been told already.
  void enter(log::Level level, std::string_view event, std::span<const log::Field> fields) const;

 private:
  const std::string category_, app_, node_;
  const AuditSink audit_;
};

}  // namespace cluster
