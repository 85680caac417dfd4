// What programs that commit and the node that leads say to each other over the socket of the
// database (docs/formats.md, "The socket of a database"; commit_place.h says where it is). Part of
// the loadable extension: nothing of the library's but headers without code elsewhere.
//
// Lines of text. The node greets: "cpp-cluster-commit 1 <epoch>". A program asks, once it has
// committed: "sync <id> <milliseconds>". The answer: "ok <id> <epoch> <txid> <sequence>" or
// "error <id> <why>". "refuse <why>": this node takes no commits any more; the end follows.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/unique_fd.h"

namespace cluster::sqlite::commit_protocol {

inline constexpr const char* kGreeting = "cpp-cluster-commit 1 ";
inline constexpr std::size_t kMostLine = 1024;  // bytes

struct SocketAddress {
  sockaddr_un address{};
  socklen_t size = 0;
  UniqueFd folder{};  ///< must stay open while the address is used
};

/// The address of a socket file, through a descriptor of its folder where the path is too long for
/// one. False with `errno` when there is none.
inline bool make_address(const std::string& path, SocketAddress& result) {
  std::string name = path;
  if (name.size() >= sizeof result.address.sun_path) {
    const auto slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    result.folder.reset(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!result.folder) return false;
    name = "/proc/self/fd/" + std::to_string(result.folder.get()) + "/" +
           (slash == std::string::npos ? path : path.substr(slash + 1));
  }
  if (name.size() >= sizeof result.address.sun_path) {
    errno = ENAMETOOLONG;
    return false;
  }
  result.address.sun_family = AF_UNIX;
  std::memcpy(result.address.sun_path, name.c_str(), name.size() + 1);
  result.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + 1);
  return true;
}

}  // namespace cluster::sqlite::commit_protocol
