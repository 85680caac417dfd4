// How a record of a WAL stream travels: the headers of its NATS message (docs/formats.md). Pure.
#pragma once

#include <string>
#include <vector>

#include "core/result.h"
#include "nats/message.h"
#include "sqlite/stream_record.h"

namespace cluster::sqlite {

/// Headers for an append, with the message's id.
std::vector<nats::Header> headers_of(const StreamRecord& record);

/// The record of a message with these headers; `sequence`: its place. Error{incompatible} for a
/// newer version of the format, Error{corrupt}, with the header, for what no version writes.
Result<StreamRecord> stream_record_from(const std::vector<nats::Header>& headers,
                                        std::uint64_t sequence);

}  // namespace cluster::sqlite
