#include "sqlite/commit_socket.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <thread>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/log.h"
#include "sqlite/commit_protocol.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr int kBacklog = 512;
constexpr int kMostSwept = 4'096;  // entries of the folder that are looked at
// Another node that looks for what dead ones left holds a lock for microseconds.
constexpr int kLockTries = 50;
constexpr std::chrono::milliseconds kLockPause{2};
constexpr std::string_view kSocketEnd = ".sock", kLockEnd = ".lock";

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool is_linked(int folder, const std::string& name, int fd) {
  struct stat there{}, open{};
  return ::fstatat(folder, name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         ::fstat(fd, &open) == 0 && same_file(there, open);
}

/// The folder, made if it is missing. Throws Error{system}.
UniqueFd open_folder(const CommitFolder& folder) {
  const bool made = ::mkdir(folder.path.c_str(), 0755) == 0;
  if (!made && errno != EEXIST) throw file_error("creation of folder", folder.path);
  UniqueFd fd(::open(folder.path.c_str(),
                     O_RDONLY | O_DIRECTORY | O_CLOEXEC | (folder.checked ? O_NOFOLLOW : 0)));
  struct stat found{};
  if (!fd || ::fstat(fd.get(), &found) != 0) throw file_error("folder", folder.path);
  // Whatever the umask: other users' programs may have a database here.
  if (made && ::fchmod(fd.get(), 0755) != 0) throw file_error("mode of folder", folder.path);
  if (!is_safe(folder, found))
    throw Error(Errc::permission_denied,
                "folder " + folder.path +
                    " must belong to the user of this node, and nobody else " + "may write there");
  if ((found.st_mode & S_IWOTH) != 0)
    throw Error(Errc::permission_denied,
                "folder " + folder.path + ": everybody may write there (chmod o-w)");
  // A hint only: cleaners of temporary files leave out a folder that is locked.
  ::flock(fd.get(), LOCK_SH | LOCK_NB);
  return fd;
}

/// Removes the socket of a dead node, whose lock nobody holds. `lock`: its name.
void sweep_one(int folder, const std::string& lock) {
  const UniqueFd fd(::openat(folder, lock.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 || !is_linked(folder, lock, fd.get()))
    return;
  const std::string socket =
      lock.substr(0, lock.size() - kLockEnd.size()) + std::string(kSocketEnd);
  ::unlinkat(folder, socket.c_str(), 0);
  ::unlinkat(folder, lock.c_str(), 0);
}

void sweep_dead(int folder, const std::string& own_lock) {
  const UniqueFd again(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(
      again ? ::fdopendir(::dup(again.get())) : nullptr, ::closedir);
  if (!entries) return;
  int seen = 0;
  while (const dirent* entry = ::readdir(entries.get())) {
    if (++seen > kMostSwept) return;
    const std::string name = entry->d_name;
    if (name != own_lock && name.ends_with(kLockEnd)) sweep_one(folder, name);
  }
}

}  // namespace

CommitSocket::CommitSocket(const std::string& database) : database_(database) {
  std::string why;
  if (!check_commit_folder_variable(why)) throw Error(Errc::system, why);
  name_ = commit_socket_name(database_);
  if (name_.empty()) throw file_error("folder of database", database_);
  for (const auto& folder : commit_folders_of_node()) {
    try {
      folder_fd_ = open_folder(folder);
      folder_ = folder.path;
      break;
    } catch (const Error& error) {
      why += (why.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (!folder_fd_)
    throw Error(Errc::system, "no folder for the socket of database " + database_ + ": " + why +
                                  ". Name one in " + kCommitFolderVariable);
  path_ = folder_ + "/" + name_;
  const std::string lock_name =
      name_.substr(0, name_.size() - kSocketEnd.size()) + std::string(kLockEnd);
  lock(lock_name);
  try {
    sweep_dead(folder_fd_.get(), lock_name);
    make();
  } catch (...) {
    remove();
    throw;
  }
}

CommitSocket::~CommitSocket() { remove(); }

void CommitSocket::lock(const std::string& name) {
  for (int tries = 0; tries < kLockTries; ++tries) {
    if (tries > 0) std::this_thread::sleep_for(kLockPause);
    lock_.reset(::openat(folder_fd_.get(), name.c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!lock_) throw file_error("lock", folder_ + "/" + name);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) throw file_error("lock", folder_ + "/" + name);
    } else if (is_linked(folder_fd_.get(), name, lock_.get())) {
      return;
    }
  }
  lock_.reset();
  throw Error(Errc::unavailable,
              "socket " + path_ + ": another process serves this database: is it a node too?");
}

// Nobody can reach it before it has its mode and owner.
void CommitSocket::make() {
  commit_protocol::SocketAddress at;
  if (!commit_protocol::make_address(path_, at)) throw file_error("socket", path_);
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_) throw file_error("socket", path_);
  if (::unlinkat(folder_fd_.get(), name_.c_str(), 0) != 0 && errno != ENOENT)
    throw file_error("removal of an old socket", path_);
  if (::fchmod(listener_.get(), 0600) != 0 ||
      ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&at.address), at.size) != 0)
    throw file_error("socket", path_);
  struct stat file{};
  if (::fstatat(folder_fd_.get(), name_.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0)
    throw file_error("socket", path_);
  inode_ = file.st_ino;
  if (::listen(listener_.get(), kBacklog) != 0) throw file_error("socket", path_);
  set_access();
}

void CommitSocket::remove() {
  if (!lock_) return;
  struct stat file{};
  if (inode_ != 0 && ::fstatat(folder_fd_.get(), name_.c_str(), &file, AT_SYMLINK_NOFOLLOW) == 0 &&
      file.st_ino == inode_)
    ::unlinkat(folder_fd_.get(), name_.c_str(), 0);
  const std::string lock_name =
      name_.substr(0, name_.size() - kSocketEnd.size()) + std::string(kLockEnd);
  if (is_linked(folder_fd_.get(), lock_name, lock_.get()))
    ::unlinkat(folder_fd_.get(), lock_name.c_str(), 0);
  lock_.reset();
}

bool CommitSocket::in_place() {
  struct stat file{};
  if (commit_socket_name(database_) != name_ || ::lstat(path_.c_str(), &file) != 0 ||
      file.st_ino != inode_)
    return false;
  set_access();
  return true;
}

// By a descriptor: in a folder that was named, others may be able to put a link in its place.
void CommitSocket::set_access() {
  struct stat like{}, is{};
  mode_t mode = 0600;
  if (::stat(database_.c_str(), &like) == 0)
    mode = like.st_mode & 0666;
  else if (::stat(std::filesystem::path(database_).parent_path().c_str(), &like) != 0)
    throw file_error("folder of", database_);
  const UniqueFd file(::openat(folder_fd_.get(), name_.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file || ::fstat(file.get(), &is) != 0) throw file_error("socket", path_);
  if (is.st_ino != inode_) throw Error(Errc::unavailable, "socket " + path_ + " was replaced");
  if ((is.st_uid != like.st_uid || is.st_gid != like.st_gid) &&
      ::fchownat(file.get(), "", like.st_uid, like.st_gid, AT_EMPTY_PATH) != 0) {
    const std::string why = std::strerror(errno);
    if (told_ != why)
      log::warn("commit_socket_owner",
                {{"socket", path_},
                 {"why", why},
                 {"means", "programs of the user who owns the database may not reach it"}});
    told_ = why;
  }
  if ((is.st_mode & 0777) != mode &&
      ::chmod(("/proc/self/fd/" + std::to_string(file.get())).c_str(), mode) != 0)
    throw file_error("mode of socket", path_);
}

}  // namespace cluster::sqlite
