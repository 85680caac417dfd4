// A node for the benchmark of locks: takes the platform's lock "bench", again and again, and holds
// each for ever. Started by cluster_bench, never by hand.
//   bench_locks NODE NATS_URLS FOLDER
// Each acquisition goes to descriptor 3: nanoseconds of CLOCK_BOOTTIME and the token.
#include <cstdio>
#include <iostream>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include <cluster/cluster.h>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: bench_locks NODE NATS_URLS FOLDER\n";
    return 2;
  }
  constexpr int kJournal = 3;
  fcntl(kJournal, F_SETFD, FD_CLOEXEC);
  try {
    cluster::Platform platform(
        {.name = "bench", .node = argv[1], .nats_url = argv[2], .folder = argv[3], .http = ""});
    std::thread taker([&] {
      while (true) {
        try {
          const auto guard = platform.lock("bench").acquire(std::chrono::hours(1));
          char line[64];
          const int size = std::snprintf(
              line, sizeof line, "%lld %llu\n",
              static_cast<long long>(cluster::BootClock::now().time_since_epoch().count()),
              static_cast<unsigned long long>(guard.token()));
          if (write(kJournal, line, static_cast<std::size_t>(size)) != size) std::perror("journal");
          while (guard.held()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
        } catch (const cluster::Error& error) {
          if (error.errc() == cluster::Errc::shutting_down) return;
          // It has not joined yet.
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
      }
    });
    platform.run();
    taker.join();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
