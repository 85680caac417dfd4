// What commands ask a node of its databases in quarantine: to list them, to hand over the bytes of
// one, part by part, and to delete one. Names come from outside: only those that the node itself
// lists are taken. On the loop; the disk is looked at on a strand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"

namespace cluster {

struct QuarantineRequest {
  enum class Op { list, read, remove };
  Op op = Op::list;
  std::string app{};
  std::string name{};                  ///< of list: only this one; empty: all
  std::string suffix{};                ///< of read: which of its files: empty, "-wal" or "-journal"
  std::uint64_t offset = 0, size = 0;  ///< of read: bytes
};

/// Error{invalid_argument} for what is none: says what is wrong.
Result<QuarantineRequest> quarantine_request_from(const std::string& text);

class QuarantineRequests {
 public:
  QuarantineRequests(Loop& loop, StrandPool& strands, std::string node);
  ~QuarantineRequests();
  QuarantineRequests(const QuarantineRequests&) = delete;
  QuarantineRequests& operator=(const QuarantineRequests&) = delete;

  /// `databases`: paths of the app's databases here. `most_bytes`: an answer is no longer. `done`
  /// on the loop: with JSON, or the bytes that were asked for. Errors: not_found, invalid_argument,
  /// unavailable (too much is asked at once), system.
  void ask(QuarantineRequest request, std::vector<std::string> databases, std::size_t most_bytes,
           Callback<std::string> done);

 private:
  Loop& loop_;
  const std::string node_;
  std::unique_ptr<Strand> strand_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster
