#include "sqlite/read_mark.h"

#include <string>
#include <thread>
#include <utility>

#include <sqlite3.h>

#include "cluster/clock.h"
#include "core/check.h"
#include "core/log.h"
#include "sqlite/shm_lock.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kMarkWord = 100 / 4;
constexpr std::uint32_t kUnused = 0xffffffff;
constexpr Duration kMarksWait = std::chrono::seconds(2);

volatile std::uint32_t* word_of(const Handle& handle, int mark) {
  return map_wal_index(handle, 0, false) + kMarkWord + mark;
}
std::uint32_t load(const volatile std::uint32_t* word) {
  return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

// False: another one has it.
bool lock(const Handle& handle, int mark, int kind) {
  const int rc = shm_lock(handle, kFileReadersLock + mark, SQLITE_SHM_LOCK | kind);
  if (rc != SQLITE_OK && rc != SQLITE_BUSY)
    throw handle.error("lock of read mark " + std::to_string(mark), rc);
  return rc == SQLITE_OK;
}

void unlock(const Handle& handle, int mark, int kind) noexcept {
  const int rc = shm_lock(handle, kFileReadersLock + mark, SQLITE_SHM_UNLOCK | kind);
  if (rc != SQLITE_OK)
    log::error("lock_not_given_back",
               {{"path", handle.path()}, {"lock", kFileReadersLock + mark}, {"code", rc}});
}

}  // namespace

bool ReadMark::take(const Handle& handle, const WalSalts& salts, std::uint32_t frame,
                    int other_than) {
  CLUSTER_CHECK(!held() && frame > 0);
  const WalIndex index(handle);
  const Time limit = BootClock::now() + kMarksWait;
  for (;;) {
    for (int mark = 1; mark < kMarks && !held(); ++mark)
      if (mark != other_than && lock(handle, mark, SQLITE_SHM_EXCLUSIVE)) {
        __atomic_store_n(word_of(handle, mark), frame, __ATOMIC_SEQ_CST);
        unlock(handle, mark, SQLITE_SHM_EXCLUSIVE);
        hold(handle, mark, frame);
      }
    if (!held()) share_earlier(handle, frame);
    if (held()) break;
    if (BootClock::now() >= limit)
      throw Error(Errc::unavailable,
                  "database " + handle.path() + ": other readers keep all of its read marks");
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  for (;;) {
    if (const auto header = index.header()) {
      if (header->salts() == salts && header->max_frame >= frame) return true;
      drop();
      return false;
    }
    // A writer changes it within microseconds. One that has died over that is found by follow().
    if (BootClock::now() >= limit) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(10));
  }
}

// Somebody may have set it anew before it is held.
bool ReadMark::hold(const Handle& handle, int mark, std::uint32_t frame) {
  if (!lock(handle, mark, SQLITE_SHM_SHARED)) return false;
  if (load(word_of(handle, mark)) != frame) {
    unlock(handle, mark, SQLITE_SHM_SHARED);
    return false;
  }
  handle_ = &handle;
  mark_ = mark;
  frame_ = frame;
  return true;
}

bool ReadMark::share_earlier(const Handle& handle, std::uint32_t frame) {
  int best = kNone;
  std::uint32_t at = 0;
  for (int mark = 1; mark < kMarks; ++mark) {
    const std::uint32_t stands = load(word_of(handle, mark));
    if (stands == kUnused || stands > frame || stands < at) continue;
    best = mark;
    at = stands;
  }
  return best != kNone && hold(handle, best, at);
}

bool ReadMark::take_file(const Handle& handle) {
  CLUSTER_CHECK(!held());
  if (!lock(handle, kFile, SQLITE_SHM_SHARED)) return false;
  handle_ = &handle;
  mark_ = kFile;
  frame_ = 0;
  return true;
}

// SQLite keeps a lock that is not given back for as long as this process has the database open.
void ReadMark::drop() noexcept {
  if (const int mark = std::exchange(mark_, kNone); mark != kNone)
    unlock(*handle_, mark, SQLITE_SHM_SHARED);
}

}  // namespace cluster::sqlite
