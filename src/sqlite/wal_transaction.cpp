#include "sqlite/wal_transaction.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <sqlite3.h>

#include "core/check.h"
#include "sqlite/bytes.h"
#include "sqlite/shm_lock.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kMostPerWrite = 64 * 1024;  // SQLite's file refuses 128 KiB and more
// A segment: page numbers of its frames, then a hash table of 16-bit places in them. The first one
// begins with the header.
constexpr std::uint32_t kSlots = 8192;
constexpr std::uint32_t kFramesPerSegment = 4096;
constexpr std::uint32_t kIndexHeaderWords = 136 / 4;
constexpr std::uint32_t kFramesInFirst = kFramesPerSegment - kIndexHeaderWords;

std::uint32_t segment_of(std::uint32_t frame) {
  return (frame + kFramesPerSegment - kFramesInFirst - 1) / kFramesPerSegment;
}
std::uint32_t frames_before(std::uint32_t segment) {
  return segment == 0 ? 0 : kFramesInFirst + (segment - 1) * kFramesPerSegment;
}
std::uint32_t slot_of(PageNumber page) { return (page * 383) & (kSlots - 1); }

struct SegmentView {
  volatile std::uint32_t* pages;
  volatile std::uint16_t* slots;
  std::uint32_t frames;

  SegmentView(volatile std::uint32_t* memory, std::uint32_t number)
      : pages(memory + (number == 0 ? kIndexHeaderWords : 0)),
        slots(reinterpret_cast<volatile std::uint16_t*>(memory + kFramesPerSegment)),
        frames(number == 0 ? kFramesInFirst : kFramesPerSegment) {}
};

template <typename T>
void store(volatile T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

// Nobody changes it while this node keeps the writer lock.
WalIndexHeader own_header(const Handle& handle) {
  auto header = WalIndex(handle).header();
  if (!header) throw handle.error("its wal-index", SQLITE_CORRUPT);
  return *header;
}

// Readers take it when both copies are the same: the second one first.
void write_header(sqlite3_file* database, volatile std::uint32_t* memory, WalIndexHeader& header) {
  const WalChecksum sum = header.own_checksum();
  header.checksum[0] = sum.first;
  header.checksum[1] = sum.second;
  constexpr std::size_t kWords = sizeof header / 4;
  std::uint32_t words[kWords];
  std::memcpy(words, &header, sizeof header);
  for (std::size_t i = 0; i < kWords; ++i) store(memory + kWords + i, words[i]);
  database->pMethods->xShmBarrier(database);
  for (std::size_t i = 0; i < kWords; ++i) store(memory + i, words[i]);
  database->pMethods->xShmBarrier(database);
}

}  // namespace

WalTransaction::WalTransaction(WriterGuard& guard, std::uint32_t page_size)
    : handle_(guard.handle()),
      page_size_(page_size),
      database_(handle_.database_file()),
      wal_(handle_.wal_file()),
      header_(own_header(handle_)),
      frame_(header_.max_frame) {
  if (frame_ == 0) {
    begin_wal();
  } else {
    CLUSTER_CHECK(header_.page_size() == page_size_);
    salts_ = header_.salts();
    checksum_ = header_.last_checksum();
  }
  offset_ = wal_frame_offset(frame_ + 1, page_size_);
}

void WalTransaction::begin_wal() {
  std::uint32_t random[2];
  sqlite3_randomness(sizeof random, random);
  salts_ = {random[0], random[1]};
  header_.big_endian_words = 0;
  header_.set_page_size(page_size_);
  char bytes[kWalHeaderSize];
  checksum_ = put_wal_header(bytes, {.page_size = page_size_, .sequence = 1, .salts = salts_});
  const int rc = wal_->pMethods->xWrite(wal_, bytes, sizeof bytes, 0);
  if (rc != SQLITE_OK) throw handle_.error("write of its WAL", rc);
}

void WalTransaction::add(PageNumber number, std::string_view page) {
  CLUSTER_CHECK(page.size() == page_size_);
  if (held_back_ != 0) append_frame(held_back_, held_back_page_, 0);
  if (buffer_.size() >= kMostPerWrite) flush();
  held_back_ = number;
  held_back_page_.assign(page);
}

void WalTransaction::append_frame(PageNumber number, std::string_view page, PageNumber commit) {
  char head[kWalFrameHeaderSize];
  put_wal_frame_header(head, number, commit, salts_, page, header_.big_endian_words != 0,
                       checksum_);
  buffer_.append(head, sizeof head);
  buffer_.append(page);
  numbers_.push_back(number);
}

void WalTransaction::flush() {
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const std::size_t n = std::min(kMostPerWrite, buffer_.size() - done);
    const int rc = wal_->pMethods->xWrite(wal_, buffer_.data() + done, static_cast<int>(n),
                                          offset_ + static_cast<std::int64_t>(done));
    if (rc != SQLITE_OK) throw handle_.error("write of its WAL", rc);
    done += n;
  }
  offset_ += static_cast<std::int64_t>(done);
  buffer_.clear();
}

// Frame after frame goes into the same one.
volatile std::uint32_t* WalTransaction::segment(std::uint32_t number) {
  if (segment_ == nullptr || segment_number_ != number) {
    segment_ = map_wal_index(handle_, number, true);
    segment_number_ = number;
  }
  return segment_;
}

// What a writer that died has left in the index behind the frames that count.
void WalTransaction::forget_abandoned() {
  if (header_.max_frame == 0) return;
  const std::uint32_t number = segment_of(header_.max_frame);
  SegmentView view(segment(number), number);
  const std::uint32_t count = header_.max_frame - frames_before(number);
  for (std::uint32_t i = 0; i < kSlots; ++i)
    if (view.slots[i] > count) store(view.slots + i, std::uint16_t{0});
  for (std::uint32_t i = count; i < view.frames; ++i) store(view.pages + i, std::uint32_t{0});
}

void WalTransaction::add_to_index(std::uint32_t frame, PageNumber page) {
  const std::uint32_t number = segment_of(frame);
  SegmentView view(segment(number), number);
  const std::uint32_t place = frame - frames_before(number);  // from 1
  if (place == 1) {
    for (std::uint32_t i = 0; i < view.frames; ++i) store(view.pages + i, std::uint32_t{0});
    for (std::uint32_t i = 0; i < kSlots; ++i) store(view.slots + i, std::uint16_t{0});
  } else if (view.pages[place - 1] != 0) {
    forget_abandoned();
  }
  std::uint32_t slot = slot_of(page);
  for (std::uint32_t tries = 0; view.slots[slot] != 0; slot = (slot + 1) & (kSlots - 1))
    if (++tries > place) throw handle_.error("its wal-index", SQLITE_CORRUPT);
  store(view.pages + place - 1, page);
  __atomic_store_n(view.slots + slot, static_cast<std::uint16_t>(place), __ATOMIC_RELEASE);
}

// The last frame stays in memory until commit(): with it the transaction would count.
WalPosition WalTransaction::finish(PageNumber pages) {
  CLUSTER_CHECK(held_back_ != 0 && pages_ == 0);
  pages_ = pages;
  flush();
  append_frame(held_back_, held_back_page_, pages);
  return {salts_, frame_ + static_cast<std::uint32_t>(numbers_.size()), checksum_};
}

void WalTransaction::commit() {
  CLUSTER_CHECK(pages_ != 0);
  flush();
  for (PageNumber number : numbers_) add_to_index(++frame_, number);
  publish(pages_);
}

void WalTransaction::publish(PageNumber pages) {
  WalIndexHeader next = header_;
  next.version = kWalIndexVersion;
  next.initialised = 1;
  ++next.change;
  next.max_frame = frame_;
  next.pages = pages;
  next.frame_checksum[0] = checksum_.first;
  next.frame_checksum[1] = checksum_.second;
  next.salt_bytes[0] = big_endian(salts_.first);
  next.salt_bytes[1] = big_endian(salts_.second);
  write_header(database_, segment(0), next);
  header_ = next;
}

// As SQLite does it when a checkpoint has moved all (sqlite.org/walformat.html, "WAL-Index
// Format").
bool begin_wal_anew(WriterGuard& guard) {
  constexpr std::uint32_t kBackfilled = 96 / 4, kReadMarks = 100 / 4, kAttempted = 128 / 4;
  constexpr std::uint32_t kMarks = 5, kNotUsed = 0xffffffff;
  Handle& handle = guard.handle();
  const int rc =
      shm_lock(handle, kWalReadersLock, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE, kWalReaderLocks);
  if (rc == SQLITE_BUSY) return false;
  if (rc != SQLITE_OK) throw handle.error("locks of its WAL's readers", rc);
  const auto unlock = [&] {
    return shm_lock(handle, kWalReadersLock, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE,
                    kWalReaderLocks);
  };
  try {
    WalIndexHeader header = own_header(handle);
    auto* memory = map_wal_index(handle, 0, true);
    CLUSTER_CHECK(WalIndex(handle).backfilled() == header.max_frame);
    header.max_frame = 0;
    header.salt_bytes[0] = big_endian(big_endian(header.salt_bytes[0]) + 1);
    sqlite3_randomness(sizeof header.salt_bytes[1], &header.salt_bytes[1]);
    write_header(handle.database_file(), memory, header);
    store(memory + kBackfilled, std::uint32_t{0});
    store(memory + kAttempted, std::uint32_t{0});
    store(memory + kReadMarks + 1, std::uint32_t{0});
    for (std::uint32_t i = 2; i < kMarks; ++i) store(memory + kReadMarks + i, kNotUsed);
  } catch (...) {
    unlock();
    throw;
  }
  if (const int code = unlock(); code != SQLITE_OK) throw handle.error("locks of readers", code);
  return true;
}

}  // namespace cluster::sqlite
