// A node for the benchmarks: it writes down what happens to its apps, and when. Started by
// cluster_bench, never by hand.
//   bench_node NODE NATS_URLS FOLDER APPS [BACKEND PORT | DATABASE]
// The journal goes to descriptor 3.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <cluster/cluster.h>

namespace {

constexpr int kJournal = 3;

// One write for a line: lines of several threads can't mix, and none is lost when we are killed.
void journal(const char* what, const cluster::App& app) {
  char line[128];
  const int size =
      std::snprintf(line, sizeof line, "%lld %s %s %llu\n",
                    static_cast<long long>(cluster::BootClock::now().time_since_epoch().count()),
                    what, app.name().c_str(), static_cast<unsigned long long>(app.epoch()));
  if (write(kJournal, line, static_cast<std::size_t>(size)) != size) std::perror("journal");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5 || argc > 7) {
    std::cerr << "usage: bench_node NODE NATS_URLS FOLDER APPS [BACKEND PORT | DATABASE]\n";
    return 2;
  }
  fcntl(kJournal, F_SETFD, FD_CLOEXEC);
  try {
    cluster::Platform platform({.name = "bench",
                                .node = argv[1],
                                .nats_url = argv[2],
                                .folder = argv[3],
                                .http = "127.0.0.1:0"});
    const int apps = std::atoi(argv[4]);
    for (int i = 1; i <= apps; ++i) {
      cluster::AppOptions options{.name = "app-" + std::to_string(i)};
      if (argc == 6) options.sqlite.path = argv[5];
      if (argc == 7) {
        const std::string port = argv[6];
        options.backend = cluster::Process{
            .command = {argv[5], "--port", port},
            .ready = cluster::ReadyHttp{.url = "http://127.0.0.1:" + port + "/healthz"}};
      }
      cluster::App& app = platform.add_app(options);
      app.on_active([&app](std::stop_token) { journal("active", app); });
      app.on_passive([&app](std::stop_token) { journal("passive", app); });
    }
    platform.run();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
