// The file of a write-ahead log, read beside SQLite: frames in their order, each one verified.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/unique_fd.h"
#include "sqlite/wal_format.h"
#include "sqlite/wal_index.h"

namespace cluster::sqlite {

class WalFile {
 public:
  struct Frame {
    PageNumber page = 0;
    PageNumber commit = 0;  ///< the last of a transaction: pages of the database; else 0
    std::string_view content{};
    WalPosition end{};
  };

  WalFile() = default;
  /// Of the database at that path; opened when it is first read.
  WalFile(const std::string& database, std::uint32_t page_size);

  /// Visits the frames behind `from` that count by `header`, which is of the same run of the WAL.
  /// Throws Error{corrupt} when a frame is not what was written, when the last one ends no
  /// transaction, or when the file is of another run; Error{system}.
  void visit_frames(const WalIndexHeader& header, const WalPosition& from,
                    const std::function<void(const Frame&)>& visit);
  /// Throws Error{corrupt} when the file ends before that.
  void read(std::int64_t offset, char* into, std::size_t size);
  /// Bytes; 0 before it was read.
  std::uint64_t size() const noexcept;

 private:
  void open();

  std::string path_;
  std::uint32_t page_size_ = 0;
  UniqueFd file_;
};

}  // namespace cluster::sqlite
