// Makes a database from LTX files: a snapshot, and what follows it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sqlite/capture.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

/// Told now and then, of each file: pages done, pages in all.
using RestoreProgress = std::function<void(PageNumber done, PageNumber all)>;

/// Writes the database that adjacent files, oldest first, leave behind into a new file `path`, and
/// syncs it. The first must be a snapshot. Throws as DatabaseBuilder does. On failure there is no
/// file.
DatabaseState write_database(const std::string& path, const std::vector<LtxDecoder*>& files,
                             const RestoreProgress& progress = {});

/// Puts the file `from` into the place of the database `path`, on the same file system. Programs
/// that have the old one open keep it as it was. No crash leaves a mixture: at worst the old
/// database without what its WAL held, or none. Throws Error{system}.
void replace_database(const std::string& from, const std::string& path);

}  // namespace cluster::sqlite
