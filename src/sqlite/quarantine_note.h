// What is known of a database in quarantine, as a small JSON file beside it says
// (docs/formats.md, "Quarantined databases"). It is for people: nothing is decided by it, and
// without it, or with one that is damaged, the database is kept all the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sqlite/left_over.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

/// What a quarantined database holds. Its file name says so.
enum class QuarantineKind {
  diverged,  ///< or it may: transactions of a term that the history does not have
  foreign,   ///< what somebody has written to a standby's copy
  damaged,   ///< what is no sound database any more, of a standby
};
constexpr QuarantineKind kQuarantineKinds[] = {QuarantineKind::diverged, QuarantineKind::foreign,
                                               QuarantineKind::damaged};
/// "diverged", "foreign", "damaged".
const char* to_text(QuarantineKind kind);

struct QuarantineNote {
  std::string app{}, node{};
  std::uint64_t history = 0;  ///< the incarnation of the stream that it was a copy of; 0: unknown
  std::uint64_t epoch = 0;    ///< of the last transaction that is known of it; 0: unknown
  Txid first = 0, last = 0;   ///< of those that the history does not have; 0: unknown
  std::optional<LeftOver> held{};  ///< how many they are; nothing: unknown
  std::int64_t since_ms = 0;       ///< when it was quarantined, since 1970; 0: unknown
  std::uint64_t bytes = 0;         ///< of its files then
  std::string why{};
};

/// The text of the file. What is no UTF-8 is replaced, and a long reason cut short.
std::string note_text(const QuarantineNote& note, QuarantineKind kind);
/// Nothing for what is no such text, or one of a newer version. Fields that are missing, or of
/// another type, are as if they were not known.
std::optional<QuarantineNote> note_from(std::string_view text);

/// The file that goes with a quarantined database.
inline std::string note_path(const std::string& database) { return database + ".json"; }
/// Writes it, synced, with the database's owner and mode. Throws Error{system}.
void write_note(const std::string& database, const QuarantineNote& note, QuarantineKind kind);
/// Nothing when there is none, or it can't be read or understood.
std::optional<QuarantineNote> read_note(const std::string& database);

}  // namespace cluster::sqlite
