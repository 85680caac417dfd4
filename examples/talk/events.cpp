// Events: one that is published, handled at least once by a durable subscription, and one that
// nobody can handle, which ends as a dead letter.
//
//   NATS_URL=nats://localhost:4222 events

#include <cstdlib>
#include <future>
#include <iostream>
#include <stdexcept>

#include <cluster/cluster.h>

int main() {
  const char* nats = std::getenv("NATS_URL");
  try {
    cluster::Platform platform({.name = "talk",
                                .node = "events",
                                .nats_url = nats != nullptr ? nats : "nats://localhost:4222",
                                .http = ""});
    cluster::App& app = platform.add_app({.name = "shop", .mode = cluster::Spread{}});
    app.on_active([&](std::stop_token) {
      std::promise<void> dead;
      const auto booking = app.events().subscribe(
          "order.*",
          [](const cluster::Event& event) {
            if (event.payload == "poison") throw std::runtime_error("this can't be booked");
            std::cout << "booked " << event.payload << std::endl;
          },
          {.durable = "booking", .max_deliver = 2, .backoff_min = std::chrono::milliseconds(50)});
      const auto letters =
          app.events().subscribe("_dead.booking.>", [&](const cluster::Event& event) {
            std::cout << "given up: " << event.payload << std::endl;
            dead.set_value();
          });
      app.events().publish("order.created", "4711");
      app.events().publish("order.created", "poison");
      dead.get_future().wait();
      platform.stop();
    });
    platform.run();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
