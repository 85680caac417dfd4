// Merges LTX files that are given one after the other, in memory that grows neither with their
// bytes nor with their number: the newest version of each page waits in a nameless file.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/unique_fd.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

class FileMerge {
 public:
  /// `folder`: where the nameless file is.
  explicit FileMerge(std::string folder) : folder_(std::move(folder)) {}

  /// Reads all of `file`, which begins no later than behind the last transaction here, and ends
  /// behind it. Throws as LtxDecoder does, Error{invalid_argument} for a file that does not follow,
  /// Error{system}; after a throw this is of no more use.
  void add(LtxDecoder& file);
  bool empty() const noexcept { return header_.max_txid == 0; }
  /// Of the merged file.
  const LtxHeader& header() const noexcept { return header_; }

  /// The merged file's time, in its header; without it, that of the last file.
  void set_time(std::int64_t timestamp_ms) noexcept { header_.timestamp_ms = timestamp_ms; }
  /// The merged file.
  void write(const ByteSink& sink, int acceleration = 1);

 private:
  static constexpr PageNumber kBlock = 1024;
  using Block = std::array<std::uint32_t, kBlock>;  // slots in the file, counted from 1; 0: none

  std::uint32_t& slot(PageNumber number);
  void cut(PageNumber commit);

  const std::string folder_;
  LtxHeader header_;
  UniqueFd file_;
  std::uint32_t slots_ = 0;
  std::map<PageNumber, std::unique_ptr<Block>> blocks_;  // by number / kBlock
};

}  // namespace cluster::sqlite
