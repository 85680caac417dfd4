#include "sqlite/position_log.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/error.h"
#include "sqlite/bytes.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kSlot = 8 + kPositionRecordSize + 8;  // number, record, checksum
constexpr std::string_view kMagic{"CCLPOS\0\2", 8};         // the last byte: version

std::string with_checksum(std::string bytes) {
  bytes.resize(kSlot - 8);
  Crc64 crc;
  crc.add(bytes);
  append_be(bytes, crc.value());
  return bytes;
}

bool intact(std::string_view slot) {
  Crc64 crc;
  crc.add(slot.substr(0, kSlot - 8));
  return crc.value() == get_be<std::uint64_t>(slot.data() + kSlot - 8);
}

std::string bytes_of(std::uint64_t number, const PositionRecord& record) {
  std::string out;
  append_be(out, number);
  append_record(out, record);
  return with_checksum(std::move(out));
}

}  // namespace

UniqueFd open_locked(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file) throw file_error("open of", path);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno != EWOULDBLOCK) throw file_error("lock of", path);
  throw Error(Errc::unavailable, path +
                                     " is locked: another process replicates this database; give "
                                     "each node a database of its own");
}

PositionLog::PositionLog(const std::string& path) : path_(path) {
  file_ = open_locked(path);
  std::string bytes((kRecords + 1) * kSlot, '\0');
  const ssize_t n = ::pread(file_.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) throw file_error("read of", path);
  bytes.resize(static_cast<std::size_t>(n) / kSlot * kSlot);
  const std::string_view all = bytes;
  const bool known = all.size() >= kSlot && all.starts_with(kMagic) && intact(all.substr(0, kSlot));
  if (all.size() >= kSlot && all.starts_with(kMagic.substr(0, 7)) && all[7] > kMagic[7])
    throw Error(Errc::incompatible,
                path + " was written by a newer version of cpp-cluster: upgrade this one");
  if (!known) {
    clear();
    return;
  }
  history_ = get_be<std::uint64_t>(all.data() + 8);
  earlier_ = all[16] != 0;
  all_from_stream_ = get_be<std::uint64_t>(all.data() + 17);
  const FormerPlace former{
      get_be<std::uint64_t>(all.data() + 25), get_be<std::uint64_t>(all.data() + 33),
      get_be<std::uint64_t>(all.data() + 41), get_be<std::uint64_t>(all.data() + 49)};
  if (former.history != 0) former_ = former;
  std::map<std::uint64_t, PositionRecord> found;
  for (std::size_t at = kSlot; at < all.size(); at += kSlot) {
    const auto slot = all.substr(at, kSlot);
    const auto number = get_be<std::uint64_t>(slot.data());
    if (number != 0 && intact(slot)) found.emplace(number, record_from(slot.data() + 8));
  }
  for (const auto& [number, record] : found) records_.push_back(record);
  if (!found.empty()) count_ = found.rbegin()->first;
}

void PositionLog::write_header() {
  std::string bytes(kMagic);
  append_be(bytes, history_);
  bytes.push_back(earlier_ ? '\1' : '\0');
  append_be(bytes, all_from_stream_);
  const FormerPlace former = former_.value_or(FormerPlace{});
  for (const auto value : {former.history, former.epoch, former.txid, former.hash})
    append_be(bytes, value);
  write_all(file_.get(), with_checksum(std::move(bytes)), 0, path_);
}

void PositionLog::set_history(std::uint64_t history, std::optional<FormerPlace> former) {
  if (history == history_) return;
  earlier_ = ever_replicated();
  former_ = former;
  write_header();
  drop_records();
  all_from_stream_ = 0;
  history_ = history;
  write_header();
  if (::fdatasync(file_.get()) != 0) throw file_error("sync of", path_);
}

// A file that is none of ours, or is damaged.
void PositionLog::clear() {
  if (::ftruncate(file_.get(), 0) != 0) throw file_error("truncation of", path_);
  drop_records();
  write_header();
}

void PositionLog::drop_records() {
  if (::ftruncate(file_.get(), kSlot) != 0) throw file_error("truncation of", path_);
  // Room for all of it now, so that a full disk does not stop it later.
  if (const int rc = ::posix_fallocate(file_.get(), 0, (kRecords + 1) * kSlot); rc != 0) {
    errno = rc;
    throw file_error("making room for", path_);
  }
  count_ = 0;
  records_.clear();
}

void PositionLog::note_all_from_stream(std::uint64_t inode) {
  if (inode == all_from_stream_) return;
  all_from_stream_ = inode;
  write_header();
}

void PositionLog::forget_all_from_stream() {
  if (all_from_stream_ == 0) return;
  const std::uint64_t was = std::exchange(all_from_stream_, 0);
  try {
    write_header();
    if (::fdatasync(file_.get()) != 0) throw file_error("sync of", path_);
  } catch (...) {
    all_from_stream_ = was;
    throw;
  }
}

void PositionLog::append(const PositionRecord& record) {
  const std::uint64_t number = count_ + 1;
  write_all(file_.get(), bytes_of(number, record),
            static_cast<std::int64_t>(kSlot * (1 + count_ % kRecords)), path_);
  count_ = number;
  if (records_.size() == kRecords) records_.pop_front();
  records_.push_back(record);
}

std::uint64_t PositionLog::sequence_before(Txid txid) const {
  auto it = std::find_if(records_.rbegin(), records_.rend(), [&](const PositionRecord& r) {
    return r.sequence != 0 && r.txid <= txid;
  });
  return it == records_.rend() ? 0 : it->sequence;
}

bool PositionLog::has_stored(Txid txid, std::uint64_t hash) const {
  return std::any_of(records_.begin(), records_.end(), [&](const PositionRecord& r) {
    return r.txid == txid && r.hash == hash && r.sequence != 0;
  });
}

bool PositionLog::at_least(Txid txid, std::uint64_t hash) const {
  return std::any_of(records_.begin(), records_.end(), [&](const PositionRecord& r) {
    return r.txid == txid && r.hash == hash && r.at_least;
  });
}

std::optional<PositionRecord> PositionLog::find(std::uint64_t hash, std::uint32_t page_size,
                                                const WalPosition& end) const {
  std::optional<PositionRecord> elsewhere;
  for (auto it = records_.rbegin(); it != records_.rend(); ++it) {
    if (it->hash != hash || it->page_size != page_size) continue;
    if (end.frame > 0 && it->end == end) return *it;
    if (!elsewhere) elsewhere = *it;
  }
  return elsewhere;
}

}  // namespace cluster::sqlite
