// Where programs find the socket of a database that this machine's node leads: a rule that needs
// only the database's path. It lies in a runtime folder and not beside the database, because
// programs that copy the database's folder fail at a socket (docs/formats.md, "The socket of a
// database"). Part of the loadable extension: needs nothing of the library's.
#pragma once

#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/types.h>

namespace cluster::sqlite {

/// Names the folder of the sockets, instead of those that the rule has. An absolute path.
inline constexpr const char* kCommitFolderVariable = "CPP_CLUSTER_COMMIT_FOLDER";

struct CommitFolder {
  std::string path{};
  /// It is where others may make folders as well: it counts only when it belongs to one of
  /// `owners`, is no link, and nobody else may write there.
  bool checked = false;
  std::vector<uid_t> owners{};
};

/// The socket's name in its folder: device and inode of the database's folder, and a hash of the
/// database's name, in hexadecimal digits. So it is the same for every path that leads to the
/// database, before the database is made, and after another file has taken its place. Empty, with
/// errno, when there is no such folder.
std::string commit_socket_name(const std::string& database);

/// Where a node makes its socket: in the first of these that it can use.
std::vector<CommitFolder> commit_folders_of_node();

/// Where a program looks for the socket of `database`, in this order.
std::vector<CommitFolder> commit_folders_of_program(const std::string& database);

/// Whether a folder that was found there is safe, if that has to be checked.
bool is_safe(const CommitFolder& folder, const struct stat& found);

/// False with `why` when kCommitFolderVariable is set to something else than an absolute path.
bool check_commit_folder_variable(std::string& why);

}  // namespace cluster::sqlite
