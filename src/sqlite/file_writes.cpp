#include "sqlite/file_writes.h"

#include <utility>

#include <sys/stat.h>

#include "core/wall_time.h"

namespace cluster::sqlite {
namespace {

// A tick is 4 ms mostly, and 10 ms at most.
constexpr std::int64_t kTicks_ns = 25'000'000;

std::int64_t as_ns(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

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
  return Look{before->salts(), before->max_frame,   backfilled,         file.st_ino,
              file.st_size,    as_ns(file.st_mtim), as_ns(file.st_ctim)};
}

bool FileWrites::may_hide_more() const {
  if (!last_) return false;
  const std::int64_t since = wall_ns() - last_->changed_ns;
  return since > -kTicks_ns && since < kTicks_ns;
}

// No checkpoint has moved anything into the file.
bool FileWrites::nothing_moved(const Look& before, const Look& now) {
  if (before.salts == now.salts) return before.backfilled == now.backfilled;
  // The WAL was begun anew once, when all of it was in the file already. Each time the first salt
  // is one more.
  return now.salts.first == before.salts.first + 1 && before.backfilled >= before.frames &&
         now.backfilled == 0;
}

bool FileWrites::unexplained(const WalIndex& index, const std::string& path) {
  const auto now = look(index, path);
  const auto last = std::exchange(last_, now);
  if (!now || !last || last->inode != now->inode || !nothing_moved(*last, *now)) return false;
  return last->size != now->size || last->written_ns != now->written_ns;
}

}  // namespace cluster::sqlite
