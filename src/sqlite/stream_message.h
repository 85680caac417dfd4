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

/// The record of a message with these headers; `sequence`: its place. Error{incompatible} for
/// another version of the format, Error{corrupt}, with the header, for what no version writes.
Result<StreamRecord> stream_record_from(const std::vector<nats::Header>& headers,
                                        std::uint64_t sequence);

/// Whether that error means that the message is no record: somebody else has published it. All
/// nodes pass over it alike.
inline bool is_foreign(const Error& error) { return error.errc() == Errc::corrupt; }

/// Whether a stream has a transaction, when this is its newest record. Fences of leaders that have
/// committed nothing yet are no history, nor is a first transaction that was never sent to its end.
bool has_transactions(const StreamRecord& newest);

/// Bytes of a file that one message of `writer` may have, so that a server takes it that takes
/// `max_payload` bytes (0: not known); 0: that is too little for any.
std::size_t most_part(const std::string& writer, std::int64_t max_payload);
/// The same the other way round: whether a message with so many bytes of a file is taken.
bool fits(std::size_t bytes, const std::string& writer, std::int64_t max_payload);

}  // namespace cluster::sqlite
