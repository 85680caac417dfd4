// Puts a database into quarantine: one that a node can't go on with is kept beside its own, under
// another name, not thrown away. See docs/formats.md, "Quarantined databases".
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sqlite/quarantine_note.h"

namespace cluster::sqlite {

/// So many of the newest ones of a kind are kept; of QuarantineKind::diverged all, for ever.
constexpr std::size_t kMostSetAside = 3;

/// Moves what the WAL of a database that nobody else has open holds into its file, so that the file
/// alone is the database. Throws as Handle does; Error{unavailable} when somebody has it open.
void settle_database(const std::string& path);

/// Renames the database to `<path>.<kind>-<epoch>`, or with ".2", ".3" and so on behind that, with
/// its WAL if that can't be moved into it. Writes down what is known of it, where that is possible,
/// and removes older ones as kMostSetAside says. `settle` false: its WAL is left as it is, since
/// SQLite would drop what comes after a damaged frame. Returns the new name; empty when there is no
/// database. When this is cut short at any instant, finish_set_aside() completes it. Throws
/// Error{system}.
std::string set_aside(const std::string& path, QuarantineKind kind, QuarantineNote note,
                      bool settle = true);

/// Completes what a crash has cut short, with `note` for each database. To be called before
/// anything is put at `path`, or opened there. Returns their names. Throws Error{system}.
std::vector<std::string> finish_set_aside(const std::string& path, const QuarantineNote& note);

/// The databases that were set aside, the newest first. Throws std::filesystem::filesystem_error.
std::vector<std::string> those_set_aside(const std::string& path);

/// What the name of one of those says.
QuarantineKind kind_of(const std::string& kept);

/// Removes one of those, with all that belongs to it. Throws Error{system}.
void remove_set_aside(const std::string& kept);

}  // namespace cluster::sqlite
