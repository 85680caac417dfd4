// One step of a scrub: some pages of a database's file, read from the disk and compared with what
// they must be. Whoever has the database open says what that is, before and after the reading. A
// page counts as wrong only if nothing can have changed it between the two; else it is looked at
// again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

/// What some pages of a database's file must be.
struct ExpectedPages {
  /// As long as it is the same, SQLite has written nothing to those pages of the file that have a
  /// hash below.
  std::uint64_t generation = 0;
  std::uint64_t inode = 0;  ///< of the file that is open
  std::uint32_t page_size = 0;
  PageNumber pages = 0;  ///< of the database
  /// Of the pages that were asked for; 0: nothing is said of that page. The WAL has a newer version
  /// of it, or the database has no such page.
  std::vector<std::uint64_t> hashes{};
};

/// Of `count` pages from `first` on; nothing when it can't be told now. On any thread, but one at a
/// time.
using ExpectPages = std::function<std::optional<ExpectedPages>(PageNumber first, PageNumber count)>;

struct WrongPage {
  PageNumber number = 0;
  std::uint64_t hash = 0;  ///< that it must have
  int error = 0;           ///< as DiskPages::errors; 0: it can be read, and has another content
};

struct ScrubStep {
  std::uint32_t page_size = 0;
  PageNumber pages = 0;        ///< of the database
  PageNumber next = 0;         ///< the step has looked at all before that one
  std::uint64_t compared = 0;  ///< pages
  std::uint64_t skipped = 0;   ///< pages of which the WAL has a newer version, or gets one just now
  std::vector<WrongPage> wrong{};
};

/// Looks at about `bytes` of pages from `first` on, one page at least; at none when the database
/// ends before. Throws Error{unavailable} when it can't be told what is there, or another file is
/// in its place; Error{system} when the file can't be opened; Error{shutting_down} when stopped.
/// Blocks.
ScrubStep scrub_some(const std::string& path, PageNumber first, std::size_t bytes,
                     const ExpectPages& expect, const std::stop_token& stop);

/// Why a page is wrong, for people.
std::string to_text(const WrongPage& page);

}  // namespace cluster::sqlite
