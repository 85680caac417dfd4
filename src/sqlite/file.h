// Writing to files, with errors that name them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/error.h"

namespace cluster::sqlite {

/// Error{system} with what errno says: "<what> <path>: <reason>".
Error file_error(const std::string& what, const std::string& path);

/// Writes all bytes from `offset` on; `path` is for the error. Throws Error{system}.
void write_all(int fd, std::string_view bytes, std::int64_t offset, const std::string& path);

}  // namespace cluster::sqlite
