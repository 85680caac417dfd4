// Of what time the records of a WAL stream are. JetStream stamps each message by the clock of the
// server that leads the stream then. Servers' clocks differ and are set, so a later message may
// have an earlier time. A record's effective time is the latest of all messages up to it: it never
// goes back. docs/replication.md, "Which clock counts". Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "sqlite/stored_file.h"
#include "sqlite/stream_record.h"

namespace cluster::sqlite {

/// Given a stream's messages in order.
class EffectiveTime {
 public:
  /// `known_ns`: the effective time of what is before them.
  explicit EffectiveTime(std::int64_t known_ns = 0) : time_ns_(known_ns) {}

  /// Of the next message, which was stored at that time.
  std::int64_t at(std::int64_t stored_ns) {
    time_ns_ = std::max(time_ns_, stored_ns);
    return time_ns_;
  }
  std::int64_t last() const noexcept { return time_ns_; }

 private:
  std::int64_t time_ns_;
};

/// A place in a stream.
struct StoredAt {
  std::uint64_t sequence = 0;
  std::int64_t time_ns = 0;  ///< effective, since 1970
  bool operator==(const StoredAt&) const = default;
};

/// Finds where a transaction ends in the stream, for a snapshot of it. Where the record is gone
/// that ended with the transaction, its time is that of the first one behind it: rather too late
/// than too early.
class PlaceSearch {
 public:
  /// Transaction `txid` is stored at `least` or behind it. `files`: of the stream, whose times are
  /// known.
  PlaceSearch(Txid txid, std::uint64_t least, const std::vector<StoredFile>& files);

  bool found() const noexcept { return found_; }
  /// The messages behind this are to be given until it is found.
  const StoredAt& known() const noexcept { return known_; }
  /// The stream's next message; no record: it is none of ours.
  void take(std::uint64_t sequence, std::int64_t stored_ns,
            const std::optional<StreamRecord>& record);
  /// The stream has no message at all, and its server's clock says that time.
  void take_empty(std::int64_t server_ns);
  /// Once found.
  const StoredAt& place() const noexcept { return place_; }

 private:
  const Txid txid_;
  const std::uint64_t least_;
  StoredAt known_{}, place_{};
  EffectiveTime time_{};
  bool found_ = false;
};

}  // namespace cluster::sqlite
