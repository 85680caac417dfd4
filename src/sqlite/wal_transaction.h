// Appends a transaction to a database's WAL from its pages, as if a connection had committed it:
// into its WAL and its wal-index, so that readers go on undisturbed and see all of it or nothing.
// Formats: sqlite.org/walformat.html.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sqlite/handle.h"
#include "sqlite/wal_format.h"
#include "sqlite/wal_index.h"
#include "sqlite/writer_guard.h"

struct sqlite3_file;

namespace cluster::sqlite {

/// One transaction: begun by the constructor; published by commit() or, without it, never there.
class WalTransaction {
 public:
  /// `guard`: of a database in WAL mode, which nobody else writes to. Throws Error{corrupt} when
  /// its wal-index is damaged.
  WalTransaction(WriterGuard& guard, std::uint32_t page_size);
  WalTransaction(const WalTransaction&) = delete;
  WalTransaction& operator=(const WalTransaction&) = delete;

  /// How often the database has been changed, by whomever, before this transaction.
  std::uint32_t changes() const noexcept { return header_.change; }
  /// Pages in any order, each once. Throws Error{system}: no room, and the like.
  void add(PageNumber number, std::string_view page);
  /// That was all: the database will have `pages` pages. At least one page was added. Returns where
  /// the WAL will end.
  WalPosition finish(PageNumber pages);
  /// Publishes the pages, once finished.
  void commit();

 private:
  void begin_wal();
  void append_frame(PageNumber number, std::string_view page, PageNumber commit);
  void flush();
  void add_to_index(std::uint32_t frame, PageNumber page);
  void forget_abandoned();
  void publish(PageNumber pages);
  volatile std::uint32_t* segment(std::uint32_t number);

  Handle& handle_;
  const std::uint32_t page_size_;
  sqlite3_file* database_ = nullptr;
  sqlite3_file* wal_ = nullptr;
  WalIndexHeader header_;
  WalSalts salts_;
  WalChecksum checksum_;
  volatile std::uint32_t* segment_ = nullptr;  // of the wal-index, mapped last
  std::uint32_t segment_number_ = 0;
  std::uint32_t frame_ = 0;  // the last one written
  std::int64_t offset_ = 0;  // of buffer_ in the WAL
  std::string buffer_;
  std::vector<PageNumber> numbers_;
  PageNumber pages_ = 0;      // of the database afterwards
  PageNumber held_back_ = 0;  // the last page: its frame says that the transaction is whole
  std::string held_back_page_;
};

/// The next transaction begins the WAL anew, from its first byte. Only when all of it is in the
/// database file, and that is synced. False while somebody reads the WAL: it stays as it is. Throws
/// Error{corrupt}, Error{system}.
bool begin_wal_anew(WriterGuard& guard);

}  // namespace cluster::sqlite
