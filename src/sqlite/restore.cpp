#include "sqlite/restore.h"

#include <cstdio>

#include "cluster/error.h"
#include "sqlite/database_builder.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr PageNumber kProgressPages = 4096;

}  // namespace

DatabaseState write_database(const std::string& path, const std::vector<LtxDecoder*>& files,
                             const RestoreProgress& progress) {
  DatabaseBuilder builder(path);
  for (auto* file : files) {
    const PageNumber pages = file->header().commit;
    builder.apply(*file, [&](PageNumber number) {
      if (progress && number % kProgressPages == 0) progress(number, pages);
    });
    if (progress) progress(pages, pages);
  }
  return builder.finish();
}

void replace_database(const std::string& from, const std::string& path) {
  // First the old log and its index: with the new file they would be mistaken for its own.
  remove_file(path + "-wal");
  remove_file(path + "-shm");
  sync_folder_of(path);
  if (::rename(from.c_str(), path.c_str()) != 0)
    throw file_error("renaming to " + path + " of", from);
  sync_folder_of(path);
}

}  // namespace cluster::sqlite
