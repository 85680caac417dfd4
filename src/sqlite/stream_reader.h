// Follows a WAL stream: says of each record, in the stream's order, whether the local copy of the
// database takes it, and notices when that copy is not a part of the stream's history. Pure.
// docs/protocols.md, "The WAL stream".
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sqlite/stream_record.h"

namespace cluster::sqlite {

class StreamReader {
 public:
  enum class Kind {
    skip,      ///< it is here already, or has nothing to apply
    keep,      ///< a part of a file: keep its bytes until the last part is there
    apply,     ///< with the parts kept, it is a file that follows; then call applied()
    gap,       ///< transactions before it are missing here: a snapshot is needed
    diverged,  ///< the copy holds what the stream does not: it must be set aside
    invalid,   ///< no correct writer does this
  };
  struct Verdict {
    Kind kind{};
    std::string why{};    ///< of gap, diverged and invalid
    bool begins = false;  ///< with keep and apply: forget parts that were kept before
  };

  explicit StreamReader(const CopyPosition& position) : position_(position) {}

  Verdict next(const StreamRecord& record);
  /// The file of the last record has been applied.
  void applied(const StreamRecord& record);

  const CopyPosition& position() const noexcept { return position_; }
  /// Epoch and sequence of the newest record seen.
  std::uint64_t epoch() const noexcept { return epoch_; }
  std::uint64_t sequence() const noexcept { return sequence_; }

 private:
  Verdict at_fence(const StreamRecord& record);
  Verdict at_data(const StreamRecord& record);

  CopyPosition position_;
  std::uint64_t epoch_ = 0;
  std::uint64_t sequence_ = 0;
  std::optional<StreamRecord> parts_;  // the last part of a file that is not whole
};

/// Can a copy be the database of the leader whose fence this is? It can when it stands at the
/// fence, and also with transactions behind it, if they were committed under the epoch before, with
/// none between: then nobody else has led meanwhile, and the leader appends them.
/// `at_fence`: the hash of the copy's content at the fence's transaction; nothing when that is
/// not known.
enum class Inheritance {
  whole,     ///< it stands at the fence
  ahead,     ///< it has more, which is to be appended
  behind,    ///< it has to follow first
  diverged,  ///< it must be set aside
};
Inheritance inheritance(const CopyPosition& position, const StreamRecord& fence,
                        std::optional<std::uint64_t> at_fence);

}  // namespace cluster::sqlite
