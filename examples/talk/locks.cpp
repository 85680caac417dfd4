// Locks: one at a time, with a token that what is guarded remembers; and a migration that runs
// once.
//
//   NATS_URL=nats://localhost:4222 locks

#include <cstdlib>
#include <iostream>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include <cluster/cluster.h>

namespace {

// What a lock guards: it refuses whoever comes with an older token than it has seen.
class Ledger {
 public:
  void write(std::uint64_t token, const std::string& line) {
    const std::lock_guard hold(mutex_);
    if (token < newest_) throw std::runtime_error("a late holder");
    newest_ = token;
    std::cout << line << std::endl;
  }

 private:
  std::mutex mutex_;
  std::uint64_t newest_ = 0;
};

}  // namespace

int main() {
  const char* nats = std::getenv("NATS_URL");
  try {
    cluster::Platform platform({.name = "talk",
                                .node = "locks",
                                .nats_url = nats != nullptr ? nats : "nats://localhost:4222",
                                .http = ""});
    cluster::App& app = platform.add_app({.name = "ledger", .mode = cluster::Spread{}});
    Ledger ledger;
    app.on_active([&](std::stop_token) {
      const bool here = app.barrier("migrated").once([&](cluster::LockGuard& guard) {
        ledger.write(guard.token(), "migrated by " + platform.node());
      });
      std::cout << (here ? "it was not migrated yet" : "it was migrated already") << std::endl;

      std::vector<std::jthread> clerks;
      for (int i = 1; i <= 3; ++i)
        clerks.emplace_back([&, i] {
          cluster::LockGuard guard = app.lock("pen").acquire();
          ledger.write(guard.token(), "clerk " + std::to_string(i) + " writes");
        });
      clerks.clear();  // waits for them
      platform.stop();
    });
    platform.run();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
