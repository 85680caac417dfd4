// LTX files as an object store or a stream may hand them out. What is accepted comes out the same
// when it is written and read again.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "cluster/error.h"
#include "fuzz/expect.h"
#include "sqlite/ltx.h"

using namespace cluster;
using namespace cluster::sqlite;

namespace {

using Pages = std::map<PageNumber, std::string>;

Pages read(LtxDecoder& decoder) {
  Pages pages;
  PageNumber number = 0;
  std::string_view page;
  while (decoder.next(number, page)) pages[number] = std::string(page);
  return pages;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    LtxDecoder decoder(source_of(bytes));
    const Pages pages = read(decoder);
    std::string out;
    LtxEncoder encoder(decoder.header(), [&](std::string_view piece) { out += piece; });
    for (const auto& [number, page] : pages) encoder.add(number, page);
    encoder.finish();
    LtxDecoder again(source_of(out));
    expect(read(again) == pages);
  } catch (const Error& error) {
    expect(error.errc() == Errc::corrupt || error.errc() == Errc::incompatible);
  }
  return 0;
}
