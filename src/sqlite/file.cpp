#include "sqlite/file.h"

#include <cerrno>

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

}  // namespace cluster::sqlite
