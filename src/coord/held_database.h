// What a node says, in its record, of the database of an app that it has: from that it follows who
// may begin the database's history while its stream is empty (docs/replication.md, "Who founds").
#pragma once

#include <cstdint>
#include <string>

namespace cluster::coord {

struct HeldDatabase {
  enum class What {
    unknown,   ///< it has not looked yet, or its version says nothing that this one knows
    nothing,   ///< there is no file, or an empty one
    unread,    ///< there is a file, and it is not known yet what it holds
    database,  ///< one that belongs to no history that the node knows
    copy,      ///< one that stands at a transaction of a history
    unusable,  ///< there is a file, and it can't be taken
  };
  What what = What::unknown;
  /// The history of the stream that the node saw when it said this; 0: none yet.
  std::uint64_t stream = 0;
  std::uint64_t hash = 0;  ///< of its content; 0: not known
  /// Of a copy.
  std::uint64_t history = 0, epoch = 0, txid = 0;
  std::string why{};  ///< of one that can't be taken; for people

  bool operator==(const HeldDatabase&) const = default;
};

}  // namespace cluster::coord
