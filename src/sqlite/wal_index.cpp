#include "sqlite/wal_index.h"

#include <atomic>
#include <cstring>

#include <sqlite3.h>

#include "sqlite/bytes.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kHeaderWords = sizeof(WalIndexHeader) / 4;
constexpr std::size_t kBackfillWord = 96 / 4;
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

WalIndex::WalIndex(const Handle& handle) {
  auto* file = handle.database_file();
  volatile void* memory = nullptr;
  const int rc = file->pMethods->iVersion >= 2
                     ? file->pMethods->xShmMap(file, 0, kSegmentSize, 0, &memory)
                     : SQLITE_ERROR;
  if (rc != SQLITE_OK || memory == nullptr)
    throw handle.error("its wal-index", rc == SQLITE_OK ? SQLITE_CANTOPEN : rc);
  memory_ = static_cast<const volatile std::uint32_t*>(memory);
}

// Writers change the second copy first, then the first: two equal copies are one whole state.
std::optional<WalIndexHeader> WalIndex::header() const noexcept {
  const WalIndexHeader first = copy(memory_);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const WalIndexHeader second = copy(memory_ + kHeaderWords);
  if (!(first == second) || first.initialised == 0 || first.version != kWalIndexVersion)
    return std::nullopt;
  WalChecksum sum;
  char bytes[sizeof first];
  std::memcpy(bytes, &first, sizeof first);
  sum.add({bytes, sizeof first - 8}, false);
  if (sum.first != first.checksum[0] || sum.second != first.checksum[1]) return std::nullopt;
  return first;
}

std::uint32_t WalIndex::backfilled() const noexcept {
  return __atomic_load_n(memory_ + kBackfillWord, __ATOMIC_RELAXED);
}

}  // namespace cluster::sqlite
