#include "core/ids.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <sys/random.h>
#include <unistd.h>

#include "cluster/error.h"

namespace cluster {

std::string random_id() {
  static constexpr char kAlphabet[] =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::string id;
  while (id.size() < 16) {
    unsigned char bytes[32];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
      if (errno == EINTR) continue;
      throw Error(Errc::system, std::string("getrandom: ") + std::strerror(errno));
    }
    // Values of 248 and more are dropped, so that each character is equally likely.
    for (unsigned char b : bytes)
      if (b < 248 && id.size() < 16) id.push_back(kAlphabet[b % 62]);
  }
  return id;
}

std::string short_host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0)
    throw Error(Errc::system, std::string("gethostname: ") + std::strerror(errno));
  std::string host(name);
  return host.substr(0, host.find('.'));
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  if (!std::getline(file, id) || id.empty())
    throw Error(Errc::system, "/proc/sys/kernel/random/boot_id can't be read: is /proc mounted?");
  return id;
}

}  // namespace cluster
