// A single page of a database, asked of the node that leads, in parts that fit into messages.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/result.h"
#include "sqlite/checksum.h"

namespace cluster::sqlite {

struct PageRequest {
  PageNumber page = 0;
  std::uint64_t hash = 0;       ///< that it must have: with another one it is not wanted
  std::uint32_t offset = 0;     ///< bytes of the page that the asker has already
  std::uint32_t size = 65'536;  ///< how many more it takes; an answer may have fewer

  /// What is to be answered when that is the page.
  std::string part_of(const std::string& page_bytes) const;
};

using AskForPage = std::function<void(const PageRequest& request, Callback<std::string> done)>;

/// Asks until the whole page is there, and believes it only if it has that hash. Errors: those of
/// `ask`; corrupt (what came is another page, or not all of it). On the loop.
void fetch_page(const AskForPage& ask, PageNumber page, std::uint64_t hash, std::uint32_t page_size,
                Callback<std::string> done);

}  // namespace cluster::sqlite
