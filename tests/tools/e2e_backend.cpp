// A program under management for the end-to-end tests. It does what only one process may do at a
// time: every 2 ms it writes to the journal that it is alive, unless the fence, a file that all
// backends of a test share, has seen a newer epoch.
//   e2e_backend JOURNAL FENCE [--exit | --exit-if FILE] [--stubborn] [--grandchild] [--listen PORT]
//       [--rows LOG QUIET [--extension FILE] [--row-bytes N]
//           [--begin-if FILE SQL]]
// With --rows it also writes numbered rows to the app's database, but while the file QUIET is
// there: it says in LOG that it has seen QUIET and the number that this holds.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/e2e_journal.h"
#include "tools/e2e_rows.h"

namespace {

using cluster::e2e::boot_ns;
using cluster::e2e::Journal;

volatile std::sig_atomic_t asked_to_stop = 0;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

struct Fence {
  std::atomic<std::uint64_t> epoch;
};

/// False when a newer epoch has been there.
bool pass(Fence& fence, std::uint64_t epoch) {
  std::uint64_t seen = fence.epoch.load();
  while (seen < epoch && !fence.epoch.compare_exchange_weak(seen, epoch)) continue;
  return seen <= epoch;
}

void listen_on(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 16) != 0) {
    std::perror("listen");
    std::exit(4);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  const Journal journal(arguments[1]);
  Fence& fence = *cluster::e2e::map_shared<Fence>(arguments[2]);
  const std::string node = environment("CPP_CLUSTER_NODE");
  const std::string app = environment("CPP_CLUSTER_APP");
  const std::uint64_t epoch = std::strtoull(environment("CPP_CLUSTER_EPOCH").c_str(), nullptr, 10);
  bool stubborn = false;
  std::string who = "backend";
  cluster::e2e::RowWriter::Options rows;
  std::string quiet;
  for (int i = 3; i < count; ++i) {
    const std::string option = arguments[i];
    if (option == "--exit" ||
        (option == "--exit-if" && ++i < count && ::access(arguments[i], F_OK) == 0)) {
      journal.write(boot_ns(), node, app, "backend_exits", epoch);
      return 3;
    }
    if (option == "--stubborn") stubborn = true;
    if (option == "--rows" && i + 2 < count) {
      rows.log = arguments[++i];
      quiet = arguments[++i];
    }
    if (option == "--extension" && i + 1 < count) rows.extension = arguments[++i];
    if (option == "--begin-if" && i + 2 < count) {
      if (::access(arguments[i + 1], F_OK) == 0) rows.first = arguments[i + 2];
      i += 2;
    }
    if (option == "--row-bytes" && i + 1 < count) rows.bytes = std::atoi(arguments[++i]);
    if (option == "--grandchild" && ::fork() == 0) {
      ::setsid();
      if (::fork() != 0) ::_exit(0);
      who = "grandchild";
    }
    if (option == "--listen" && ++i < count && who == "backend") listen_on(std::atoi(arguments[i]));
  }
  if (stubborn || who == "grandchild")
    std::signal(SIGTERM, SIG_IGN);
  else
    std::signal(SIGTERM, [](int) { asked_to_stop = 1; });
  journal.write(boot_ns(), node, app, (who + "_begin").c_str(), epoch,
                environment("CPP_CLUSTER_ROLE"));
  std::unique_ptr<cluster::e2e::RowWriter> writer;
  if (!rows.log.empty())
    writer =
        std::make_unique<cluster::e2e::RowWriter>(environment("CPP_CLUSTER_DATABASE"), epoch, rows);
  while (asked_to_stop == 0) {
    const std::int64_t now = boot_ns();
    journal.write(now, node, app, pass(fence, epoch) ? "alive" : "refused", epoch, who);
    if (writer) {
      if (std::ifstream file(quiet); file) {
        std::uint64_t number = 0;
        if (file >> number) writer->be_quiet(number);
      } else {
        writer->write_row();
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  journal.write(boot_ns(), node, app, (who + "_end").c_str(), epoch);
  return 0;
}
