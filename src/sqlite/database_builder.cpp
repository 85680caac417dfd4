#include "sqlite/database_builder.h"

#include <utility>

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include "cluster/error.h"
#include "core/unique_fd.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kWriteSize = 1024 * 1024;
// Bytes after which the disk is told to begin: else the sync at the end waits for all of them.
constexpr std::uint64_t kWriteBehind = 32 * 1024 * 1024;
constexpr int kStepsPerLook = 10'000;  // of SQLite, between looks whether it is to stop

std::string txids_of(const LtxHeader& h) {
  return std::to_string(h.min_txid) + " to " + std::to_string(h.max_txid);
}

// A name as it stands in a URI.
std::string uri_of(const std::string& path) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string uri = "file:";
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '/' || c == '.' || c == '-' || c == '_';
    if (plain)
      uri += c;
    else
      uri += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return uri;
}

}  // namespace

// Writes pages at their places, many at a time while they ascend.
class DatabaseBuilder::Writer {
 public:
  explicit Writer(const std::string& path) : path_(path) {
    file_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file_) throw file_error("creation of", path);
  }

  void put(PageNumber number, std::string_view page) {
    if (number != next_ || buffer_.size() >= kWriteSize) flush();
    if (buffer_.empty()) begin_ = static_cast<std::int64_t>(number - 1) * std::ssize(page);
    buffer_ += page;
    next_ = number + 1;
  }

  void flush() {
    write_all(file_.get(), buffer_, begin_, path_);
    behind_ += buffer_.size();
    buffer_.clear();
    if (behind_ < kWriteBehind) return;
    behind_ = 0;
    ::sync_file_range(file_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);  // advice; the sync tells
  }

  void finish(std::int64_t size) {
    flush();
    if (::ftruncate(file_.get(), size) != 0) throw file_error("write to", path_);
    if (::fsync(file_.get()) != 0) throw file_error("sync of", path_);
  }

 private:
  const std::string path_;
  UniqueFd file_;
  std::string buffer_;
  std::int64_t begin_ = 0;
  PageNumber next_ = 1;
  std::uint64_t behind_ = 0;
};

DatabaseBuilder::DatabaseBuilder(std::string path)
    : path_(std::move(path)), writer_(std::make_unique<Writer>(path_)) {}

DatabaseBuilder::~DatabaseBuilder() {
  if (!kept_) ::unlink(path_.c_str());
}

void DatabaseBuilder::fail(const std::string& what) const {
  throw Error(Errc::corrupt, "restore of " + path_ + ": " + what);
}

void DatabaseBuilder::apply(LtxDecoder& file, const std::function<void(PageNumber)>& page) {
  const LtxHeader& h = file.header();
  const bool first = state_.txid == 0;
  if (first && !h.snapshot())
    throw Error(Errc::invalid_argument,
                "restore of " + path_ + ": it needs a snapshot to begin with, not transactions " +
                    txids_of(h));
  if (!first && (h.min_txid > state_.txid + 1 || h.max_txid <= state_.txid))
    throw Error(Errc::invalid_argument, "restore of " + path_ + ": transactions " + txids_of(h) +
                                            " do not follow " + std::to_string(state_.txid));
  if (!first && h.page_size != state_.page_size)
    fail("a file of transactions " + txids_of(h) + " has pages of " + std::to_string(h.page_size) +
         " bytes, the database of " + std::to_string(state_.page_size));
  if (first) {
    state_.page_size = h.page_size;
    state_.pages = PageHashes(h.page_size);
  }
  PageNumber number = 0;
  std::string_view bytes;
  // A database grows page by page; so no damaged number makes this grow without bound.
  const auto check_no_gap = [&](PageNumber n) {
    const PageNumber next = page_after(state_.pages.size(), h.page_size);
    if (n > next)
      fail("no file has page " + std::to_string(next) + " of " + std::to_string(h.commit));
  };
  while (file.next(number, bytes)) {
    check_no_gap(number);
    writer_->put(number, bytes);
    state_.pages.set(number, bytes);
    if (page) page(number);
  }
  check_no_gap(h.commit == lock_page(h.page_size) ? h.commit : h.commit + 1);
  writer_->flush();
  state_.pages.resize(h.commit);
  state_.txid = h.max_txid;
}

DatabaseState DatabaseBuilder::finish(std::optional<std::uint64_t> hash) {
  if (state_.txid == 0)
    throw Error(Errc::invalid_argument, "restore of " + path_ + ": no file was given");
  const PageNumber pages = state_.pages.size();
  if (hash && *hash != state_.pages.database())
    fail("the result has not the hash that the database had at transaction " +
         std::to_string(state_.txid));
  writer_->finish(static_cast<std::int64_t>(pages) * state_.page_size);
  kept_ = true;
  return std::move(state_);
}

std::optional<std::string> integrity_of(const std::string& path, std::stop_token stop) {
  // As a file that does not change, SQLite makes no WAL beside it.
  sqlite3* db = nullptr;
  const std::string uri = uri_of(path) + "?immutable=1";
  constexpr int kFlags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
  const int opened = sqlite3_open_v2(uri.c_str(), &db, kFlags, nullptr);
  const std::unique_ptr<sqlite3, int (*)(sqlite3*)> closing(db, sqlite3_close_v2);
  if (opened != SQLITE_OK) throw error_of(db, "open " + path, opened);
  sqlite3_progress_handler(
      db, kStepsPerLook,
      [](void* asked) { return static_cast<std::stop_token*>(asked)->stop_requested() ? 1 : 0; },
      &stop);
  std::string found;
  sqlite3_stmt* statement = nullptr;
  const char* pragma = "PRAGMA integrity_check(1)";
  const int prepared = sqlite3_prepare_v2(db, pragma, -1, &statement, nullptr);
  const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> ending(statement, sqlite3_finalize);
  if (prepared != SQLITE_OK) return std::string(sqlite3_errmsg(db));
  if (sqlite3_step(statement) == SQLITE_ROW)
    if (const auto* text = sqlite3_column_text(statement, 0))
      found = reinterpret_cast<const char*>(text);
  if (stop.stop_requested())
    throw Error(Errc::shutting_down, "check of " + path + ": it was stopped");
  if (found == "ok") return std::nullopt;
  return found.empty() ? sqlite3_errmsg(db) : found;
}

}  // namespace cluster::sqlite
