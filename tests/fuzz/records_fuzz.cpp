// Whatever bytes stand in a bucket or arrive as a message: a record or a clear error. What was read
// is read again the same after it was written.
#include <cstddef>
#include <cstdint>
#include <string>

#include "coord/records_json.h"
#include "fuzz/expect.h"
#include "sqlite/quarantine_note.h"

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

// Nothing is refused but all of it.
void note_again(const std::string& text) {
  constexpr auto kKind = sqlite::QuarantineKind::diverged;
  const auto first = sqlite::note_from(text);
  if (!first) return;
  const std::string written = sqlite::note_text(*first, kKind);
  const auto second = sqlite::note_from(written);
  expect(second.has_value());
  expect(sqlite::note_text(*second, kKind) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  same_again(text, [](const std::string& t) { return session_record_from("node-1", t); });
  same_again(text, [](const std::string& t) { return lease_record_from("db", t); });
  same_again(text, heartbeat_from);
  same_again(text, heartbeat_ack_from);
  same_again(text, withdrawal_from);
  note_again(text);
  return 0;
}
