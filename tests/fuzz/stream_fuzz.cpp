// Headers of a WAL stream's messages: lines of "name: value". What is accepted is written again the
// same.
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "fuzz/expect.h"
#include "sqlite/stored_file.h"
#include "sqlite/stream_message.h"

using namespace cluster;
using namespace cluster::sqlite;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
  std::vector<nats::Header> headers;
  for (std::string line; std::getline(lines, line);)
    if (const auto colon = line.find(": "); colon != std::string::npos)
      headers.emplace_back(line.substr(0, colon), line.substr(colon + 2));
  // The same as the headers of an object in a snapshot bucket.
  nats::ObjectInfo object;
  object.name = headers.empty() ? "" : headers.front().first;
  object.headers = headers;
  const auto listing = listing_of({object});
  // The object that only carries the led time is neither.
  const std::size_t listed = object.name == kLedObject ? 0 : 1;
  expect(listing.files.size() + listing.foreign.size() == listed);
  for (const auto& file : listing.files) {
    object.headers = headers_of(file);
    expect(file.name() == object.name && listing_of({object}).files == listing.files);
  }
  const auto record = stream_record_from(headers, 7);
  if (!record) {
    expect(record.error().errc() == Errc::corrupt || record.error().errc() == Errc::incompatible);
    return 0;
  }
  auto stored = headers_of(record.value());
  stored.emplace_back("Nats-Expected-Last-Sequence", "6");
  const auto again = stream_record_from(stored, 7);
  expect(again.ok());
  expect(headers_of(again.value()) == headers_of(record.value()));
  return 0;
}
