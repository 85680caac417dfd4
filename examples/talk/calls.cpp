// Calls: an app with two methods, and calls to it that end well and not so well.
//
//   NATS_URL=nats://localhost:4222 calls

#include <cstdlib>
#include <iostream>
#include <thread>

#include <cluster/cluster.h>

int main() {
  const char* nats = std::getenv("NATS_URL");
  try {
    cluster::Platform platform({.name = "talk",
                                .node = "calls",
                                .nats_url = nats != nullptr ? nats : "nats://localhost:4222",
                                .http = ""});
    cluster::App& shop = platform.add_app({.name = "shop"});
    shop.handle("price", [](const cluster::CallRequest& request) -> std::string {
      if (request.payload != "tea") throw cluster::CallError("no_article", "there is only tea");
      return "2.50 EUR";
    });
    shop.use(cluster::limit_calls(1'000, 100));
    std::jthread customer([&] {
      try {
        // Nobody leads the shop yet: what was not carried out is tried again until somebody does.
        const cluster::CallOptions patient{.timeout = std::chrono::seconds(20), .retries = 1'000};
        const auto reply = platform.call("shop", "price", "tea", patient);
        std::cout << "tea: " << reply.payload << ", says " << reply.node << std::endl;
        try {
          platform.call("shop", "price", "gold");
        } catch (const cluster::CallError& error) {
          std::cout << error.name() << ": " << error.what() << std::endl;
        }
        for (const auto& answer : platform.call_all("shop", "price", "tea"))
          std::cout << answer.node << ": "
                    << (answer.error ? answer.error->name() : answer.reply.payload) << std::endl;
      } catch (const cluster::Error& error) {
        std::cerr << error.what() << std::endl;
      }
      platform.stop();
    });
    platform.run();
  } catch (const cluster::Error& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
