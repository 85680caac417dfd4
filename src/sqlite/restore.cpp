#include "sqlite/restore.h"

#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kWriteSize = 1024 * 1024;
constexpr PageNumber kProgressPages = 4096;

Error failed(const std::string& what, const std::string& path) {
  return Error(Errc::system, what + " " + path + ": " + std::generic_category().message(errno));
}

// Writes ascending pages at their places, many at a time.
class PageWriter {
 public:
  PageWriter(const std::string& path, std::uint32_t page_size)
      : path_(path), page_size_(page_size) {
    file_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file_) throw failed("creation of", path);
  }

  void put(PageNumber number, std::string_view page) {
    if (number != next_ || buffer_.size() >= kWriteSize) flush();
    if (buffer_.empty()) begin_ = number;
    buffer_ += page;
    next_ = number + 1;
  }

  void finish(PageNumber pages) {
    flush();
    if (::ftruncate(file_.get(), static_cast<off_t>(pages) * page_size_) != 0)
      throw failed("write to", path_);
    if (::fsync(file_.get()) != 0) throw failed("sync of", path_);
  }

 private:
  void flush() {
    std::size_t done = 0;
    const off_t at = static_cast<off_t>(begin_ - 1) * page_size_;
    while (done < buffer_.size()) {
      const ssize_t n = ::pwrite(file_.get(), buffer_.data() + done, buffer_.size() - done,
                                 at + static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw failed("write to", path_);
      done += static_cast<std::size_t>(n);
    }
    buffer_.clear();
  }

  const std::string path_;
  const std::uint32_t page_size_;
  UniqueFd file_;
  std::string buffer_;
  PageNumber begin_ = 1, next_ = 1;
};

void sync_folder_of(const std::string& path) {
  const auto folder = std::filesystem::absolute(path).parent_path().string();
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) throw failed("sync of folder", folder);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw failed("removal of", path);
}

}  // namespace

DatabaseState write_database(const std::string& path, const std::vector<LtxDecoder*>& files,
                             const RestoreProgress& progress) {
  if (files.empty() || !files.front()->header().snapshot())
    throw Error(Errc::invalid_argument,
                "restore of " + path + ": it needs a snapshot to begin with");
  const std::uint32_t page_size = files.front()->header().page_size;
  DatabaseState state{files.back()->header().max_txid, page_size, PageChecksums(page_size)};
  const PageNumber pages = files.back()->header().commit;
  PageWriter out(path, page_size);
  try {
    merge_pages(files, [&](PageNumber number, std::string_view page) {
      out.put(number, page);
      state.pages.set(number, page);
      if (progress && number % kProgressPages == 0) progress(number, pages);
    });
    state.pages.resize(pages);
    const auto& last = *files.back();
    if (last.header().checksums && last.trailer().post_apply != state.pages.database())
      throw Error(Errc::corrupt, "restore of " + path +
                                     ": the result has not the checksum that the last file names");
    out.finish(pages);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
  if (progress) progress(pages, pages);
  return state;
}

void replace_database(const std::string& from, const std::string& path) {
  // First the old log and its index: with the new file they would be mistaken for its own.
  remove_file(path + "-wal");
  remove_file(path + "-shm");
  sync_folder_of(path);
  if (::rename(from.c_str(), path.c_str()) != 0) throw failed("renaming to " + path + " of", from);
  sync_folder_of(path);
}

}  // namespace cluster::sqlite
