#include "sqlite/commit_place.h"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/stat.h>
#include <unistd.h>

namespace cluster::sqlite {
namespace {

constexpr const char* kMachinesFolder = "/run/cpp-cluster";
constexpr const char* kInRuntimeFolder = "/cpp-cluster";

// Not that of another user whose environment this program was given.
std::string environment(const char* name) {
  const char* value = ::secure_getenv(name);
  return value != nullptr && *value == '/' ? value : "";
}

std::string folder_in_tmp(uid_t owner) { return "/tmp/cpp-cluster-" + std::to_string(owner); }

// FNV-1a: only names within one folder must differ.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ULL;
  }
  return hash;
}

// Links in the path are followed, also in that of a file that is not there yet.
std::string without_links(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return path;
  std::string result = real;
  std::free(real);
  return result;
}

}  // namespace

std::string commit_socket_name(const std::string& database) {
  const std::string path = without_links(database);
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  struct stat found{};
  if (::stat(folder.c_str(), &found) != 0) return {};
  char text[64];
  std::snprintf(text, sizeof text, "%" PRIx64 "-%" PRIx64 "-%016" PRIx64 ".sock",
                std::uint64_t{found.st_dev}, std::uint64_t{found.st_ino}, hash_of(name));
  return text;
}

std::vector<CommitFolder> commit_folders_of_node() {
  if (const auto given = environment(kCommitFolderVariable); !given.empty()) return {{given}};
  const uid_t self = ::geteuid();
  std::vector<CommitFolder> folders = {{kMachinesFolder, true, {self}}};
  struct stat found{};
  if (const auto runtime = environment("XDG_RUNTIME_DIR");
      !runtime.empty() && ::stat(runtime.c_str(), &found) == 0 && found.st_uid == self)
    folders.push_back({runtime + kInRuntimeFolder, true, {self}});
  folders.push_back({folder_in_tmp(self), true, {self}});
  return folders;
}

// The node may run as root, as this user, or as the owner of the database, with another environment
// than this program has. All three may do to the database what they like: nobody else's answer is
// believed.
std::vector<CommitFolder> commit_folders_of_program(const std::string& database) {
  std::vector<CommitFolder> folders;
  if (const auto given = environment(kCommitFolderVariable); !given.empty())
    folders.push_back({given});
  // Only root can have made it.
  folders.push_back({kMachinesFolder});
  std::vector<uid_t> owners = {::geteuid()};
  struct stat found{};
  if (::stat(database.c_str(), &found) == 0) owners.push_back(found.st_uid);
  owners.push_back(0);
  for (auto it = owners.begin(); it != owners.end();)
    it = std::find(owners.begin(), it, *it) == it ? std::next(it) : owners.erase(it);
  if (const auto runtime = environment("XDG_RUNTIME_DIR"); !runtime.empty())
    folders.push_back({runtime + kInRuntimeFolder, true, owners});
  for (const uid_t owner : owners) {
    folders.push_back({"/run/user/" + std::to_string(owner) + kInRuntimeFolder, true, {owner}});
    folders.push_back({folder_in_tmp(owner), true, {owner}});
  }
  return folders;
}

bool is_safe(const CommitFolder& folder, const struct stat& found) {
  if (!S_ISDIR(found.st_mode)) return false;
  return !folder.checked || ((found.st_mode & (S_IWGRP | S_IWOTH)) == 0 &&
                             std::find(folder.owners.begin(), folder.owners.end(), found.st_uid) !=
                                 folder.owners.end());
}

bool check_commit_folder_variable(std::string& why) {
  const char* value = ::secure_getenv(kCommitFolderVariable);
  if (value == nullptr || *value == '\0' || *value == '/') return true;
  why = std::string(kCommitFolderVariable) + ": \"" + value + "\" is no absolute path";
  return false;
}

}  // namespace cluster::sqlite
