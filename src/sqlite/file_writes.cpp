#include "sqlite/file_writes.h"

#include <utility>

#include <sys/stat.h>

namespace cluster::sqlite {

std::optional<FileWrites::Look> FileWrites::look(const WalIndex& index, const std::string& path) {
  const auto before = index.header();
  const std::uint32_t backfilled = index.backfilled();
  // A checkpoint is under way, or has died over it.
  if (!before || index.backfill_attempted() != backfilled) return std::nullopt;
  struct stat file{};
  if (::stat(path.c_str(), &file) != 0) return std::nullopt;
  // Has one begun, or ended, meanwhile?
  const auto after = index.header();
  if (!after || after->salts() != before->salts() || index.backfilled() != backfilled ||
      index.backfill_attempted() != backfilled)
    return std::nullopt;
  return Look{before->salts(), backfilled, file.st_ino, file.st_size,
              std::int64_t{file.st_mtim.tv_sec} * 1'000'000'000 + file.st_mtim.tv_nsec};
}

bool FileWrites::unexplained(const WalIndex& index, const std::string& path) {
  const auto now = look(index, path);
  const auto last = std::exchange(last_, now);
  if (!now || !last || last->salts != now->salts || last->backfilled != now->backfilled ||
      last->inode != now->inode)
    return false;
  return last->size != now->size || last->written_ns != now->written_ns;
}

}  // namespace cluster::sqlite
