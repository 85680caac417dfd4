#include "sqlite/wal_index.h"

#include <atomic>
#include <cstring>

#include <sqlite3.h>

#include "sqlite/bytes.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kHeaderWords = sizeof(WalIndexHeader) / 4;
constexpr std::size_t kBackfillWord = 96 / 4;
constexpr std::size_t kBackfillAttemptedWord = 128 / 4;
constexpr int kSegmentSize = 32768;

WalIndexHeader copy(const volatile std::uint32_t* from) noexcept {
  std::uint32_t words[kHeaderWords];
  for (std::size_t i = 0; i < kHeaderWords; ++i)
    words[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
  WalIndexHeader header;
  std::memcpy(&header, words, sizeof header);
  return header;
}

}  // namespace

WalSalts WalIndexHeader::salts() const noexcept {
  return {big_endian(salt_bytes[0]), big_endian(salt_bytes[1])};
}

WalChecksum WalIndexHeader::own_checksum() const noexcept {
  char bytes[sizeof *this];
  std::memcpy(bytes, this, sizeof bytes);
  WalChecksum sum;
  sum.add({bytes, sizeof bytes - sizeof checksum}, false);
  return sum;
}

volatile std::uint32_t* map_wal_index(const Handle& handle, std::uint32_t segment, bool make) {
  auto* file = handle.database_file();
  volatile void* memory = nullptr;
  const int rc = file->pMethods->iVersion >= 2
                     ? file->pMethods->xShmMap(file, static_cast<int>(segment), kSegmentSize,
                                               make ? 1 : 0, &memory)
                     : SQLITE_ERROR;
  if (rc != SQLITE_OK || memory == nullptr)
    throw handle.error("its wal-index", rc == SQLITE_OK ? SQLITE_CANTOPEN : rc);
  return static_cast<volatile std::uint32_t*>(memory);
}

WalIndex::WalIndex(const Handle& handle) : memory_(map_wal_index(handle, 0, false)) {}

// Writers change the second copy first, then the first: two equal copies are one whole state.
std::optional<WalIndexHeader> WalIndex::header() const noexcept {
  const WalIndexHeader first = copy(memory_);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const WalIndexHeader second = copy(memory_ + kHeaderWords);
  if (!(first == second) || first.initialised == 0 || first.version != kWalIndexVersion)
    return std::nullopt;
  if (first.own_checksum() != WalChecksum{first.checksum[0], first.checksum[1]})
    return std::nullopt;
  return first;
}

std::uint32_t WalIndex::backfill_attempted() const noexcept {
  return __atomic_load_n(memory_ + kBackfillAttemptedWord, __ATOMIC_RELAXED);
}

std::uint32_t WalIndex::backfilled() const noexcept {
  return __atomic_load_n(memory_ + kBackfillWord, __ATOMIC_RELAXED);
}

}  // namespace cluster::sqlite
