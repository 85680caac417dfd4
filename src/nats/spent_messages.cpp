#include "nats/spent_messages.h"

#include <array>
#include <cstddef>
#include <mutex>
#include <utility>

namespace cluster::nats {
namespace {

constexpr std::size_t kTogether = 64;
constexpr std::size_t kBytes = 256 * 1024;

struct Spent {
  std::array<natsMsg*, kTogether> messages{};
  std::size_t count = 0;
  std::size_t bytes = 0;
};

struct Waiting {
  std::mutex mutex{};
  Spent spent{};
};

Waiting& waiting() {
  static auto* all = new Waiting;  // never destroyed: libnats' threads outlive main()
  return *all;
}

}  // namespace

void let_go(natsMsg* message) {
  if (message == nullptr) return;
  Spent over;
  {
    auto& [mutex, spent] = waiting();
    const std::lock_guard lock(mutex);
    spent.messages[spent.count++] = message;
    spent.bytes += static_cast<std::size_t>(natsMsg_GetDataLength(message));
    if (spent.count < kTogether && spent.bytes < kBytes) return;
    over = std::exchange(spent, {});
  }
  for (std::size_t i = 0; i < over.count; ++i) natsMsg_Destroy(over.messages[i]);
}

}  // namespace cluster::nats
