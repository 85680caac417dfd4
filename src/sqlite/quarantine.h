// Databases in quarantine, as nodes list them and commands ask for them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sqlite/quarantine_note.h"

namespace cluster::sqlite {

struct Quarantined {
  std::string path{};  ///< absolute
  QuarantineKind kind{};
  std::uint64_t bytes = 0;  ///< of the database's file
  /// Of what SQLite keeps beside it and that belongs to it; 0: there is none.
  std::uint64_t wal_bytes = 0, journal_bytes = 0;
  std::int64_t changed_ns = 0;  ///< when any of them was written to last, since 1970
  std::int64_t since_ms = 0;    ///< when it was put there, since 1970; as its file says
  std::uint32_t mode = 0, uid = 0, gid = 0;
  std::optional<QuarantineNote> note{};

  /// Its file's name, by which commands know it.
  std::string name() const;
  std::uint64_t all_bytes() const { return bytes + wal_bytes + journal_bytes; }
};

/// What stands beside these databases, the newest first; one that is named twice counts once.
/// Without notes. Throws std::filesystem::filesystem_error.
std::vector<Quarantined> in_quarantine(const std::vector<std::string>& databases);

/// The one of that name, which comes from outside, with its note. Throws Error{not_found}, and
/// Error{invalid_argument} when two folders have one.
Quarantined find_quarantined(const std::vector<std::string>& databases, const std::string& name);

struct QuarantineSummary {
  /// The newest ones, so many at most.
  static constexpr std::size_t kMostNamed = 20;
  struct Total {
    std::uint64_t count = 0, bytes = 0;
  };
  std::array<Total, std::size(kQuarantineKinds)> totals{};
  std::vector<std::string> newest{};  ///< paths

  const Total& of(QuarantineKind kind) const { return totals[static_cast<std::size_t>(kind)]; }
};
QuarantineSummary summary_of(const std::vector<Quarantined>& all);

/// A part of one of its files: up to `size` bytes from `offset` on, fewer only at the file's end.
/// `suffix`: of the file: empty, "-wal" or "-journal". Throws Error{not_found}, Error{system}.
std::string read_quarantined(const Quarantined& one, const std::string& suffix,
                             std::uint64_t offset, std::size_t size);

/// Makes a database that nobody else has open, with its WAL or journal if there is one, a single
/// file that is not in WAL mode, and syncs it. SQLite does not need to understand its schema for
/// that. Throws as Handle does; Error{unavailable} when somebody has it open.
void make_single_file(const std::string& path);

}  // namespace cluster::sqlite
