#include "sqlite/capture.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "core/check.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "sqlite/file.h"
#include "sqlite/shm_lock.h"

namespace cluster::sqlite {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kBusyMs = 2'000;        // for what takes SQLite's other users moments
constexpr int kHeaderTries = 10'000;  // a writer changes the header within microseconds
constexpr Duration kHeaderWait = std::chrono::seconds(2);
constexpr Duration kWriterWait = milliseconds(200);  // for a gap between two writers
constexpr Duration kGateWait = milliseconds(5);      // the next look tries again
constexpr Duration kTurnWait = milliseconds(20);     // for a gap between others' checkpoints
constexpr int kTriesInARow = 100;
constexpr std::size_t kReadAhead = 128 * 1024;
constexpr int kMostRounds = 32;
constexpr std::size_t kPagesPerLook = 64;
constexpr int kShrinkFactor = 4;  // a WAL file so many times the limit is cut off
// A checkpoint that waits for a mark waits on when another one takes it at a later frame. SQLite
// looks again after 1 ms, and then after longer and longer, 100 ms at most. So the mark is left,
// for longer and longer.
constexpr Duration kFirstMarkAge = milliseconds(5);
constexpr Duration kLastMarkAge = milliseconds(160);
// A file whose time was set is read again until nobody writes to it any more.
constexpr int kMostRereads = 100;
constexpr Duration kReread = milliseconds(5);
// So long without an answer of JetStream's, and checkpoints do not wait for it any more.
constexpr Duration kAnswerPatience = std::chrono::seconds(1);

// Others have it again and again, and between two times there may be no more than some
// microseconds: they are met only by asking all the time.
template <typename Fn>
int until_free(Duration wait, Fn&& fn) {
  const Time limit = BootClock::now() + wait;
  int rc = SQLITE_BUSY;
  for (int tries = 1; (rc = fn()) == SQLITE_BUSY && BootClock::now() < limit; ++tries)
    if (tries % kTriesInARow == 0) std::this_thread::sleep_for(microseconds(10));
  return rc;
}

int checkpoint_by(const Handle& handle, int* frames = nullptr, int* done = nullptr) {
  return until_free(kTurnWait, [&] {
    return sqlite3_wal_checkpoint_v2(handle.get(), "main", SQLITE_CHECKPOINT_PASSIVE, frames, done);
  });
}

}  // namespace

class Capture::GateOpener {
 public:
  explicit GateOpener(Capture& capture) : capture_(&capture) {}
  ~GateOpener() {
    if (capture_ != nullptr) capture_->open_gate();
  }
  GateOpener(const GateOpener&) = delete;
  GateOpener& operator=(const GateOpener&) = delete;
  void leave_shut() noexcept { capture_ = nullptr; }

 private:
  Capture* capture_;
};

Capture::Capture(CaptureOptions options, DatabaseState known, bool trusted)
    : options_(std::move(options)), pages_(std::move(known.pages)) {
  before_ = known.hash != 0 ? known.hash : pages_.database();
  written_txid_ = noted_ = acknowledged_ = known.txid;
  open_database();
  if (known.page_size != page_size_ || pages_.size() == 0) {
    CLUSTER_CHECK(!trusted || known.txid == 0);
    pages_ = PageHashes(page_size_);
  }
  page_buffer_.resize(page_size_);
  std::lock_guard lock(mutex_);
  index_ = WalIndex(gate_);
  const auto header = take_first_mark();
  // With nothing known it is for reading only.
  hashing_ = !trusted || pages_.size() > 0;
  for (const PageNumber number : known.ahead) mark(number);
  if (!known.ahead.empty()) noted_ = std::max(noted_ + 1, options_.numbered);
  if (!trusted)
    compare_all();
  else if (known.end)
    begin_at(*known.end);
  else
    scan_run(header);
  tell();
}

// A lock of SQLite's that is not given back stays for as long as this process has the file open.
Capture::~Capture() {
  sealed_ = false;
  open_gate();
}

bool Capture::seal() {
  std::lock_guard lock(mutex_);
  return sealed_ = shut_gate(kGateWait);
}

void Capture::unseal() noexcept {
  std::lock_guard lock(mutex_);
  sealed_ = false;
  // A checkpoint opens it when that has ended.
  if (!checkpointing_) open_gate();
}

void Capture::open_database() {
  inode_ = inode_of(options_.path);
  checkpointer_ = open_beside(options_.path, 0);
  gate_ = open_beside(options_.path, kBusyMs);
  ensure_wal_mode(gate_);
  page_size_ = static_cast<std::uint32_t>(gate_.number("PRAGMA page_size"));
  CLUSTER_CHECK(is_page_size(page_size_));
  wal_ = WalFile(options_.path, page_size_);
  // From here on they have the wal-index. A connection that has read nothing since the mode was
  // changed would take part in nothing: its checkpoints do nothing, and succeed.
  for (auto* handle : {&gate_, &checkpointer_}) handle->exec("PRAGMA user_version");
}

// Lets checkpoints go as far as they may, with a new mark before the old one is dropped. What the
// old one lets into the file SQLite can't take back, so it is kept until JetStream has all up to
// the new one, too; with `to_newest` that is not waited for.
void Capture::renew_marks(bool to_newest) {
  drop_older(to_newest);
  if (older().held.held() || move_to_file() || position_.frame == 0) return;
  const bool moved = !position_.same(newest().at);
  const Time now = BootClock::now();
  if (!moved && now < newest().since + mark_age_) return;
  Mark& next = older();
  // Where the WAL has just been begun anew, the next look finds that.
  if (!next.held.take(gate_, position_.salts, position_.frame, newest().held.mark())) return;
  next.at = {position_.salts, next.held.frame(), {}};
  next.txid = noted_;
  next.since = now;
  next.on_file = false;
  newest_ = 1 - newest_;
  mark_age_ = moved ? kFirstMarkAge : std::min(2 * mark_age_, kLastMarkAge);
  drop_older(to_newest || !moved);
}

void Capture::drop_older(bool to_newest) {
  if (to_newest || newest().txid <= acknowledged_) older().held.drop();
}

// With nothing to hold on to, and so with nothing known of the WAL but what stands there now.
WalIndexHeader Capture::take_first_mark() {
  for (auto& mark : marks_) mark.held.drop();
  Mark& first = newest();
  for (int i = 0; i < kHeaderTries; ++i) {
    const auto header = stable_header();
    const bool empty = header.max_frame == 0;
    if (empty ? !first.held.take_file(gate_)
              : !first.held.take(gate_, header.salts(), header.max_frame, ReadMark::kNone))
      continue;
    if (empty && stable_header() != header) {
      first.held.drop();
      continue;
    }
    first.at = {header.salts(), first.held.frame(), {}};
    first.txid = noted_;
    first.since = BootClock::now();
    first.on_file = empty;
    return header;
  }
  throw Error(Errc::unavailable, "database " + options_.path + ": its WAL does not settle");
}

// Once all of the WAL is in the database file, a mark that was taken before still keeps it from
// being begun anew; one that is taken now reads the file alone, and does not. Nothing more gets
// into the file under it, so if the WAL is begun anew, it is at position_. Returns whether the
// newest mark is such a one.
bool Capture::move_to_file() {
  if (may_begin_anew()) return true;
  const auto all_in_file = [this] {
    const auto header = stable_header();
    return header.salts() == position_.salts && header.max_frame == position_.frame &&
           index_.backfilled() >= header.max_frame;
  };
  Mark& next = older();
  if (next.held.held() || newest().on_file || !all_in_file() || !next.held.take_file(gate_))
    return false;
  if (!all_in_file()) {
    // Something was committed meanwhile.
    next.held.drop();
    return false;
  }
  // Before the WAL may be begun anew the hash file must have what it held.
  note_mark();
  next.at = position_;
  next.txid = noted_;
  next.since = BootClock::now();
  next.on_file = true;
  newest_ = 1 - newest_;
  older().held.drop();
  forget_frames();
  return true;
}

// Checkpoints do not wait for JetStream any more.
bool Capture::runs_ahead() {
  const Txid acknowledged = acknowledged_;
  if (acknowledged >= noted_) {
    behind_since_.reset();
  } else if (!behind_since_ || acknowledged != last_acknowledged_) {
    behind_since_ = BootClock::now();
  }
  last_acknowledged_ = acknowledged;
  return wal_bytes_ > options_.wal_limit / 2 ||
         (behind_since_ && BootClock::now() - *behind_since_ > kAnswerPatience);
}

bool Capture::expects_checkpoint() {
  std::lock_guard lock(mutex_);
  const auto header = index_.header();
  if (!header || header->max_frame == 0) return false;
  const auto backfilled = index_.backfilled();
  if (backfilled < index_.backfill_attempted()) return true;
  return backfilled >= header->max_frame && !may_begin_anew();
}

// All up to position_ is in the database file, and nothing else.
void Capture::note_mark() {
  if (options_.hashes == nullptr || !hashing_) return;
  const auto& last = options_.hashes->mark();
  if (last && last->at.txid == noted_ && last->at.hash == pages_.database()) return;
  PositionRecord at{options_.epoch, noted_, 0, pages_.database(), page_size_, position_};
  at.leading = true;
  try {
    auto file = FileState::of(options_.path);
    if (!file) return forget_mark();
    // Not synced at once: it would seldom be done in time. A power cut may keep an older mark, and
    // an older time of the file.
    file->boot = this_boot();
    options_.hashes->note({options_.history, at, pages_.size(), *file}, pages_);
    unsynced_ = true;
    hashes_failed_.clear();
  } catch (const Error& error) {
    not_noted(error);
  }
}

// The less is left to be written once all is in the file, in the moment between two commits.
void Capture::note_ahead() {
  if (options_.hashes == nullptr || !hashing_ || !options_.hashes->mark()) return;
  try {
    options_.hashes->note_ahead(pages_);
  } catch (const Error& error) {
    not_noted(error);
  }
}

// The file's time tells the next start that it was written to since the mark that is there.
void Capture::not_noted(const Error& error) {
  if (hashes_failed_ != error.what())
    log::warn("hashes_not_noted", {{"path", options_.path},
                                   {"why", error.what()},
                                   {"means", "the next start must read the whole database"}});
  hashes_failed_ = error.what();
}

// What was written between it and now is not all in the WAL.
void Capture::forget_mark() {
  if (options_.hashes == nullptr) return;
  try {
    options_.hashes->forget();
  } catch (const Error& error) {
    not_noted(error);
  }
}

void Capture::leave() {
  std::lock_guard lock(mutex_);
  if (options_.hashes == nullptr || overwritten_) return;
  try {
    if (!options_.hashes->mark()) {
      // Its WAL was never long enough for a checkpoint. No writer is held back for this one.
      renew_marks(true);
      checkpoint_by(checkpointer_);
      catch_up();
      renew_marks(true);
    }
    const auto file = FileState::of(options_.path);
    if (file && options_.hashes->mark()) options_.hashes->note_file(*file);
    options_.hashes->sync();
  } catch (const Error& error) {
    not_noted(error);
  }
}

WalIndexHeader Capture::stable_header() {
  const Time limit = BootClock::now() + kHeaderWait;
  do {
    for (int i = 0; i < kHeaderTries; ++i) {
      if (auto header = index_.header()) return *header;
      if (i % 16 == 15) std::this_thread::sleep_for(microseconds(10));
    }
    // Whoever is changing it has no core now, or has died over that: SQLite waits for the first,
    // and mends what the second has left.
    open_beside(options_.path, kBusyMs).exec("PRAGMA user_version");
  } while (BootClock::now() < limit);
  throw Error(Errc::unavailable, "database " + options_.path + ": its wal-index does not settle");
}

PageNumber Capture::pages_of(const WalIndexHeader& header) {
  if (header.pages != 0) return header.pages;
  auto* file = gate_.database_file();
  sqlite3_int64 size = 0;
  if (const int rc = file->pMethods->xFileSize(file, &size); rc != SQLITE_OK)
    throw gate_.error("its size", rc);
  return static_cast<PageNumber>((size + page_size_ - 1) / page_size_);
}

void Capture::mark(PageNumber number) {
  if (number == lock_page(page_size_)) return;
  if (copying_) copying_->mark(number);
  marked_.add(number);
  if (options_.hashes != nullptr) options_.hashes->touch(number);
}

void Capture::tell() {
  pending_bytes_ = std::uint64_t{marked_.size()} * page_size_;
  wal_bytes_ = wal_length(position_.frame, page_size_);
  wants_checkpoint_ = wal_bytes_ > options_.wal_limit / 2 && !may_begin_anew() && !overwritten_;
}

bool Capture::follow() {
  std::lock_guard lock(mutex_);
  return follow_locked();
}

bool Capture::follow_locked() {
  catch_up();
  if (checkpointing_ && too_long()) shut_gate(kGateWait);
  renew_marks(runs_ahead());
  tell();
  return noted_ != written_txid_;
}

void Capture::catch_up() {
  check_file(false);
  const WalPosition before = position_;
  const auto header = stable_header();
  if (header.salts() != position_.salts) begin_run(header);
  if (header.salts() == position_.salts && header.max_frame > position_.frame)
    follow_frames(header);
  // Who commits on top of another content has read it before.
  check_file(!position_.same(before));
  tell();
}

// `followed`: what is known is of later than the last look. Then it can't be told what was
// committed on top of which content.
void Capture::check_file(bool followed) {
  if (options_.hashes == nullptr || !hashing_) return;
  if (!overwritten_) {
    if (!file_writes_.unexplained(index_, options_.path)) return;
    if (!followed && file_is_as_known()) {
      log::info("database_file_touched",
                {{"path", options_.path},
                 {"means", "somebody has set its time; its content is as it was"}});
      return;
    }
    overwritten_ = true;
    wants_checkpoint_ = false;
    forget_mark();
  }
  throw Error(Errc::corrupt,
              "database " + options_.path +
                  " was written to by somebody who does not use SQLite (cp over it?): what is "
                  "committed to it since is not replicated. Nothing that was replicated before is "
                  "lost");
}

// Until nobody writes to it any more.
bool Capture::file_is_as_known() {
  for (int i = 0; i < kMostRereads; ++i) {
    const bool again = file_writes_.may_hide_more();
    if (!pages_are_as_known()) return false;
    if (!file_writes_.unexplained(index_, options_.path) && !again) return true;
    std::this_thread::sleep_for(kReread);
  }
  return false;
}

// Frames that are not in the file yet are to be written there still, over whatever it has.
bool Capture::pages_are_as_known() {
  for (PageNumber n = 1; n <= commit_; ++n) {
    if (n == lock_page(page_size_)) continue;
    if (const auto it = frames_.find(n);
        it != frames_.end() && it->second > file_writes_.backfilled())
      continue;
    gate_.read_file(n, page_buffer_);
    if (page_hash(n, page_buffer_) != pages_.at(n)) return false;
  }
  return true;
}

// The WAL was begun anew: at the newest mark, if all is as it should be. It may be so again as long
// as it has no frame.
void Capture::begin_run(const WalIndexHeader& header) {
  if (!position_.same(newest().at)) {
    ++gaps_;
    log::warn("wal_gap", {{"path", options_.path},
                          {"means",
                           "the WAL was begun anew before all of it was seen; all pages "
                           "are compared, nothing is lost"}});
    return compare_all();
  }
  position_ = newest().at = {header.salts(), 0, {}};
  forget_frames();
}

void Capture::follow_frames(const WalIndexHeader& header) {
  transaction_.clear();
  wal_.visit_frames(header, position_, [this](const WalFile::Frame& frame) {
    ++worked_;
    frames_[frame.page] = frame.end.frame;
    mark(frame.page);
    if (hashing_) transaction_.emplace_back(frame.page, page_hash(frame.page, frame.content));
    if (frame.commit == 0) return;
    commit_ = frame.commit;
    ++noted_;
    position_ = frame.end;
    if (hashing_) take_transaction();
  });
}

// To position_, where its last frame stands.
void Capture::take_transaction() {
  const PageNumber before = pages_.size();
  pages_.change(commit_, transaction_);
  transaction_.clear();
  // Pages that the database has got, or got back, without their being written.
  for (PageNumber n = before + 1; n <= commit_; ++n) {
    if (n == lock_page(page_size_) || pages_.at(n) != 0) continue;
    pages_.set(n, page_hash(n, page(n)));
    mark(n);
  }
}

// Takes what stands in the WAL as seen, without counting it as changed: pages_ is of that already,
// or is compared with it next.
void Capture::scan_run(const WalIndexHeader& header) {
  forget_frames();
  transaction_.clear();
  position_ = {header.salts(), 0, {}};
  commit_ = pages_of(header);
  // Frames that are in the file may be overwritten. Nothing newer can be in it while the newest
  // mark lasts. A WAL that has been begun anew since was in it as a whole.
  const std::uint32_t backfilled = index_.backfilled();  // of these salts, if they still hold
  if (stable_header().salts() != header.salts() || backfilled >= header.max_frame) {
    position_ = end_of(header);
  } else {
    wal_.visit_frames(header, position_, [this](const WalFile::Frame& frame) {
      frames_[frame.page] = frame.end.frame;
      position_ = frame.end;
    });
  }
}

// All pages are in the database file now, or about to be looked for in the WAL.
void Capture::forget_frames() {
  frames_.clear();
  ++runs_;
}

// pages_ are as they were when the WAL ended there.
void Capture::begin_at(const WalPosition& end) {
  const auto header = stable_header();
  WalIndexHeader then = header;
  then.max_frame = end.frame;
  then.frame_checksum[0] = end.checksum.first;
  then.frame_checksum[1] = end.checksum.second;
  if (header.salts() != end.salts || header.max_frame < end.frame) {
    // Somebody has begun it anew since.
    ++gaps_;
    return compare_all();
  }
  scan_run(then);
  commit_ = pages_.size();
  catch_up();
}

void Capture::compare_all() {
  forget_mark();
  scan_run(take_first_mark());
  const PageNumber size = pages_.size();
  bool changed = commit_ != size;
  pages_.resize(commit_);
  for (PageNumber n = 1; n <= commit_; ++n) {
    if (n == lock_page(page_size_)) continue;
    const auto hash = page_hash(n, page(n));
    if (hash == pages_.at(n)) continue;
    pages_.set(n, hash);
    mark(n);
    changed = true;
  }
  if (copying_) copying_->mark_all(commit_);
  // What was followed and not written yet differs from what was written, too.
  if (changed || (noted_ == written_txid_ && pages_.database() != before_))
    noted_ = std::max(noted_ + 1, options_.numbered);
}

// The page in a frame. A large transaction has most pages in the order of their numbers: then many
// are read at once.
std::string_view Capture::frame(std::uint32_t number) {
  const std::size_t size = kWalFrameHeaderSize + page_size_;
  const bool in_order = number == last_frame_ + 1;
  last_frame_ = number;
  if (number < ahead_first_ || number >= ahead_first_ + ahead_count_ ||
      ahead_salts_ != position_.salts) {
    const std::size_t most = in_order ? std::max<std::size_t>(1, kReadAhead / size) : 1;
    ahead_count_ = 0;  // if reading fails
    const std::size_t count = std::min<std::size_t>(most, position_.frame - number + 1);
    if (ahead_.size() < count * size) ahead_.resize(count * size);
    wal_.read(wal_frame_offset(number, page_size_), ahead_.data(), count * size);
    ahead_first_ = number;
    ahead_count_ = static_cast<std::uint32_t>(count);
    ahead_salts_ = position_.salts;
  }
  return std::string_view(ahead_).substr((number - ahead_first_) * size + kWalFrameHeaderSize,
                                         page_size_);
}

// At position_: the newest frame, or the database file, in which nothing newer can be.
std::string_view Capture::page(PageNumber number) {
  if (auto it = frames_.find(number); it != frames_.end()) return frame(it->second);
  gate_.read_file(number, page_buffer_);
  return page_buffer_;
}

std::optional<Captured> Capture::write(const ByteSink& sink,
                                       const std::function<void(const Captured&)>& begun) {
  std::lock_guard lock(mutex_);
  if (noted_ == written_txid_) return std::nullopt;
  // Writers who were held back meanwhile go on, unless a checkpoint wants them to wait.
  GateOpener gate(*this);
  if (checkpointing_) gate.leave_shut();
  marked_.sort();
  Captured captured;
  auto& header = captured.header;
  header.page_size = page_size_;
  header.commit = commit_;
  header.min_txid = written_txid_ + 1;
  header.max_txid = noted_;
  header.timestamp_ms = wall_ms();
  if (!header.snapshot()) captured.hashes.before = before_;
  header.node_id = options_.node_id;
  captured.end = position_;
  if (begun) begun(captured);
  LtxEncoder encoder(header, sink);
  for (const PageNumber n : marked_.numbers()) {
    if (n > commit_) break;  // the database has shrunk since
    if (encoder.pages() % kPagesPerLook == 0) look_beside_writing();
    const auto content = page(n);
    if (page_hash(n, content) != pages_.at(n))
      throw Error(Errc::corrupt, "database " + options_.path + ": page " + std::to_string(n) +
                                     " is not what was committed: the disk, or a program that goes "
                                     "around SQLite, has changed it");
    encoder.add(n, content);
    ++worked_;
  }
  encoder.finish();
  // What is known of what was written changes only once the file is complete: the sink may fail.
  captured.pages = encoder.pages();
  captured.size = encoder.size();
  captured.hashes.after = before_ = pages_.database();
  marked_.clear();
  written_txid_ = header.max_txid;
  tell();
  complete_copy();
  return captured;
}

void Capture::begin_copy(UniqueFd file) {
  std::lock_guard lock(mutex_);
  copy_.reset();
  copying_.emplace(std::move(file), options_.path, page_size_);
  copying_->mark_all(commit_);
}

void Capture::copy_more(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  copy(std::max<std::size_t>(1, bytes / page_size_));
  if (noted_ == written_txid_) complete_copy();
}

// Never throws: following and writing go on without it.
void Capture::copy(std::size_t pages) {
  if (!copying_) return;
  try {
    copying_->copy(commit_, pages, [this](PageNumber n) { return page(n); });
  } catch (const Error& error) {
    copying_.reset();
    copy_ = error;
  }
}

// The rest at once, while the files written say just what the database is.
void Capture::complete_copy() {
  if (!copying_ || !copying_->nearly_complete()) return;
  copy(copying_->missing());
  if (!copying_) return;
  try {
    copy_ = Copy{copying_->finish(commit_), {written_txid_, page_size_, pages_}};
  } catch (const Error& error) {
    copy_ = error;
  }
  copying_.reset();
}

std::optional<Capture::Copy> Capture::take_copy() {
  std::lock_guard lock(mutex_);
  if (!copy_) return std::nullopt;
  auto copy = std::exchange(copy_, std::nullopt);
  if (!*copy) throw copy->error();
  return std::move(copy->value());
}

DatabaseState Capture::written_state() {
  std::lock_guard lock(mutex_);
  DatabaseState state{written_txid_, page_size_, pages_, before_};
  for (const PageNumber number : marked_.numbers())
    if (number <= state.pages.size()) state.pages.set(number, std::uint64_t{0});
  return state;
}

DatabaseState Capture::content() {
  DatabaseState state{noted_, page_size_, PageHashes(page_size_)};
  state.pages.resize(each_page(
      [&](PageNumber number, std::string_view bytes) { state.pages.set(number, bytes); }));
  return state;
}

PageNumber Capture::each_page(const std::function<void(PageNumber, std::string_view)>& visit) {
  std::lock_guard lock(mutex_);
  for (PageNumber n = 1; n <= commit_; ++n)
    if (n != lock_page(page_size_)) visit(n, page(n));
  return commit_;
}

// As page() finds them: what the run of the WAL does not have is in the file, and nothing newer can
// get there before it was followed.
std::optional<ExpectedPages> Capture::expected(PageNumber first, PageNumber count) {
  std::lock_guard lock(mutex_);
  if (!hashing_) return std::nullopt;
  ExpectedPages pages{runs_, inode_, page_size_, pages_.size(), {}};
  for (PageNumber n = first; n - first < count; ++n)
    pages.hashes.push_back(frames_.contains(n) ? 0 : pages_.at(n));
  return pages;
}

std::optional<std::string> Capture::page_with(PageNumber number, std::uint64_t hash) {
  std::lock_guard lock(mutex_);
  if (!hashing_ || hash == 0 || pages_.at(number) != hash) return std::nullopt;
  return std::string(page(number));
}

bool Capture::replaced() const { return inode_of(options_.path) != inode_; }

// The next writer begins the WAL anew, if nothing else reads it.
bool Capture::may_begin_anew() { return newest().on_file && position_.same(newest().at); }

Capture::Checkpointed Capture::checkpoint() {
  {
    std::lock_guard lock(mutex_);
    follow_locked();
    if (!wants_checkpoint_) return Checkpointed::done;
    checkpointing_ = true;
  }
  Checkpointed result{};
  try {
    result = checkpoint_in_rounds();
  } catch (...) {
    std::lock_guard lock(mutex_);
    checkpointing_ = false;
    open_gate();
    throw;
  }
  std::lock_guard lock(mutex_);
  checkpointing_ = false;
  open_gate();
  if (result == Checkpointed::done) cut_off();
  tell();
  return result;
}

// Each round moves what has come since the one before. Once a round ends between two commits, all
// is in the file.
Capture::Checkpointed Capture::checkpoint_in_rounds() {
  for (int round = 0; round < kMostRounds; ++round) {
    const auto result = move_into_file(round == 0);
    if (result != Checkpointed::some) return result;
    if (too_long()) return finish_checkpoint();
  }
  return Checkpointed::some;
}

Capture::Checkpointed Capture::move_into_file(bool first) {
  WalPosition end;
  {
    std::lock_guard lock(mutex_);
    catch_up();
    renew_marks(true);
    end = newest().at;
    note_ahead();
  }
  int frames = 0, done = -1;
  const int rc = checkpoint_by(checkpointer_, &frames, &done);
  if (rc == SQLITE_BUSY) return Checkpointed::stuck;
  if (rc != SQLITE_OK) throw checkpointer_.error("checkpoint", rc);
  if (frames < 0)
    throw Error(Errc::unavailable, "database " + options_.path + " is not in WAL mode any more");
  if (first) {
    // SQLite syncs the file once all is in it: that should be little then.
    auto* file = checkpointer_.database_file();
    if (const int sync = file->pMethods->xSync(file, SQLITE_SYNC_NORMAL); sync != SQLITE_OK)
      throw checkpointer_.error("sync", sync);
  }
  std::lock_guard lock(mutex_);
  catch_up();
  renew_marks(true);
  if (may_begin_anew()) return Checkpointed::done;
  const bool same_run = end.salts == position_.salts;
  return same_run && done < static_cast<int>(end.frame) ? Checkpointed::stuck : Checkpointed::some;
}

// A writer that is faster than the disk waits for it, as it would if it checkpointed itself.
bool Capture::too_long() const { return wal_bytes_ > most_bytes(); }

std::uint64_t Capture::most_bytes() const { return options_.wal_limit + options_.wal_limit / 2; }

// While a large file is written nothing is followed, no checkpoint begins, and one that is under
// way can't end. But a checkpoint of the program's that has moved all waits for the mark to move.
void Capture::look_beside_writing() {
  move_to_file();
  if (shut_) return;
  if (const auto header = index_.header();
      header && wal_length(header->max_frame, page_size_) > most_bytes())
    shut_gate(kGateWait);
}

// By the lock itself: BEGIN IMMEDIATE takes longer than a busy writer pauses between two
// transactions.
bool Capture::shut_gate(Duration wait) {
  if (shut_) return true;
  const int rc = until_free(wait, [this] {
    return shm_lock(gate_, kWriterLock, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
  });
  if (rc != SQLITE_OK && rc != SQLITE_BUSY) throw gate_.error("writer lock", rc);
  return shut_ = rc == SQLITE_OK;
}

void Capture::open_gate() noexcept {
  if (sealed_) return;
  if (!std::exchange(shut_, false)) return;
  if (const int rc = shm_lock(gate_, kWriterLock, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
      rc != SQLITE_OK)
    log::error("writer_lock_not_given_back", {{"path", options_.path}, {"code", rc}});
}

// With writers kept away.
Capture::Checkpointed Capture::finish_checkpoint() {
  {
    std::lock_guard lock(mutex_);
    if (!shut_gate(kWriterWait)) return Checkpointed::some;
  }
  return move_into_file(false);
}

void Capture::sync_notes() {
  if (unsynced_.exchange(false)) options_.hashes->sync();
}

// A file that has become far longer than it needs to be.
void Capture::cut_off() {
  if (wal_.size() > kShrinkFactor * options_.wal_limit)
    // A writer that was faster is no failure: the file stays long, that is all.
    sqlite3_wal_checkpoint_v2(checkpointer_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr,
                              nullptr);
}

}  // namespace cluster::sqlite
