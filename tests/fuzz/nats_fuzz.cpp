// What a NATS server, a user's URL or a credentials file may hold.
#include <cstddef>
#include <cstdint>
#include <string>

#include "fuzz/expect.h"
#include "nats/credentials.h"
#include "nats/object_info.h"
#include "nats/server_url.h"
#include "nats/stored_message.h"

using namespace cluster;
using namespace cluster::nats;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (auto message = stored_message_from(text); !message)
    expect(!std::string(message.error().what()).empty());
  static_cast<void>(delivery_place_from(text));
  if (auto info = object_info_from(text, 0);
      info && info.value().name.size() <= kLongestObjectName) {
    auto again = object_info_from(to_json("b", info.value()), 0);
    expect(again.ok());
    expect(again.value().name == info.value().name && again.value().size == info.value().size);
  }
  static_cast<void>(from_base64(text));
  if (auto time = time_ns_from(text)) expect(time_ns_from(rfc3339_from(*time)) == *time);
  if (auto url = parse_server_url(text)) {
    expect(url.value().port > 0 && url.value().port < 65536);
    auto again = parse_server_url(url.value().full_text());
    expect(again.ok());
    expect(again.value().same_place(url.value()));
    expect(again.value().full_text() == url.value().full_text());
  }
  if (auto key = public_nkey_of_seed(text)) expect(key.value().size() == 56);
  return 0;
}
