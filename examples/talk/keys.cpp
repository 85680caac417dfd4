// Keys and values: a counter that several nodes may change at a time, a watch, a key that goes.
//
//   NATS_URL=nats://localhost:4222 keys

#include <cstdlib>
#include <future>
#include <iostream>

#include <cluster/cluster.h>

namespace {

// Reads, changes, and writes if nobody else has written meanwhile.
int count_up(cluster::Kv kv) {
  while (true) {
    try {
      const auto entry = kv.get("counter");
      const int next = entry ? std::stoi(entry->value) + 1 : 1;
      if (entry)
        kv.update("counter", std::to_string(next), entry->revision);
      else
        kv.create("counter", std::to_string(next));
      return next;
    } catch (const cluster::Error& error) {
      if (error.errc() != cluster::Errc::wrong_revision) throw;
    }
  }
}

}  // namespace

int main() {
  const char* nats = std::getenv("NATS_URL");
  try {
    cluster::Platform platform({.name = "talk",
                                .node = "keys",
                                .nats_url = nats != nullptr ? nats : "nats://localhost:4222",
                                .http = ""});
    cluster::App& app = platform.add_app({.name = "counters", .mode = cluster::Spread{}});
    app.on_active([&](std::stop_token) {
      cluster::Kv kv = app.kv();
      std::promise<void> gone;
      const auto watch = kv.watch("", [&](const cluster::KvEntry& entry) {
        std::cout << entry.key << (entry.removed ? " is gone" : " = " + entry.value) << std::endl;
        if (entry.key == "visitor" && entry.removed) gone.set_value();
      });
      for (int i = 0; i < 3; ++i) count_up(kv);
      kv.put("visitor", "Ada", {.ttl = std::chrono::milliseconds(500)});
      gone.get_future().wait();
      platform.stop();
    });
    platform.run();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
