#include "sqlite/wal_file.h"

#include <algorithm>

#include <fcntl.h>
#include <sys/stat.h>

#include "cluster/error.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kReadSize = 256 * 1024;

}  // namespace

WalFile::WalFile(const std::string& database, std::uint32_t page_size)
    : path_(database + "-wal"), page_size_(page_size) {}

void WalFile::open() {
  if (file_) return;
  file_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_) throw file_error("open of", path_);
}

std::uint64_t WalFile::size() const noexcept {
  struct stat info{};
  if (!file_ || ::fstat(file_.get(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.st_size);
}

void WalFile::read(std::int64_t offset, char* into, std::size_t size) {
  open();
  const std::size_t done = read_up_to(file_.get(), into, size, offset, path_);
  if (done < size)
    throw Error(Errc::corrupt, "read of " + path_ + " at byte " +
                                   std::to_string(offset + static_cast<std::int64_t>(done)) +
                                   ": it ends before that");
}

void WalFile::visit_frames(const WalIndexHeader& header, const WalPosition& from,
                           const std::function<void(const Frame&)>& visit) {
  if (from.frame >= header.max_frame) return;
  const std::size_t frame_size = kWalFrameHeaderSize + page_size_;
  const bool big_endian_words = header.big_endian_words != 0;
  const WalSalts salts = header.salts();
  Frame frame{.end = {salts, from.frame, from.checksum}};
  if (from.frame == 0) {
    char bytes[kWalHeaderSize];
    read(0, bytes, sizeof bytes);
    const WalHeader wal = wal_header_from({bytes, sizeof bytes});
    if (wal.salts != salts || wal.page_size != page_size_)
      throw Error(Errc::corrupt, path_ + ": its header is not that of the wal-index");
    frame.end.checksum = wal.checksum;
  }
  const std::size_t most = std::max<std::size_t>(1, kReadSize / frame_size);
  std::string buffer;
  while (frame.end.frame < header.max_frame) {
    const std::size_t count = std::min<std::size_t>(most, header.max_frame - frame.end.frame);
    buffer.resize(count * frame_size);
    read(wal_frame_offset(frame.end.frame + 1, page_size_), buffer.data(), buffer.size());
    for (std::size_t i = 0; i < count; ++i) {
      const std::string_view bytes = std::string_view(buffer).substr(i * frame_size, frame_size);
      const auto head = bytes.substr(0, kWalFrameHeaderSize);
      frame.content = bytes.substr(kWalFrameHeaderSize);
      const auto found = wal_frame_header_from(head);
      if (!wal_frame_follows(found, head, frame.content, salts, big_endian_words,
                             frame.end.checksum))
        throw Error(Errc::corrupt, path_ + ": frame " + std::to_string(frame.end.frame + 1) +
                                       " of " + std::to_string(header.max_frame) +
                                       " has a wrong checksum: the disk or another program has "
                                       "changed it");
      ++frame.end.frame;
      frame.page = found.page;
      frame.commit = found.commit;
      visit(frame);
    }
  }
  // What the index counts ends with a transaction.
  if (frame.commit == 0 || frame.end.checksum != header.last_checksum())
    throw Error(Errc::corrupt, path_ + ": frame " + std::to_string(frame.end.frame) +
                                   " does not end a transaction, as the wal-index says it does");
}

}  // namespace cluster::sqlite
