// Writing to files, with errors that name them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/error.h"
#include "core/unique_fd.h"

namespace cluster::sqlite {

/// Error{system} with what errno says: "<what> <path>: <reason>".
Error file_error(const std::string& what, const std::string& path);

/// Writes all bytes from `offset` on; `path` is for the error. Throws Error{system}.
void write_all(int fd, std::string_view bytes, std::int64_t offset, const std::string& path);

/// Reads up to `size` bytes from `offset` on; returns how many: fewer only at the file's end.
/// `path` is for the error. Throws Error{system}.
std::size_t read_up_to(int fd, char* into, std::size_t size, std::int64_t offset,
                       const std::string& path);

/// It may not be there. Throws Error{system}.
void remove_file(const std::string& path);

/// Syncs a file's folder, so that what was renamed there stays so. Throws Error{system}.
void sync_folder_of(const std::string& path);

/// Tells a file from one that has taken its place; 0: there is none.
std::uint64_t inode_of(const std::string& path);

/// The path without symbolic links, as SQLite resolves it; also of a file that is not there yet.
std::string real_path(const std::string& path);

/// Gives a file that is to be a database the owner and the mode of `like`; where there is no such
/// file, the owner of its folder. The program whose database it is may run as another user than the
/// node. Only root may give files away: else it stays as it was made.
void take_access(const std::string& file, const std::string& like);

/// A nameless file in that folder, gone when it is closed. Throws Error{system}.
UniqueFd temporary_file(const std::string& folder);

}  // namespace cluster::sqlite
