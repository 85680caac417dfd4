// The JSON of records and messages as they stand on NATS (docs/protocols.md). Readers ignore
// unknown fields, refuse a higher major version with Error{incompatible}, and anything else that is
// not what it should be with Error{corrupt}.
#pragma once

#include <string>

#include "coord/locks.h"
#include "coord/records.h"
#include "coord/session_messages.h"
#include "core/result.h"

namespace cluster::coord {

std::string to_json(const SessionRecord& record);
/// `key` is the record's key: a record that names another node is corrupt.
Result<SessionRecord> session_record_from(const std::string& key, const std::string& json);

std::string to_json(const LeaseRecord& record);
Result<LeaseRecord> lease_record_from(const std::string& key, const std::string& json);

std::string to_json(const LockRecord& record);
Result<LockRecord> lock_record_from(const std::string& key, const std::string& json);
std::string to_json(const LockNotice& notice);
Result<LockNotice> lock_notice_from(const std::string& json);

std::string to_json(const Heartbeat& heartbeat);
std::string to_json(const HeartbeatAck& ack);
std::string to_json(const Withdrawal& withdrawal);
Result<Heartbeat> heartbeat_from(const std::string& json);
Result<HeartbeatAck> heartbeat_ack_from(const std::string& json);
Result<Withdrawal> withdrawal_from(const std::string& json);

const char* to_text(SessionState state);
const char* to_text(HeldDatabase::What what);
const char* to_text(LockKind kind);

}  // namespace cluster::coord
