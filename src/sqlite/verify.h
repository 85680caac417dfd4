// What a node's copy of a database holds, compared page by page with what the node has noted of it
// since it began: finds what a disk, or a program that goes around replication, has changed. One
// transaction is looked at, while others come (docs/replication.md, "Comparing copies").
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/journal.h"
#include "sqlite/capture.h"
#include "sqlite/database_image.h"
#include "sqlite/replica.h"

namespace cluster::sqlite {

struct VerifyProgress {
  std::atomic<PageNumber> done{0}, all{0};  ///< pages
  std::atomic<Txid> txid{0};                ///< that is looked at; 0: not known yet
};

struct Verified {
  /// Wrong pages that are named.
  static constexpr std::size_t kMostNamed = 1000;

  std::uint64_t epoch = 0;     ///< under which the transaction was committed
  Txid txid = 0;               ///< that was looked at
  std::uint64_t sequence = 0;  ///< of its record in the stream; 0: not known
  std::uint64_t noted = 0;     ///< the content's hash as it was noted
  std::uint64_t found = 0;     ///< and as it was read
  /// Of the content at the earlier transaction that was asked for, if that was noted.
  std::optional<std::uint64_t> noted_at{};
  std::uint32_t page_size = 0;
  PageNumber pages = 0;
  std::uint64_t wrong = 0;          ///< pages that are not as they were noted
  std::vector<PageNumber> named{};  ///< the first of them
  std::string damage{};             ///< why it could not be read at all; nothing else is known then
  FileState file{};                 ///< of a replica's, before it was read

  bool sound() const noexcept { return wrong == 0 && noted == found && damage.empty(); }
};

/// What was found wrong, to the log and the audit log.
void tell_damage(const Journal& journal, const Verified& found);

/// Looks at an image that a leader has had made of its database. Throws Error{system}, and
/// shutting_down when stopped. Blocks.
Verified verify_image(const DatabaseImage& image, VerifyProgress& progress,
                      const std::stop_token& stop);

/// A read transaction on a replica at the transaction where it stands. Applying goes on meanwhile,
/// but its WAL can't be begun anew until this is gone.
class ReplicaScan {
 public:
  /// Where nothing is being applied. Throws Error{unavailable} when the replica is at no known
  /// transaction, Error{corrupt} when its WAL is damaged.
  explicit ReplicaScan(const Replica& replica);
  Txid txid() const noexcept { return position_.txid; }
  /// On any thread; throws as verify_image does, and Error{corrupt}.
  Verified run(VerifyProgress& progress, const std::stop_token& stop);

 private:
  FileState file_;
  PositionRecord position_;
  PageHashes noted_;
  Capture reader_;
};

}  // namespace cluster::sqlite
