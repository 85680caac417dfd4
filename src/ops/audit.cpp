// The public face of the audit log.
#include "cluster/audit.h"

#include <utility>

#include "ops/audit_subscription.h"
#include "ops/audit_trail.h"

namespace cluster {

bool Audit::record(std::string_view action, AuditFields fields) {
  return trail_->record(app_, action, std::move(fields));
}

std::uint64_t Audit::dropped() const noexcept { return trail_->dropped(); }

std::vector<AuditEntry> Audit::query(const AuditFilter& filter, Timeout timeout) const {
  return trail_->query(app_, filter, timeout);
}

AuditSubscription Audit::follow(const AuditFilter& filter,
                                std::function<void(const AuditEntry&)> handler,
                                AuditFollowOptions options) const {
  return AuditSubscription(trail_->follow(app_, filter, std::move(handler), std::move(options)));
}

AuditSubscription& AuditSubscription::operator=(AuditSubscription&& other) noexcept {
  std::swap(core_, other.core_);
  return *this;
}

AuditSubscription::~AuditSubscription() {
  if (core_) core_->end();
}

AuditCounts AuditSubscription::counts() const { return core_ ? core_->counts() : AuditCounts{}; }

}  // namespace cluster
