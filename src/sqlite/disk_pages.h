// Pages of a database's file as the disk has them: read past SQLite and, where that can be done,
// past the page cache, so that what programs have there stays there and does not hide what the disk
// has become. No lock of SQLite's is disturbed (core/own_files.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

struct DiskPages {
  std::uint64_t inode = 0;  ///< of the file that was read; 0: there is none
  PageNumber first = 0;
  std::uint32_t page_size = 0;
  std::string bytes{};        ///< of all pages; zeros where one could not be read
  std::vector<int> errors{};  ///< of each page: 0, or the errno of reading it

  std::string_view page(PageNumber number) const {
    return std::string_view(bytes).substr(std::size_t{number - first} * page_size, page_size);
  }
  int error(PageNumber number) const { return errors[number - first]; }
};

/// What stands for a page that the file is too short for.
constexpr int kBehindTheEnd = -1;

/// Reads `count` pages. A page that can't be read does not keep others from being read. Blocks for
/// as long as the disk does. Throws Error{system} when the file can't be opened or there is no
/// thread for it.
DiskPages read_from_disk(const std::string& path, PageNumber first, PageNumber count,
                         std::uint32_t page_size);

}  // namespace cluster::sqlite
