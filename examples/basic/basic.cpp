// A program of which one node at a time does the work. Start it on three machines, or three times:
//
//   basic node-1 & basic node-2 & basic node-3
//
// then kill the one that leads.

#include <cstdlib>
#include <iostream>

#include <cluster/cluster.h>

int main(int argc, char** argv) {
  const char* nats = std::getenv("NATS_URL");
  try {
    cluster::Platform platform({
        .name = "basic",
        .node = argc > 1 ? argv[1] : "",  // none: the host's name
        .nats_url = nats != nullptr ? nats : "nats://localhost:4222",
        .http = "",
    });
    cluster::App& worker = platform.add_app({.name = "worker", .mode = cluster::Singleton{}});
    worker.on_active([&](std::stop_token) {
      std::cout << platform.node() << " leads, epoch " << worker.epoch() << std::endl;
    });
    worker.on_passive([&](std::stop_token) {  //
      std::cout << platform.node() << " stands by" << std::endl;
    });
    platform.run();  // until SIGINT, SIGTERM or platform.stop()
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
