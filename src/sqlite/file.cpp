#include "sqlite/file.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cluster::sqlite {

Error file_error(const std::string& what, const std::string& path) {
  return Error(Errc::system, what + " " + path + ": " + std::generic_category().message(errno));
}

void write_all(int fd, std::string_view bytes, std::int64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw file_error("write to", path);
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += n;
  }
}

std::size_t read_up_to(int fd, char* into, std::size_t size, std::int64_t offset,
                       const std::string& path) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n =
        ::pread(fd, into + done, size - done, offset + static_cast<std::int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw file_error("read of", path);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw file_error("removal of", path);
}

void sync_folder_of(const std::string& path) {
  const auto folder = std::filesystem::absolute(path).parent_path().string();
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) throw file_error("sync of folder", folder);
}

std::uint64_t inode_of(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

std::string real_path(const std::string& path) {
  namespace fs = std::filesystem;
  constexpr int kMostLinks = 40;
  std::error_code failed;
  fs::path file = fs::absolute(path);
  // weakly_canonical() does not follow a link that leads to nothing yet.
  for (int links = 0; links < kMostLinks && fs::is_symlink(file, failed); ++links)
    file = file.parent_path() / fs::read_symlink(file);
  const auto real = fs::weakly_canonical(file, failed);
  return (failed ? file : real).string();
}

void take_access(const std::string& file, const std::string& like) {
  struct stat wanted{};
  if (::stat(like.c_str(), &wanted) == 0) {
    if (::chmod(file.c_str(), wanted.st_mode & 0777) != 0) throw file_error("mode of", file);
  } else {
    const auto folder = std::filesystem::absolute(like).parent_path();
    if (::stat(folder.c_str(), &wanted) != 0) throw file_error("folder", folder);
  }
  if (::geteuid() == 0 && ::chown(file.c_str(), wanted.st_uid, wanted.st_gid) != 0)
    throw file_error("owner of", file);
}

UniqueFd temporary_file(const std::string& folder) {
  const std::string where = folder.empty() ? "." : folder;
  UniqueFd file(::open(where.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file) return file;
  // A file system without such files.
  std::string name = where + "/.cluster-XXXXXX";
  file = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (!file) throw file_error("creation of a temporary file in", where);
  ::unlink(name.c_str());
  return file;
}

}  // namespace cluster::sqlite
