// Entries of the audit log as JetStream stores them, and which of them somebody wants
// (docs/formats.md). Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cluster/options.h"
#include "core/audit.h"
#include "nats/jetstream.h"

namespace cluster {

inline constexpr char kUserCategory[] = "user";

std::string audit_stream_name(const std::string& platform);
nats::StreamConfig audit_stream(const std::string& platform, const AuditOptions& options,
                                int replicas);
/// What STREAM.UPDATE is to be told so that a stream, described by `info` as STREAM.INFO does,
/// keeps what `options` say; what others have set of it stays. Nothing: it does so already, or
/// `info` can't be read.
std::optional<std::string> audit_limits_update(const std::string& info,
                                               const AuditOptions& options);

/// The message that tells of `entry`, whose time is now unless it has one; to be published with
/// JetStream.
nats::Message audit_message(const std::string& platform, AuditEntry entry);
/// Back again; nothing for what is no entry.
std::optional<AuditEntry> audit_entry_from(const nats::StoredMessage& message);

/// Why they can't be recorded; empty when they can.
std::string audit_record_fault(std::string_view action, const AuditFields& fields);
/// Why nothing could fit it; empty when it is fine.
std::string audit_filter_fault(const AuditFilter& filter);
/// The subjects of the entries that may fit.
std::string audit_subject(const std::string& platform, const AuditFilter& filter);
/// All of the filter but its limit; an empty `app` is all.
bool fits(const AuditEntry& entry, const AuditFilter& filter);

/// Nothing that happened then or later was stored before this time, as JetStream's clock has it:
/// clocks may differ by a minute.
std::int64_t stored_since_ns(std::chrono::system_clock::time_point since);

}  // namespace cluster
