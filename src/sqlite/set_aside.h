// Databases that a node can't go on with are kept beside it, not thrown away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cluster::sqlite {

constexpr std::size_t kMostSetAside = 3;

/// Moves what the WAL of a database that nobody else has open holds into its file, so that the file
/// alone is the database. Throws as Handle does; Error{unavailable} when somebody has it open.
void settle_database(const std::string& path);

/// Renames the database to `<path>.<word>-<epoch>`, with its WAL if that can't be moved into it,
/// and drops all but the newest three with that word beside it. Returns the new name; empty when
/// there is no database. Throws Error{system}.
std::string set_aside(const std::string& path, const std::string& word, std::uint64_t epoch);

/// The databases that were set aside, the newest first.
std::vector<std::string> those_set_aside(const std::string& path);

}  // namespace cluster::sqlite
