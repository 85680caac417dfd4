// Makes a database file from LTX files in order: a snapshot, then what follows it, each written
// over what is there. Memory: 8 bytes a page and what one decoder needs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "sqlite/capture.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

class DatabaseBuilder {
 public:
  /// Makes the file, which must not be there. Throws Error{system}.
  explicit DatabaseBuilder(std::string path);
  /// Removes the file, unless finish() has returned.
  ~DatabaseBuilder();
  DatabaseBuilder(const DatabaseBuilder&) = delete;
  DatabaseBuilder& operator=(const DatabaseBuilder&) = delete;

  /// Reads all of `file`. The first must be a snapshot; each other must begin no later than behind
  /// the last transaction here, and end behind it. Throws as LtxDecoder does,
  /// Error{invalid_argument} for a file that does not follow, Error{system}; after a throw this is
  /// of no more use. `page`: called for each page.
  void apply(LtxDecoder& file, const std::function<void(PageNumber)>& page = {});

  /// What has been applied.
  const DatabaseState& state() const noexcept { return state_; }

  /// Syncs the file, and checks that it is whole and has that hash (if one is given). Throws
  /// Error{corrupt}, Error{system}.
  DatabaseState finish(std::optional<std::uint64_t> hash = {});

 private:
  class Writer;
  [[noreturn]] void fail(const std::string& what) const;

  const std::string path_;
  std::unique_ptr<Writer> writer_;
  DatabaseState state_;
  bool kept_ = false;
};

/// What PRAGMA integrity_check says of a database file that nobody writes to and that has no WAL;
/// nothing when all is well. It may be of content that the program has committed: a row that breaks
/// a CHECK, a collation that only the program has, syntax that is newer than this SQLite. Leaves
/// nothing beside the file. Throws Error{shutting_down} when `stop` is requested.
std::optional<std::string> integrity_of(const std::string& path, std::stop_token stop = {});

}  // namespace cluster::sqlite
