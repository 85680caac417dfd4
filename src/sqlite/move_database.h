// Gives a database another name.
#pragma once

#include <string>

namespace cluster::sqlite {

/// Moves the database `from`, with what its WAL holds, into the place of `to`, on the same file
/// system. Nobody may write to it meanwhile. Where a program has it open it is copied, and that
/// program keeps the old one as it is, whole, until it opens the new one: for SQLite one file under
/// two names would be two databases, each with a WAL of its own. Takes as long as copying does,
/// then. Returns whether it was renamed. Throws Error{corrupt}, Error{unavailable}, Error{system}
/// (no room, say); `from` is as it was then.
bool move_database(const std::string& from, const std::string& to);

}  // namespace cluster::sqlite
