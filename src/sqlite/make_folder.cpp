#include "sqlite/make_folder.h"

#include <cerrno>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>

#include "core/log.h"
#include "core/unique_fd.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr mode_t kFolderMode = 0750;
constexpr std::size_t kUserBytes = std::size_t{64} * 1024;

using FolderOwner = std::pair<uid_t, gid_t>;

/// Nothing: this process' own user.
std::optional<FolderOwner> owner_of(const std::string& user) {
  if (user.empty() || ::geteuid() != 0) return std::nullopt;
  std::vector<char> buffer(kUserBytes);
  passwd entry{};
  passwd* found = nullptr;
  errno = ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found != nullptr) return FolderOwner(entry.pw_uid, entry.pw_gid);
  if (errno != 0) throw file_error("look-up of user", user);
  throw Error(Errc::invalid_argument,
              "unknown user \"" + user + "\": create it, or correct `process.user`");
}

Error can_not(const std::string& folder) {
  const int code = errno;
  return Error(code == ENOTDIR ? Errc::invalid_argument : Errc::system,
               "the database's folder " + folder +
                   " is not there and can't be made: " + std::generic_category().message(code) +
                   "; make it, or correct the path in `sqlite`");
}

// By descriptors that follow no links: who owns the folder above may put one in the new one's
// place, and what that leads to must not be given away.
UniqueFd make_one(int above, const std::string& name, const std::optional<FolderOwner>& owner,
                  const std::string& folder) {
  const bool made = ::mkdirat(above, name.c_str(), kFolderMode) == 0;
  if (!made && errno != EEXIST) throw can_not(folder);
  UniqueFd fd(::openat(above, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found{};
  if (!fd || ::fstat(fd.get(), &found) != 0) throw can_not(folder);
  if (!made || found.st_uid != ::geteuid()) return fd;
  if (::fchmod(fd.get(), kFolderMode) != 0) throw file_error("mode of folder", folder);
  if (owner && ::fchown(fd.get(), owner->first, owner->second) != 0)
    throw file_error("owner of folder", folder);
  log::info("database_folder_made", {{"path", folder}});
  return fd;
}

}  // namespace

void make_folder(const std::string& folder, const std::string& user) {
  namespace fs = std::filesystem;
  struct stat found{};
  if (::stat(folder.c_str(), &found) == 0) {
    if (S_ISDIR(found.st_mode)) return;
    errno = ENOTDIR;
    throw can_not(folder);
  }
  if (errno != ENOENT) throw can_not(folder);
  std::vector<std::string> missing;
  fs::path at = folder;
  while (::stat(at.c_str(), &found) != 0) {
    if (errno != ENOENT || !at.has_relative_path()) throw can_not(folder);
    missing.push_back(at.filename());
    at = at.parent_path();
  }
  const auto owner = owner_of(user);
  UniqueFd above(::open(at.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!above) throw can_not(folder);
  for (auto name = missing.rbegin(); name != missing.rend(); ++name) {
    at /= *name;
    above = make_one(above.get(), *name, owner, at);
  }
}

}  // namespace cluster::sqlite
