// Makes the folder of a database that is still missing.
#pragma once

#include <string>

namespace cluster::sqlite {

/// Makes `folder` (an absolute path without links), and those above it that are missing: with mode
/// 0750, and, when this process is root and `user` is given, as that user's. May block. Throws
/// Error: invalid_argument (no such user; a file is in the way), system.
void make_folder(const std::string& folder, const std::string& user);

}  // namespace cluster::sqlite
