#include "sqlite/disk_pages.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/own_files.h"
#include "core/unique_fd.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

// What O_DIRECT asks of places, sizes and memory; no disk asks for more.
constexpr std::size_t kDirectBlock = 4096;

struct Freed {
  void operator()(char* memory) const { std::free(memory); }
};

class DiskFile {
 public:
  explicit DiskFile(const std::string& path) : path_(path) {
    file_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
    direct_ = static_cast<bool>(file_);
    // A file system that knows no such reading.
    if (!file_ && errno == EINVAL) file_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file_ && errno != ENOENT) throw file_error("open of", path);
  }
  explicit operator bool() const noexcept { return static_cast<bool>(file_); }

  std::uint64_t inode() const {
    struct stat info{};
    if (::fstat(file_.get(), &info) != 0) throw file_error("state of", path_);
    return info.st_ino;
  }

  /// Returns how many bytes there were, fewer at the file's end; or -1, and errno says why.
  ssize_t read(char* into, std::size_t size, std::uint64_t offset) {
    const std::uint64_t begin = offset / kDirectBlock * kDirectBlock;
    const std::size_t wanted =
        (offset + size - begin + kDirectBlock - 1) / kDirectBlock * kDirectBlock;
    make_room(wanted);
    const ssize_t got = read_blocks(wanted, begin);
    if (got < 0) return -1;
    const std::size_t before = offset - begin;
    if (static_cast<std::size_t>(got) <= before) return 0;
    const std::size_t found = std::min(size, static_cast<std::size_t>(got) - before);
    std::memcpy(into, buffer_.get() + before, found);
    return static_cast<ssize_t>(found);
  }

 private:
  void make_room(std::size_t size) {
    if (size <= room_) return;
    buffer_.reset(static_cast<char*>(std::aligned_alloc(kDirectBlock, size)));
    if (!buffer_) throw std::bad_alloc();
    room_ = size;
  }

  ssize_t read_blocks(std::size_t size, std::uint64_t begin) {
    std::size_t done = 0;
    while (done < size) {
      const ssize_t n = read_once(buffer_.get() + done, size - done, begin + done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return -1;
      done += static_cast<std::size_t>(n);
      // The file's end; what is behind it would not be at the beginning of a block.
      if (n == 0 || static_cast<std::size_t>(n) % kDirectBlock != 0) break;
    }
    return static_cast<ssize_t>(done);
  }

  ssize_t read_once(char* into, std::size_t size, std::uint64_t offset) {
    if (direct_) {
      const ssize_t n = ::pread(file_.get(), into, size, static_cast<off_t>(offset));
      if (n >= 0 || errno != EINVAL) return n;
      // It was opened for such reading, and refuses to be read so.
      direct_ = false;
      const int flags = ::fcntl(file_.get(), F_GETFL);
      if (flags < 0 || ::fcntl(file_.get(), F_SETFL, flags & ~O_DIRECT) != 0) return -1;
    }
    return read_through_cache(into, size, offset);
  }

  // What nobody had there before does not stay there.
  ssize_t read_through_cache(char* into, std::size_t size, std::uint64_t offset) {
    const iovec part{into, size};
    const ssize_t cached = ::preadv2(file_.get(), &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (cached == static_cast<ssize_t>(size)) return cached;
    const ssize_t n = ::pread(file_.get(), into, size, static_cast<off_t>(offset));
    ::posix_fadvise(file_.get(), static_cast<off_t>(offset), static_cast<off_t>(size),
                    POSIX_FADV_DONTNEED);
    return n;
  }

  const std::string path_;
  UniqueFd file_;
  bool direct_ = false;
  std::unique_ptr<char, Freed> buffer_;
  std::size_t room_ = 0;
};

void read_pages(DiskFile& file, DiskPages& pages) {
  const auto place = [&](std::size_t i) {
    return (std::uint64_t{pages.first} - 1 + i) * pages.page_size;
  };
  if (file.read(pages.bytes.data(), pages.bytes.size(), place(0)) ==
      static_cast<ssize_t>(pages.bytes.size()))
    return;
  // One by one: some of them may be there.
  for (std::size_t i = 0; i < pages.errors.size(); ++i) {
    char* into = pages.bytes.data() + i * pages.page_size;
    const ssize_t n = file.read(into, pages.page_size, place(i));
    if (n == static_cast<ssize_t>(pages.page_size)) continue;
    pages.errors[i] = n < 0 ? errno : kBehindTheEnd;
    std::memset(into, 0, pages.page_size);
  }
}

}  // namespace

DiskPages read_from_disk(const std::string& path, PageNumber first, PageNumber count,
                         std::uint32_t page_size) {
  DiskPages pages;
  pages.first = first;
  pages.page_size = page_size;
  pages.bytes.resize(std::size_t{count} * page_size);
  pages.errors.resize(count);
  with_own_files([&] {
    DiskFile file(path);
    if (!file) return;
    pages.inode = file.inode();
    read_pages(file, pages);
  });
  return pages;
}

}  // namespace cluster::sqlite
