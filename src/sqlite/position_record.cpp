#include "sqlite/position_record.h"

#include "sqlite/bytes.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint32_t kLeading = 1U << 31;  // with the page size
constexpr std::uint32_t kAtLeast = 1U << 30;  // the same

}  // namespace

void append_record(std::string& bytes, const PositionRecord& r) {
  append_be(bytes, r.epoch);
  append_be(bytes, r.txid);
  append_be(bytes, r.sequence);
  append_be(bytes, r.hash);
  append_be(bytes, r.page_size | (r.leading ? kLeading : 0) | (r.at_least ? kAtLeast : 0));
  append_be(bytes, r.end.salts.first);
  append_be(bytes, r.end.salts.second);
  append_be(bytes, r.end.frame);
  append_be(bytes, r.end.checksum.first);
  append_be(bytes, r.end.checksum.second);
}

PositionRecord record_from(const char* b) {
  const auto page_size = get_be<std::uint32_t>(b + 32);
  return {get_be<std::uint64_t>(b),
          get_be<std::uint64_t>(b + 8),
          get_be<std::uint64_t>(b + 16),
          get_be<std::uint64_t>(b + 24),
          page_size & ~(kLeading | kAtLeast),
          {{get_be<std::uint32_t>(b + 36), get_be<std::uint32_t>(b + 40)},
           get_be<std::uint32_t>(b + 44),
           {get_be<std::uint32_t>(b + 48), get_be<std::uint32_t>(b + 52)}},
          (page_size & kLeading) != 0,
          (page_size & kAtLeast) != 0};
}

}  // namespace cluster::sqlite
