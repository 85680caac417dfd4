// Where the parts of a node tell what has happened, for those who ask later: entries of the
// platform's audit log (ops/audit_log.h).
#pragma once

#include <functional>

#include "cluster/audit.h"

namespace cluster {

/// Takes an entry, whose node and time are added; on the loop. Never blocks.
using AuditSink = std::function<void(AuditEntry)>;

}  // namespace cluster
