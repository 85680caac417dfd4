#include "sqlite/hash_file.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/check.h"
#include "sqlite/bytes.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr std::string_view kHashMagic{"CCLHSH\0\2", 8};  // the last byte: version
constexpr std::size_t kMarkSize = 136;
// Two marks take turns, each in a block of its own: one is whole whatever happens to the other.
constexpr std::int64_t kMarkPlaces[] = {0, 4096};
constexpr std::int64_t kHashesAt = 8192;
constexpr std::uint64_t kRoomStep = 1024 * 1024;
constexpr std::size_t kHashesAtOnce = 32 * 1024;
// Entries that are written with those around them, instead of with a call for each.
constexpr PageNumber kNear = 64;

std::string bytes_of(std::uint64_t number, const HashMark& m) {
  std::string out(kHashMagic);
  append_be(out, number);
  append_be(out, m.history);
  append_record(out, m.at);
  append_be(out, m.pages);
  append_be(out, m.file.device);
  append_be(out, m.file.inode);
  append_be(out, m.file.size);
  append_be(out, static_cast<std::uint64_t>(m.file.changed_ns));
  append_be(out, m.file.boot);
  out.resize(kMarkSize - 8);
  Crc64 crc;
  crc.add(out);
  append_be(out, crc.value());
  return out;
}

struct NumberedMark {
  std::uint64_t number = 0;
  HashMark mark{};
};

std::optional<NumberedMark> mark_from(std::string_view bytes) {
  if (bytes.size() != kMarkSize || !bytes.starts_with(kHashMagic)) return std::nullopt;
  Crc64 crc;
  crc.add(bytes.substr(0, kMarkSize - 8));
  if (crc.value() != get_be<std::uint64_t>(bytes.data() + kMarkSize - 8)) return std::nullopt;
  const char* at = bytes.data() + kHashMagic.size();
  const auto take = [&at]<typename T>(T& into) {
    into = get_be<T>(at);
    at += sizeof(T);
  };
  NumberedMark found;
  HashMark& m = found.mark;
  take(found.number);
  take(m.history);
  m.at = record_from(at);
  at += kPositionRecordSize;
  take(m.pages);
  take(m.file.device);
  take(m.file.inode);
  take(m.file.size);
  std::uint64_t changed = 0;
  take(changed);
  m.file.changed_ns = static_cast<std::int64_t>(changed);
  take(m.file.boot);
  if (found.number == 0 || !is_page_size(m.at.page_size)) return std::nullopt;
  return found;
}

// Up to `size` bytes: fewer at the file's end.
std::string read_at(int fd, std::int64_t offset, std::size_t size, const std::string& path) {
  std::string bytes(size, '\0');
  bytes.resize(read_up_to(fd, bytes.data(), size, offset, path));
  return bytes;
}

std::int64_t place_of(PageNumber number) { return kHashesAt + std::int64_t{number - 1} * 8; }

}  // namespace

std::optional<FileState> FileState::of(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return std::nullopt;
    throw file_error("state of", path);
  }
  return FileState{info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
                   std::int64_t{info.st_ctim.tv_sec} * 1'000'000'000 + info.st_ctim.tv_nsec};
}

bool FileState::unchanged(const std::optional<FileState>& now) const {
  if (!now || (boot != 0 && boot != this_boot())) return false;
  FileState then = *this;
  then.boot = now->boot;
  return then == *now;
}

std::uint64_t this_boot() {
  static const std::uint64_t boot = [] {
    const std::string path = "/proc/sys/kernel/random/boot_id";
    std::string id;
    std::ifstream file(path);
    if (!std::getline(file, id) || id.empty()) throw file_error("read of", path);
    Crc64 crc;
    crc.add(id);
    return std::max<std::uint64_t>(1, crc.value());
  }();
  return boot;
}

HashFile::HashFile(std::string path) : path_(std::move(path)) {
  file_ = UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file_) throw file_error("open of", path_);
  struct stat info{};
  if (::fstat(file_.get(), &info) != 0) throw file_error("state of", path_);
  room_ = static_cast<std::uint64_t>(info.st_size);
  for (const auto place : kMarkPlaces) {
    const auto found = mark_from(read_at(file_.get(), place, kMarkSize, path_));
    if (!found || found->number <= count_) continue;
    count_ = found->number;
    mark_ = found->mark;
  }
}

PageHashes HashFile::load() const {
  CLUSTER_CHECK(mark_.has_value());
  PageHashes hashes(mark_->at.page_size);
  hashes.resize(mark_->pages);
  for (PageNumber first = 1; first <= mark_->pages;) {
    const auto count = std::min<std::size_t>(kHashesAtOnce, mark_->pages - first + 1);
    const auto bytes = read_at(file_.get(), place_of(first), count * 8, path_);
    if (bytes.size() != count * 8)
      throw Error(Errc::corrupt, path_ + " ends before the hash of page " +
                                     std::to_string(first + bytes.size() / 8) + ": it is cut off");
    for (std::size_t i = 0; i < count; ++i)
      hashes.set(first + static_cast<PageNumber>(i), get_be<std::uint64_t>(bytes.data() + i * 8));
    first += static_cast<PageNumber>(count);
  }
  return hashes;
}

// Beforehand, so that a full disk is noticed before anything is written.
void HashFile::make_room(PageNumber pages) {
  const auto wanted = static_cast<std::uint64_t>(place_of(pages + 1));
  if (wanted <= room_) return;
  const std::uint64_t room = (wanted + kRoomStep - 1) / kRoomStep * kRoomStep;
  if (const int rc = ::posix_fallocate(file_.get(), 0, static_cast<off_t>(room)); rc != 0) {
    errno = rc;
    throw file_error("making room for", path_);
  }
  room_ = room;
}

void HashFile::note(const HashMark& mark, const PageHashes& all) {
  CLUSTER_CHECK(is_page_size(mark.at.page_size) && mark.pages == all.size());
  try {
    make_room(mark.pages);
    if (!mark_ || mark_->at.page_size != mark.at.page_size)
      for (PageNumber n = 1; n <= mark.pages; ++n) touched_.add(n);
    write_hashes(all);
    write_mark(mark);
    touched_.clear();
  } catch (...) {
    mark_.reset();
    throw;
  }
}

void HashFile::note_ahead(const PageHashes& all) {
  CLUSTER_CHECK(mark_.has_value());
  try {
    make_room(all.size());
    write_hashes(all);
    touched_.clear();
  } catch (...) {
    mark_.reset();
    throw;
  }
}

void HashFile::write_hashes(const PageHashes& all) {
  touched_.sort();
  const auto& changed = touched_.numbers();
  std::string bytes;
  for (std::size_t i = 0; i < changed.size() && changed[i] <= all.size();) {
    const PageNumber first = changed[i];
    PageNumber last = first;
    while (++i < changed.size() && changed[i] <= all.size() && changed[i] - last <= kNear &&
           changed[i] - first < kHashesAtOnce)
      last = changed[i];
    bytes.clear();
    for (PageNumber n = first; n <= last; ++n) append_be(bytes, all.at(n));
    write_all(file_.get(), bytes, place_of(first), path_);
  }
}

void HashFile::note_file(const FileState& file) {
  CLUSTER_CHECK(mark_.has_value());
  HashMark mark = *mark_;
  mark.file = file;
  try {
    write_mark(mark);
  } catch (...) {
    mark_.reset();
    throw;
  }
}

void HashFile::write_mark(const HashMark& mark) {
  const std::uint64_t number = count_ + 1;
  write_all(file_.get(), bytes_of(number, mark), kMarkPlaces[number % 2], path_);
  count_ = number;
  mark_ = mark;
}

void HashFile::forget() {
  mark_.reset();
  const std::string nothing(kMarkSize, '\0');
  for (const auto place : kMarkPlaces) write_all(file_.get(), nothing, place, path_);
  sync();
}

void HashFile::sync() const {
  if (::fdatasync(file_.get()) != 0) throw file_error("sync of", path_);
}

}  // namespace cluster::sqlite
