// What a message of a WAL stream says of itself, and where it stands: all that decisions about the
// stream rest on. Values only; docs/protocols.md, "The WAL stream".
#pragma once

#include <cstdint>
#include <string>

#include "sqlite/ltx.h"

namespace cluster::sqlite {

/// Where a copy of the database stands.
struct CopyPosition {
  std::uint64_t epoch = 0;  ///< of the lead under which its last transaction was committed
  Txid txid = 0;
  std::uint64_t hash = 0;  ///< of its content; 0 with txid 0
};

struct StreamRecord {
  std::uint64_t epoch = 0;  ///< of the lead under which it was written
  std::string writer{};     ///< who: unique to one promotion of one node
  /// It begins its epoch and has no pages; first and last are then the last transaction before it.
  bool fence = false;
  std::uint64_t epoch_before = 0;  ///< of a fence: that of the record before it; 0: there was none
  Txid first = 0, last = 0;        ///< transactions that its LTX file has
  std::uint32_t part = 1;          ///< of the file, from 1; it counts once its last part is there
  bool final = true;               ///< the last part
  std::uint64_t before = 0;        ///< hash of the database before `first`; 0: there was none
  std::uint64_t hash = 0;      ///< and after `last`; of a fence both are that of its transaction
  std::uint64_t sequence = 0;  ///< in the stream; 0: not stored, or not known

  /// How often the writer has sent something, this included; not read back from the stream.
  std::uint64_t attempt = 0;

  /// Unique to each sending (its Nats-Msg-Id). nats-server takes a message with an id that it has
  /// refused before in a cluster for a copy of one that is stored, and drops it (seen
  /// with 2.10.27).
  std::string id() const { return writer + "/" + std::to_string(attempt); }
};

}  // namespace cluster::sqlite
