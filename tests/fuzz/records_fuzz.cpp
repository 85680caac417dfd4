// Whatever bytes stand in a bucket or arrive as a message: a record or a clear error. What was read
// is read again the same after it was written.
#include <cstddef>
#include <cstdint>
#include <string>

#include "coord/records_json.h"
#include "fuzz/expect.h"

using namespace cluster;
using namespace cluster::coord;

namespace {

template <typename Read>
void same_again(const std::string& text, Read read) {
  auto first = read(text);
  if (!first) {
    expect(first.error().errc() == Errc::corrupt || first.error().errc() == Errc::incompatible);
    expect(!std::string(first.error().what()).empty());
    return;
  }
  const std::string written = to_json(first.value());
  auto second = read(written);
  expect(second.ok());
  expect(to_json(second.value()) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  same_again(text, [](const std::string& t) { return session_record_from("node-1", t); });
  same_again(text, [](const std::string& t) { return lease_record_from("db", t); });
  same_again(text, heartbeat_from);
  same_again(text, heartbeat_ack_from);
  same_again(text, withdrawal_from);
  return 0;
}
