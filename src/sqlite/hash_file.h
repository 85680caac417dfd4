// The file beside a database in which a node keeps the hashes of its pages, so that it need not
// read the whole database to know what it holds: <database>-cluster-hashes (docs/formats.md, "The
// hash file").
//
// It says what the database *file* holds after a checkpoint that was complete and synced, without
// what the WAL has since. While the next mark is being written the hashes are partly those of the
// one before: that does no harm as long as the WAL still has all frames since the older mark, for
// what they say takes precedence. So a WAL is begun anew only when its mark is on the disk. Where a
// power cut keeps the mark and loses hashes, they do not add up to what the mark says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/unique_fd.h"
#include "sqlite/page_hash.h"
#include "sqlite/page_set.h"
#include "sqlite/position_record.h"

namespace cluster::sqlite {

/// By what one tells that nobody has written to a file: the kernel sets the time at each change of
/// the file or its inode, and no program can set it back.
struct FileState {
  std::uint64_t device = 0, inode = 0;
  std::uint64_t size = 0;       ///< bytes
  std::int64_t changed_ns = 0;  ///< st_ctim: since 1970, by the kernel's clock
  /// It says nothing after the machine has been started again, when this is this_boot() of another
  /// boot; 0: it does.
  std::uint64_t boot = 0;
  bool operator==(const FileState&) const = default;
  /// A file that was as this says has not been written to since: it is as `now` says, of of().
  bool unchanged(const std::optional<FileState>& now) const;

  /// Nothing when there is no such file. Throws Error{system}.
  static std::optional<FileState> of(const std::string& path);
};

/// Of the machine's present boot, never 0. Throws Error{system} where the kernel does not tell.
std::uint64_t this_boot();

/// What the hashes are of.
struct HashMark {
  std::uint64_t history = 0;  ///< which stream the transactions belong to
  /// All up to `at.end` is in the database file, and is synced.
  PositionRecord at{};
  PageNumber pages = 0;  ///< of the database
  FileState file{};      ///< as it was left
  bool operator==(const HashMark&) const = default;
};

/// Not thread-safe.
class HashFile {
 public:
  /// Opens or makes it. What is damaged, or of another version, counts as no mark. Throws
  /// Error{system}.
  explicit HashFile(std::string path);

  /// The newest mark that is whole.
  const std::optional<HashMark>& mark() const noexcept { return mark_; }
  /// The hashes as they are in the file: of mark().pages pages. Where writing the next mark was cut
  /// short, some are of the state that it was to mark. Throws Error{system}, Error{corrupt} when
  /// the file is shorter than its mark says.
  PageHashes load() const;

  /// The page is another one than at mark().
  void touch(PageNumber number) { touched_.add(number); }
  /// Whether touch() has been called for it since the hashes were written.
  bool touched(PageNumber number) const { return touched_.has(number); }
  /// Writes the hashes of the pages touched since mark(), and the new mark. `all`: the hashes at
  /// that mark. With no mark before it, or one of another page size, all are written. Throws
  /// Error{system} (no room, say): then there is no mark.
  void note(const HashMark& mark, const PageHashes& all);
  /// Hashes of what the next mark will be of, or something still later: so that it takes less time.
  /// There must be a mark. Throws as note().
  void note_ahead(const PageHashes& all);
  /// What was written gets to the disk. Where a power cut comes first, the marks and the hashes do
  /// not fit together, or not to the WAL, and count for nothing. May run beside all else. Throws
  /// Error{system}.
  void sync() const;
  /// The same mark, when only the database file's state is another one: SQLite has moved into it
  /// what the WAL has since. Throws as note().
  void note_file(const FileState& file);
  /// No mark counts from now on, and all hashes are written with the next one. Throws Error{system}
  /// when the file still has one; it names an earlier state of the database file.
  void forget();

 private:
  void make_room(PageNumber pages);
  void write_hashes(const PageHashes& all);
  void write_mark(const HashMark& mark);

  const std::string path_;
  UniqueFd file_;
  std::uint64_t count_ = 0;  // of marks ever written
  std::uint64_t room_ = 0;   // bytes
  std::optional<HashMark> mark_;
  PageSet touched_;
};

/// The file that goes with a database.
inline std::string hash_file_path(const std::string& database) {
  return database + "-cluster-hashes";
}

}  // namespace cluster::sqlite
