#include "sqlite/restore.h"

#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/unique_fd.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kWriteSize = 1024 * 1024;
constexpr PageNumber kProgressPages = 4096;

// Writes ascending pages at their places, many at a time.
class PageWriter {
 public:
  PageWriter(const std::string& path, std::uint32_t page_size)
      : path_(path), page_size_(page_size) {
    file_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file_) throw file_error("creation of", path);
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
      throw file_error("write to", path_);
    if (::fsync(file_.get()) != 0) throw file_error("sync of", path_);
  }

 private:
  void flush() {
    write_all(file_.get(), buffer_, std::int64_t{begin_ - 1} * page_size_, path_);
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
  if (!fd || ::fsync(fd.get()) != 0) throw file_error("sync of folder", folder);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw file_error("removal of", path);
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
  if (::rename(from.c_str(), path.c_str()) != 0)
    throw file_error("renaming to " + path + " of", from);
  sync_folder_of(path);
}

}  // namespace cluster::sqlite
