// The file of a commit socket, in a runtime folder (commit_place.h): made, kept in its place,
// removed. Of dead nodes it removes what they left there. All of it may block.
#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "core/unique_fd.h"
#include "sqlite/commit_place.h"

namespace cluster::sqlite {

class CommitSocket {
 public:
  /// Makes the socket of the database at `database` (without links), which need not be there yet;
  /// who may write to the database may connect, and before it is there, the owner of its folder.
  /// Throws Error: unavailable (another process serves this database), system.
  explicit CommitSocket(const std::string& database);
  /// Removes it.
  ~CommitSocket();
  CommitSocket(const CommitSocket&) = delete;
  CommitSocket& operator=(const CommitSocket&) = delete;

  /// It listens. Once: the caller's from then on.
  UniqueFd take_listener() { return std::move(listener_); }
  const std::string& path() const noexcept { return path_; }
  const std::string& folder() const noexcept { return folder_; }

  /// Whether it is where programs look for it; gives it the database's mode and owner if they have
  /// changed. Throws as the constructor.
  bool in_place();

 private:
  void lock(const std::string& name);
  void make();
  void remove();
  void set_access();

  const std::string database_;
  std::string folder_, name_, path_;
  UniqueFd folder_fd_;  // locked, so that cleaners of /tmp leave it alone
  UniqueFd lock_;       // held while it is there: what nobody holds is of a dead node
  UniqueFd listener_;
  ino_t inode_ = 0;   // of the socket's file
  std::string told_;  // why it does not have the database's owner
};

}  // namespace cluster::sqlite
