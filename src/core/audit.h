// What has happened to a platform, for those who ask later: entries of its audit log
// (ops/audit_log.h).
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace cluster {

struct AuditEntry {
  std::string category{};  ///< of what: "database"
  std::string action{};    ///< what happened: "primary"
  std::string app{};       ///< empty: to none alone
  std::string level{};     ///< "info", "warn", "error"
  std::vector<std::pair<std::string, std::string>> fields{};
};

/// Takes an entry; on the loop. Never blocks.
using AuditSink = std::function<void(AuditEntry)>;

}  // namespace cluster
