#include "sqlite/move_database.h"

#include <cstdint>

#include <fcntl.h>
#include <unistd.h>

#include "core/log.h"
#include "sqlite/capture.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"
#include "sqlite/restore.h"

namespace cluster::sqlite {
namespace {

constexpr int kOthersMs = 200;  // for programs that open it for a moment

// As long as the connection is there, nobody else can have the database open: in WAL mode every
// connection holds a lock on the file from its first look on.
bool rename_alone(const std::string& from, const std::string& to) {
  Handle alone(from, Handle::Access::read_write);
  wait_for_locks(alone.get(), kOthersMs);
  alone.exec("PRAGMA locking_mode=EXCLUSIVE");
  if (alone.try_exec("BEGIN EXCLUSIVE; COMMIT") != 0) return false;
  if (alone.text("PRAGMA journal_mode") == "wal" &&
      alone.number("PRAGMA wal_checkpoint(TRUNCATE)") != 0)
    return false;
  replace_database(from, to);
  return true;
}

void write_copy(const std::string& from, const std::string& into) {
  UniqueFd file(::open(into.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) throw file_error("creation of", into);
  Capture all({.path = from}, {}, true);
  const std::int64_t page_size = all.page_size();
  const PageNumber pages = all.each_page([&](PageNumber number, std::string_view bytes) {
    write_all(file.get(), bytes, (std::int64_t{number} - 1) * page_size, into);
  });
  if (::ftruncate(file.get(), pages * page_size) != 0 || ::fsync(file.get()) != 0)
    throw file_error("write to", into);
  take_access(into, from);
}

}  // namespace

bool move_database(const std::string& from, const std::string& to) {
  const bool renamed = rename_alone(from, to);
  if (!renamed) {
    log::info("database_copied",
              {{"path", from},
               {"to", to},
               {"means",
                "a program has it open, and goes on seeing what was there; it must open "
                "the database anew to see more"}});
    const std::string copy = to + "-moving";
    try {
      write_copy(from, copy);
      replace_database(copy, to);
    } catch (...) {
      ::unlink(copy.c_str());
      throw;
    }
    remove_file(from);
  }
  for (const char* suffix : {"-wal", "-shm"}) remove_file(from + suffix);
  return renamed;
}

}  // namespace cluster::sqlite
