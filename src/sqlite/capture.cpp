#include "sqlite/capture.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "cluster/clock.h"
#include "core/check.h"
#include "core/log.h"

namespace cluster::sqlite {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kBusyMs = 2'000;        // for what takes SQLite's other users moments
constexpr int kHeaderTries = 10'000;  // a writer changes the header within microseconds
constexpr Duration kWriterWait = milliseconds(10);       // for a gap between two writers
constexpr Duration kLongWriterWait = milliseconds(200);  // when the WAL is half again too long
constexpr std::size_t kReadSize = 256 * 1024;
constexpr int kShrinkFactor = 4;  // a WAL file so many times the limit is cut off

std::int64_t now_ms() {
  return std::chrono::duration_cast<milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint64_t inode_of(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

}  // namespace

Capture::Capture(CaptureOptions options, DatabaseState known, bool trusted)
    : options_(std::move(options)), written_(std::move(known)) {
  written_checksum_ = written_.pages.database();
  written_txid_ = written_.txid;
  noted_ = written_.txid;
  open_database();
  if (written_.page_size != page_size_) {
    CLUSTER_CHECK(!trusted || written_.txid == 0);
    written_.page_size = page_size_;
    written_.pages = PageChecksums(page_size_);
  }
  page_buffer_.resize(page_size_);
  std::lock_guard lock(mutex_);
  begin_reading(readers_[holder_]);
  index_ = WalIndex(readers_[holder_]);
  if (trusted)
    scan_run(stable_header());
  else
    compare_all();
  tell();
}

Capture::~Capture() = default;

void Capture::open_database() {
  inode_ = inode_of(options_.path);
  for (auto& reader : readers_) reader = open_beside(options_.path, kBusyMs);
  writer_ = open_beside(options_.path, 0);
  Handle& first = readers_[0];
  std::string mode = first.text("PRAGMA journal_mode");
  if (mode != "wal") {
    // The mode is kept in the file; it can be changed when nobody else is just using it.
    if (first.number("PRAGMA page_count") == 0)
      throw Error(Errc::not_found, "database " + options_.path + " is empty");
    mode = first.text("PRAGMA journal_mode=WAL");
    if (mode != "wal")
      throw Error(Errc::unavailable,
                  "database " + options_.path + " is in journal mode \"" + mode +
                      "\" and can't be switched to WAL, which replication needs: let the program "
                      "run PRAGMA journal_mode=WAL, and no PRAGMA locking_mode=EXCLUSIVE");
    log::info("database_switched_to_wal", {{"path", options_.path}});
  }
  page_size_ = static_cast<std::uint32_t>(first.number("PRAGMA page_size"));
  CLUSTER_CHECK(is_page_size(page_size_));
}

void Capture::begin_reading(Handle& handle) { handle.exec("BEGIN; PRAGMA user_version"); }

// A new read transaction that sees all there is, then the end of the old one, so that there always
// is one. SQLite lets the WAL be begun anew under a read transaction that began when all frames
// were in the database file, and then keeps all later ones out of it. With frames that came after
// position_, they were not all in the file: the old transaction keeps those out. So if the WAL is
// begun anew under the new one, it is at position_.
void Capture::hold_anew() {
  follow_locked();
  const int other = 1 - holder_;
  begin_reading(readers_[other]);
  held_ = position_;
  released_ = false;
  readers_[holder_].exec("ROLLBACK");
  holder_ = other;
  if (is_backfilled(position_.salts, position_.frame)) frames_.clear();
  follow_locked();
}

// Are all frames up to there in the database file? They may be overwritten then, and must not be
// read; nothing newer can be in the file while the read transaction lasts. A WAL that has been
// begun anew since was in it as a whole.
bool Capture::is_backfilled(const WalSalts& salts, std::uint32_t frame) {
  const std::uint32_t backfilled = index_.backfilled();  // of these salts, if they still hold
  return stable_header().salts() != salts || backfilled >= frame;
}

WalIndexHeader Capture::stable_header() {
  for (int i = 0; i < kHeaderTries; ++i) {
    if (auto header = index_.header()) return *header;
    if (i % 16 == 15) std::this_thread::sleep_for(microseconds(10));
  }
  // Whoever was changing it has died over that: SQLite mends it when somebody reads.
  open_beside(options_.path, kBusyMs).exec("PRAGMA user_version");
  if (auto header = index_.header()) return *header;
  throw Error(Errc::unavailable, "database " + options_.path + ": its wal-index does not settle");
}

PageNumber Capture::pages_of(const WalIndexHeader& header) {
  if (header.pages != 0) return header.pages;
  auto* file = readers_[holder_].database_file();
  sqlite3_int64 size = 0;
  if (const int rc = file->pMethods->xFileSize(file, &size); rc != SQLITE_OK)
    throw readers_[holder_].error("its size", rc);
  return static_cast<PageNumber>((size + page_size_ - 1) / page_size_);
}

void Capture::read_wal(std::int64_t offset, char* into, std::size_t size) const {
  while (size > 0) {
    const ssize_t n = ::pread(wal_.get(), into, size, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw Error(n < 0 ? Errc::system : Errc::corrupt,
                  "read of " + options_.path + "-wal at byte " + std::to_string(offset) + ": " +
                      (n < 0 ? std::generic_category().message(errno) : "it ends before that"));
    into += n;
    offset += n;
    size -= static_cast<std::size_t>(n);
  }
}

void Capture::mark(PageNumber number) {
  if (number == lock_page(page_size_)) return;
  if (is_marked_.size() <= number)
    is_marked_.resize(std::max<std::size_t>(std::size_t{number} + 1, is_marked_.size() * 2));
  if (is_marked_[number]) return;
  is_marked_[number] = true;
  marked_.push_back(number);
}

void Capture::clear_marks() {
  for (PageNumber number : marked_) is_marked_[number] = false;
  marked_.clear();
}

void Capture::tell() {
  pending_bytes_ = std::uint64_t{marked_.size()} * page_size_;
  wal_bytes_ = kWalHeaderSize + std::uint64_t{position_.frame} * (kWalFrameHeaderSize + page_size_);
  wants_checkpoint_ = wal_bytes_ > options_.wal_limit && !(released_ && position_.same(held_));
}

bool Capture::follow() {
  std::lock_guard lock(mutex_);
  return follow_locked();
}

bool Capture::follow_locked() {
  const auto header = stable_header();
  if (header.salts() != position_.salts) begin_run(header);
  if (header.salts() == position_.salts && header.max_frame > position_.frame)
    follow_frames(header);
  tell();
  return noted_ != written_txid_;
}

// The WAL was begun anew: at held_, if all is as it should be. It may be so again as long as it has
// no frame.
void Capture::begin_run(const WalIndexHeader& header) {
  if (!position_.same(held_)) {
    ++gaps_;
    log::warn("wal_gap", {{"path", options_.path},
                          {"means",
                           "the WAL was begun anew before all of it was seen; all pages "
                           "are compared, nothing is lost"}});
    return compare_all();
  }
  position_ = held_ = {header.salts(), 0, {}};
  released_ = false;
  frames_.clear();
}

void Capture::follow_frames(const WalIndexHeader& header) {
  const std::size_t frame_size = kWalFrameHeaderSize + page_size_;
  const WalSalts salts = header.salts();
  WalPosition at = position_;
  if (!wal_) wal_ = UniqueFd(::open((options_.path + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
  if (!wal_)
    throw Error(Errc::system,
                "open of " + options_.path + "-wal: " + std::generic_category().message(errno));
  const bool big_endian_words = header.big_endian_words != 0;
  if (at.frame == 0) {
    char bytes[kWalHeaderSize];
    read_wal(0, bytes, sizeof bytes);
    const WalHeader wal = wal_header_from({bytes, sizeof bytes});
    if (wal.salts != salts || wal.page_size != page_size_)
      throw Error(Errc::corrupt, options_.path + "-wal: its header is not that of the wal-index");
    at.checksum = wal.checksum;
  }
  const std::size_t most = std::max<std::size_t>(1, kReadSize / frame_size);
  std::string buffer;
  while (at.frame < header.max_frame) {
    const std::size_t count = std::min<std::size_t>(most, header.max_frame - at.frame);
    buffer.resize(count * frame_size);
    read_wal(wal_frame_offset(at.frame + 1, page_size_), buffer.data(), buffer.size());
    for (std::size_t i = 0; i < count; ++i) {
      const std::string_view bytes = std::string_view(buffer).substr(i * frame_size, frame_size);
      const auto head = bytes.substr(0, kWalFrameHeaderSize);
      const auto frame = wal_frame_header_from(head);
      if (!wal_frame_follows(frame, head, bytes.substr(kWalFrameHeaderSize), salts,
                             big_endian_words, at.checksum))
        throw Error(Errc::corrupt, options_.path + "-wal: frame " + std::to_string(at.frame + 1) +
                                       " of " + std::to_string(header.max_frame) +
                                       " has a wrong checksum: the disk or another program has "
                                       "changed it");
      ++at.frame;
      frames_[frame.page] = at.frame;
      mark(frame.page);
      if (frame.commit == 0) continue;
      commit_ = frame.commit;
      fewest_ = std::min(fewest_, commit_);
      ++noted_;
      position_ = at;
    }
  }
  // What the index counts ends with a transaction.
  if (!(position_ == at) || at.checksum != header.last_checksum())
    throw Error(Errc::corrupt, options_.path + "-wal: frame " + std::to_string(at.frame) +
                                   " does not end a transaction, as the wal-index says it does");
}

// Takes what stands in the WAL as seen, without counting it as changed.
void Capture::scan_run(const WalIndexHeader& header) {
  frames_.clear();
  position_ = {header.salts(), 0, {}};
  commit_ = fewest_ = pages_of(header);
  if (is_backfilled(header.salts(), header.max_frame)) {
    position_ = {header.salts(), header.max_frame, header.last_checksum()};
  } else {
    const Txid noted = noted_;
    follow_frames(header);
    noted_ = noted;
  }
  clear_marks();
  fewest_ = commit_;
  held_ = position_;
  released_ = false;
}

void Capture::compare_all() {
  // With nothing to hold on to, the read transaction is begun anew: what it sees is compared.
  readers_[holder_].exec("ROLLBACK");
  begin_reading(readers_[holder_]);
  scan_run(stable_header());
  for (PageNumber n = 1; n <= commit_; ++n) {
    if (n == lock_page(page_size_)) continue;
    if (page_checksum(n, page(n)) != written_.pages.at(n)) mark(n);
  }
  if (!marked_.empty() || commit_ != written_.pages.size()) ++noted_;
}

// At position_: the newest frame, or the database file, in which nothing newer can be.
std::string_view Capture::page(PageNumber number) {
  if (auto it = frames_.find(number); it != frames_.end()) {
    read_wal(
        wal_frame_offset(it->second, page_size_) + static_cast<std::int64_t>(kWalFrameHeaderSize),
        page_buffer_.data(), page_size_);
    return page_buffer_;
  }
  auto* file = readers_[holder_].database_file();
  const int rc = file->pMethods->xRead(file, page_buffer_.data(), static_cast<int>(page_size_),
                                       sqlite3_int64{number - 1} * page_size_);
  // Behind the end of the file there are zeros, which xRead has put there.
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ)
    throw readers_[holder_].error("read of page " + std::to_string(number), rc);
  return page_buffer_;
}

std::optional<Captured> Capture::write(const ByteSink& sink, int acceleration) {
  std::lock_guard lock(mutex_);
  if (noted_ == written_txid_) return std::nullopt;
  // Pages that the database has got, or got back, without their being written.
  for (PageNumber n = fewest_ + 1; n <= commit_; ++n) mark(n);
  std::sort(marked_.begin(), marked_.end());
  Captured captured;
  auto& header = captured.header;
  header.page_size = page_size_;
  header.commit = commit_;
  header.min_txid = written_.txid + 1;
  header.max_txid = noted_;
  header.timestamp_ms = now_ms();
  if (!header.snapshot()) header.pre_apply = written_checksum_;
  header.node_id = options_.node_id;
  captured.end = position_;
  LtxEncoder encoder(header, sink, acceleration);
  written_.pages.resize(commit_);
  for (PageNumber n : marked_) {
    if (n > commit_) break;  // the database has shrunk since
    const auto content = page(n);
    encoder.add(n, content);
    written_.pages.set(n, content);
  }
  written_.txid = header.max_txid;
  written_checksum_ = written_.pages.database();
  captured.trailer = encoder.finish(written_checksum_);
  captured.pages = encoder.pages();
  captured.size = encoder.size();
  clear_marks();
  fewest_ = commit_;
  written_txid_ = written_.txid;
  tell();
  return captured;
}

DatabaseState Capture::content() {
  std::lock_guard lock(mutex_);
  DatabaseState state{noted_, page_size_, PageChecksums(page_size_)};
  for (PageNumber n = 1; n <= commit_; ++n)
    if (n != lock_page(page_size_)) state.pages.set(n, page(n));
  state.pages.resize(commit_);
  return state;
}

bool Capture::replaced() const { return inode_of(options_.path) != inode_; }

bool Capture::checkpoint() {
  {
    std::lock_guard lock(mutex_);
    follow_locked();
    if (!wants_checkpoint_) return true;
    hold_anew();
  }
  // Stops nobody. Into the database file go pages that page() takes from the WAL, no others.
  const int rc =
      sqlite3_wal_checkpoint_v2(writer_.get(), "main", SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (rc == SQLITE_BUSY) return false;  // another one is at it
  if (rc != SQLITE_OK) throw writer_.error("checkpoint", rc);
  std::lock_guard lock(mutex_);
  return finish_checkpoint();
}

// With writers kept away, for the rest that has come meanwhile.
bool Capture::finish_checkpoint() {
  const Duration wait =
      wal_bytes_ > options_.wal_limit + options_.wal_limit / 2 ? kLongWriterWait : kWriterWait;
  const Time limit = BootClock::now() + wait;
  int rc = SQLITE_BUSY;
  while ((rc = writer_.try_exec("BEGIN IMMEDIATE")) == SQLITE_BUSY && BootClock::now() < limit)
    std::this_thread::sleep_for(microseconds(10));
  if (rc == SQLITE_BUSY) return false;
  if (rc != SQLITE_OK) throw writer_.error("BEGIN IMMEDIATE", rc);
  int frames = 0, done = -1;
  try {
    hold_anew();
    rc = sqlite3_wal_checkpoint_v2(readers_[1 - holder_].get(), "main", SQLITE_CHECKPOINT_PASSIVE,
                                   &frames, &done);
    if (rc == SQLITE_OK && frames == done) {
      hold_anew();
      released_ = true;
    }
  } catch (...) {
    writer_.exec("ROLLBACK");
    throw;
  }
  writer_.exec("ROLLBACK");
  if (rc != SQLITE_OK && rc != SQLITE_BUSY) throw writer_.error("checkpoint", rc);
  struct stat file{};
  if (released_ && wal_ && ::fstat(wal_.get(), &file) == 0 &&
      static_cast<std::uint64_t>(file.st_size) > kShrinkFactor * options_.wal_limit)
    // A writer that was faster is no failure: the file stays long, that is all.
    sqlite3_wal_checkpoint_v2(writer_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  tell();
  return released_;
}

}  // namespace cluster::sqlite
