#include "sqlite/left_over.h"

#include <algorithm>
#include <string>

#include <sqlite3.h>

#include "sqlite/page_hash.h"

namespace cluster::sqlite {
namespace {

/// So often the WAL may have been begun anew since.
constexpr std::uint32_t kMostRuns = 1'000'000;

void read(sqlite3_file* file, std::int64_t offset, char* into, std::size_t size) {
  // Zeros are put behind the end of the file.
  const int rc = file->pMethods->xRead(file, into, static_cast<int>(size), offset);
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ)
    throw Error(Errc::system,
                "read of a database at byte " + std::to_string(offset) + ": " + sqlite3_errstr(rc));
}

std::int64_t size_of(sqlite3_file* file) {
  sqlite3_int64 size = 0;
  if (const int rc = file->pMethods->xFileSize(file, &size); rc != SQLITE_OK)
    throw Error(Errc::system, std::string("size of a database: ") + sqlite3_errstr(rc));
  return size;
}

/// The hash of the database as the file has it without its WAL.
std::uint64_t file_hash(const Handle& handle, std::uint32_t page_size) {
  const auto pages = static_cast<PageNumber>(size_of(handle.database_file()) / page_size);
  std::string page(page_size, '\0');
  std::uint64_t sum = 0;
  for (PageNumber n = 1; n <= pages; ++n) {
    if (n == lock_page(page_size)) continue;
    handle.read_file(n, page);
    sum += page_hash(n, page);
  }
  return PageHashes::not_zero(sum);
}

/// The WAL has the frame at which the record ends, and so all that is before it.
bool has_frame(const Handle& handle, const PositionRecord& noted) {
  if (noted.end.frame == 0) return true;
  char bytes[kWalFrameHeaderSize];
  read(handle.wal_file(), wal_frame_offset(noted.end.frame, noted.page_size), bytes, sizeof bytes);
  const auto frame = wal_frame_header_from({bytes, sizeof bytes});
  return frame.salts == noted.end.salts && frame.checksum == noted.end.checksum;
}

struct Behind {
  std::vector<WalFrameHeader> frames{};
  bool all = true;  ///< nothing else was written since
};

/// What the run before this one has behind the frame of `noted`; nothing when that frame was
/// overwritten, or is of an earlier run, or when the file may have been cut short behind it, as
/// `PRAGMA journal_size_limit` does when a run begins.
std::optional<std::vector<WalFrameHeader>> rest_of_run_before(const Handle& handle,
                                                              const WalIndexHeader& header,
                                                              const PositionRecord& noted) {
  if (header.salts().first - noted.end.salts.first != 1 || header.max_frame >= noted.end.frame)
    return std::nullopt;
  std::string bytes(kWalFrameHeaderSize + noted.page_size, '\0');
  const std::string_view head = std::string_view(bytes).substr(0, kWalFrameHeaderSize);
  const auto read_frame = [&](std::uint32_t number) {
    read(handle.wal_file(), wal_frame_offset(number, noted.page_size), bytes.data(), bytes.size());
    return wal_frame_header_from(head);
  };
  const WalFrameHeader last = read_frame(noted.end.frame);
  if (last.salts != noted.end.salts || last.checksum != noted.end.checksum) return std::nullopt;
  WalChecksum checksum = last.checksum;
  std::vector<WalFrameHeader> frames;
  std::size_t committed = 0;
  for (std::uint32_t number = noted.end.frame + 1;; ++number) {
    const WalFrameHeader frame = read_frame(number);
    if (!wal_frame_follows(frame, head, std::string_view(bytes).substr(kWalFrameHeaderSize),
                           noted.end.salts, header.big_endian_words != 0, checksum)) {
      const auto end = size_of(handle.wal_file());
      const auto here = wal_frame_offset(number, noted.page_size);
      if (here < end && end < here + static_cast<std::int64_t>(bytes.size())) return std::nullopt;
      break;
    }
    frames.push_back(frame);
    if (frame.commit != 0) committed = frames.size();
  }
  frames.resize(committed);
  return frames;
}

/// What was written to the database since `noted`, as the WAL has it.
std::optional<Behind> written_since(const Handle& handle, const WalIndexHeader& header,
                                    const PositionRecord& noted,
                                    std::optional<std::uint64_t> in_file) {
  if (!noted.leading || noted.page_size != header.page_size() || header.max_frame == 0)
    return std::nullopt;
  Behind behind;
  std::uint32_t frame = 0;
  const std::uint32_t runs = header.salts().first - noted.end.salts.first;
  if (noted.end.salts == header.salts()) {
    frame = noted.end.frame;
    if (frame > header.max_frame || !has_frame(handle, noted)) return std::nullopt;
  } else if ((in_file ? *in_file : file_hash(handle, noted.page_size)) != noted.hash) {
    if (noted.end.frame == 0 || runs == 0 || runs > kMostRuns) return std::nullopt;
    auto before = rest_of_run_before(handle, header, noted);
    behind.all = before.has_value();
    if (before) behind.frames = std::move(*before);
  }
  char bytes[kWalFrameHeaderSize];
  while (++frame <= header.max_frame) {
    read(handle.wal_file(), wal_frame_offset(frame, noted.page_size), bytes, sizeof bytes);
    behind.frames.push_back(wal_frame_header_from({bytes, sizeof bytes}));
  }
  return behind;
}

}  // namespace

std::string to_text(const LeftOver& found) {
  return (found.at_least ? "at least " : "") + std::to_string(found.transactions);
}

std::optional<LeftOver> left_over(const Handle& handle, const WalIndexHeader& header,
                                  const PositionRecord& noted,
                                  std::optional<std::uint64_t> in_file) {
  const auto behind = written_since(handle, header, noted, in_file);
  if (!behind) return std::nullopt;
  const auto commits = std::count_if(behind->frames.begin(), behind->frames.end(),
                                     [](const WalFrameHeader& f) { return f.commit != 0; });
  const LeftOver found{static_cast<Txid>(commits), !behind->all};
  return found.transactions == 0 ? std::nullopt : std::optional(found);
}

std::optional<std::vector<PageNumber>> pages_left_over(const Handle& handle,
                                                       const WalIndexHeader& header,
                                                       const PositionRecord& noted,
                                                       std::optional<std::uint64_t> in_file) {
  const auto behind = written_since(handle, header, noted, in_file);
  if (!behind || !behind->all) return std::nullopt;
  std::vector<PageNumber> pages;
  for (const auto& frame : behind->frames) pages.push_back(frame.page);
  return pages;
}

}  // namespace cluster::sqlite
