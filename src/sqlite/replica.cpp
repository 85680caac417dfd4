#include "sqlite/replica.h"

#include <algorithm>
#include <filesystem>

#include <sqlite3.h>

#include "core/check.h"
#include "core/log.h"
#include "sqlite/file.h"
#include "sqlite/known_content.h"
#include "sqlite/left_over.h"
#include "sqlite/restore.h"
#include "sqlite/wal_file.h"
#include "sqlite/wal_index.h"
#include "sqlite/wal_transaction.h"

namespace cluster::sqlite {
namespace {

constexpr int kReplicaBusyMs = 10'000;
constexpr Duration kVerifiedFor = std::chrono::minutes(1);
constexpr const char* kOtherContent =
    "with the file's pages its content is not what the stream says it becomes";

}  // namespace

Replica::Replica(std::string path, PositionLog& log, HashFile& hashes, std::size_t wal_limit)
    : path_(std::move(path)), log_(log), hashes_(hashes), wal_limit_(wal_limit) {
  if (std::filesystem::exists(path_) && std::filesystem::file_size(path_) > 0) open();
}

Replica::~Replica() = default;

void Replica::open() {
  open_handles();
  const auto header = WalIndex(handle_).header();
  if (!header) throw handle_.error("its wal-index", SQLITE_CORRUPT);
  find_content(*header);
  changes_ = header->change;
  wal_bytes_ = wal_length(header->max_frame, state_.page_size);
  if (position_) state_.txid = position_->txid;
}

void Replica::find_content(const WalIndexHeader& header) {
  file_ = FileState::of(path_);
  proven_ = true;
  has_rest_ = false;
  state_.page_size = static_cast<std::uint32_t>(handle_.number("PRAGMA page_size"));
  if (auto content = known_content(handle_, header, hashes_, log_)) {
    state_.pages = std::move(content->pages);
    position_ = position_of(header, hashes_.mark()->at.hash);
    proven_ = content->proven;
    if (!proven_) file_.reset();
    if (!position_ && content->noted && content->noted->leading) {
      position_ = content->noted;
      has_rest_ = true;
    }
  }
  if (position_) return;
  proven_ = true;
  file_ = FileState::of(path_);
  read_content();
  position_ = position_of(header, std::nullopt);
  if (!position_) {
    position_ = noted_before(header);
    has_rest_ = position_.has_value();
  }
  // It is no mark of this file, or is damaged.
  hashes_.forget();
  look_for_mark();
}

// Of the last place in the WAL of which this node has noted something as the leader; nothing when
// there is none, or nothing behind it.
std::optional<PositionRecord> Replica::noted_before(const WalIndexHeader& header) const {
  const auto& records = log_.records();
  for (auto it = records.rbegin(); it != records.rend(); ++it)
    if (it->leading && it->end.frame > 0 && it->end.salts == header.salts() &&
        left_over(handle_, header, *it))
      return *it;
  const auto& mark = hashes_.mark();
  if (mark && mark->history == log_.history() && left_over(handle_, header, mark->at))
    return mark->at;
  return std::nullopt;
}

void Replica::read_content() {
  read_in_full_ = true;
  Capture all({.path = path_}, {}, true);
  all.follow();
  state_ = all.content();
}

// Of the content as it was found, by the place in the WAL where it ends, else by its hash.
std::optional<PositionRecord> Replica::position_of(const WalIndexHeader& header,
                                                   std::optional<std::uint64_t> in_file) {
  const std::uint64_t hash = state_.pages.database();
  if (auto noted = log_.find(hash, state_.page_size, end_of(header))) return noted;
  const auto& mark = hashes_.mark();
  if (mark && mark->history == log_.history() && mark->at.hash == hash &&
      mark->at.page_size == state_.page_size)
    return mark->at;
  return left_over_position(header, in_file);
}

// What was committed last when this node led, and never noted.
std::optional<PositionRecord> Replica::left_over_position(const WalIndexHeader& header,
                                                          std::optional<std::uint64_t> in_file) {
  const auto& records = log_.records();
  if (records.empty()) return std::nullopt;
  // A record is written again once JetStream has what it speaks of: the last one need not be the
  // newest of its lead.
  PositionRecord record = records.back();
  for (auto it = records.rbegin();
       it != records.rend() && it->leading && it->epoch == records.back().epoch; ++it)
    if (it->txid > record.txid) record = *it;
  const auto found = left_over(handle_, header, record, in_file);
  if (!found) return std::nullopt;
  record.txid += found->transactions;
  record.at_least = record.at_least || found->at_least;
  record.sequence = 0;
  record.hash = state_.pages.database();
  record.end = end_of(header);
  log_.append(record);
  return record;
}

bool Replica::take_rest() {
  CLUSTER_CHECK(has_rest_ && position_);
  std::lock_guard lock(writing_);
  const auto header = WalIndex(handle_).header();
  if (!header || header->change != changes_) return false;
  const auto found = left_over(handle_, *header, *position_);
  if (!found) return false;
  PositionRecord record = *position_;
  record.txid += found->transactions;
  record.at_least = record.at_least || found->at_least;
  record.sequence = 0;
  record.hash = state_.pages.database();
  record.end = end_of(*header);
  log_.append(record);
  position_ = record;
  state_.txid = record.txid;
  has_rest_ = false;
  return true;
}

std::optional<DatabaseState> Replica::state_at(Txid since) const {
  const auto& records = log_.records();
  const auto noted = std::find_if(records.rbegin(), records.rend(), [&](const PositionRecord& r) {
    return r.txid == since && r.leading;
  });
  const auto header = WalIndex(handle_).header();
  if (noted == records.rend() || !header || header->change != changes_) return std::nullopt;
  const auto& mark = hashes_.mark();
  auto pages = pages_left_over(handle_, *header, *noted,
                               mark && untouched() ? std::optional(mark->at.hash) : std::nullopt);
  if (!pages) return std::nullopt;
  DatabaseState state = state_;
  state.txid = since;
  state.hash = noted->hash;
  state.ahead = std::move(*pages);
  return state;
}

void Replica::claim(std::uint64_t epoch) {
  CLUSTER_CHECK(position_.has_value());
  PositionRecord record = *position_;
  record.epoch = epoch;
  record.sequence = 0;
  stand_at(record);
}

void Replica::recognised(const PositionRecord& record) {
  CLUSTER_CHECK(!position_ && record.hash == state_.pages.database());
  stand_at(record);
}

// Of what it holds already.
void Replica::stand_at(const PositionRecord& record) {
  std::lock_guard lock(writing_);
  log_.append(record);
  position_ = record;
  state_.txid = record.txid;
  look_for_mark();
}

// What the stream may not have stays in the WAL: it tells from where on that is.
void Replica::look_for_mark() {
  unmarked_ = position_ && position_->sequence != 0 && !hashes_.mark();
}

void Replica::open_handles() {
  handle_ = open_beside(path_, kReplicaBusyMs);
  // Somebody may have put one there that is in another mode.
  ensure_wal_mode(handle_);
  checkpointer_ = open_beside(path_, kReplicaBusyMs);
  for (auto* handle : {&handle_, &checkpointer_}) handle->exec("PRAGMA user_version");
  guard_ = WriterGuard(path_, kReplicaBusyMs);
  inode_ = inode_of(path_);
}

bool Replica::replaced() const { return inode_of(path_) != inode_; }

void Replica::put(const std::string& from, DatabaseState state, const StreamPlace& place) {
  guard_.release();
  handle_.close();
  checkpointer_.close();
  position_.reset();
  hashes_.forget();
  const PositionRecord record{place.epoch, state.txid, place.sequence, state.pages.database(),
                              state.page_size};
  log_.append(record);
  take_access(from, path_);
  replace_database(from, path_);
  open_handles();
  const auto header = WalIndex(handle_).header();
  if (!header) throw Error(Errc::unavailable, "database " + path_ + ": somebody is writing to it");
  changes_ = header->change;
  wal_bytes_ = 0;
  state_ = std::move(state);
  position_ = record;
  proven_ = true;
  has_rest_ = false;
  note_mark();
}

// The database file has all that there is, and is synced.
void Replica::note_mark() {
  const auto file = FileState::of(path_);
  if (!file || !position_) return;
  if (proven_) file_ = file;
  unmarked_ = true;
  ++generation_;
  // No file is as an empty state says: such a mark vouches for none.
  hashes_.note({log_.history(), *position_, state_.pages.size(), file_.value_or(FileState{})},
               state_.pages);
  hashes_.sync();
  unmarked_ = false;
}

bool Replica::prove(const FileState& file) {
  std::lock_guard lock(writing_);
  if (FileState::of(path_) != file) return false;
  file_ = file;
  if (hashes_.mark()) {
    hashes_.note_file(file);
    hashes_.sync();
  }
  proven_ = true;
  return true;
}

std::string Replica::does_not_follow(const LtxHeader& h, std::uint64_t before) const {
  if (!exists()) return "there is no database to apply it to";
  if (!position_) return "what it holds is at no known transaction";
  if (h.min_txid != state_.txid + 1)
    return "it stands at transaction " + std::to_string(state_.txid) + ", the file begins with " +
           std::to_string(h.min_txid);
  if (h.page_size != state_.page_size)
    return "its page size is " + std::to_string(state_.page_size) + ", the file's " +
           std::to_string(h.page_size);
  if (before != (has_rest_ ? position_->hash : state_.pages.database()))
    return "its content is not that which the file was made for";
  return {};
}

std::optional<std::string> Replica::apply(LtxDecoder& file, const StreamPlace& place,
                                          const Hashes& expected) {
  const LtxHeader& header = file.header();
  if (!exists() && header.snapshot()) {
    const std::string fresh = path_ + "-restoring";
    std::filesystem::remove(fresh);
    auto state = write_database(fresh, {&file});
    if (state.pages.database() != expected.after) {
      std::filesystem::remove(fresh);
      return kOtherContent;
    }
    put(fresh, std::move(state), place);
    return std::nullopt;
  }
  if (auto why = does_not_follow(header, expected.before); !why.empty()) return why;
  if (replaced()) return "its file " + path_ + " was removed, or another one put in its place";
  std::lock_guard lock(writing_);
  WalTransaction transaction(guard_, state_.page_size);
  if (transaction.changes() != changes_) return "another process has written to it";
  std::vector<PageHash> changed;
  PageNumber number = 0;
  std::string_view page;
  while (file.next(number, page)) {
    changed.emplace_back(number, page_hash(number, page));
    transaction.add(number, page);
  }
  // Before anything is changed.
  if (state_.pages.database_after(header.commit, changed) != expected.after) return kOtherContent;
  PositionRecord record{place.epoch, header.max_txid, place.sequence, expected.after,
                        state_.page_size};
  record.end = changed.empty() ? position_->end : transaction.finish(header.commit);
  log_.append(record);
  if (!changed.empty()) {
    transaction.commit();
    ++changes_;
    wal_bytes_ = wal_length(record.end.frame, state_.page_size);
  }
  state_.txid = header.max_txid;
  // Among them are all that are new: without one the hash of the whole were another.
  for (const auto& [page_number, hash] : changed) hashes_.touch(page_number);
  state_.pages.change(header.commit, changed);
  position_ = record;
  has_rest_ = false;
  look_for_mark();
  return std::nullopt;
}

bool Replica::checkpoint() { return !wants_checkpoint() || settle(); }

// What somebody else has done to the file must not be taken for this node's own.
void Replica::look_for_others() {
  std::lock_guard lock(writing_);
  if (!proven_ || FileState::of(path_) == file_) return;
  proven_ = false;
  file_.reset();
}

bool Replica::settle() {
  look_for_others();
  const WriterGuard::CheckpointTurn turn(guard_);
  Checkpointed moved = checkpoint_by_sqlite();
  std::lock_guard lock(writing_);
  // What has come since is little. Readers are not waited for.
  if (moved.code == SQLITE_OK) moved = checkpoint_by_sqlite();
  if (!moved.complete) {
    note_part();
    if (moved.code != SQLITE_OK && (moved.code & 0xff) != SQLITE_BUSY)
      throw checkpointer_.error("checkpoint", moved.code);
    return false;
  }
  // Before the WAL may be begun anew: what it holds is in the mark then.
  note_mark();
  if (!begin_wal_anew(guard_)) return false;
  wal_bytes_ = 0;
  return true;
}

// Of what the WAL has the file may have got a part: a reader stands on an older state, say.
void Replica::note_part() {
  if (!proven_) return;
  file_ = FileState::of(path_);
  if (!file_ || !hashes_.mark()) return;
  hashes_.note_file(*file_);
  hashes_.sync();
}

Replica::Checkpointed Replica::checkpoint_by_sqlite() {
  int frames = -1, done = -1;
  const int rc = sqlite3_wal_checkpoint_v2(checkpointer_.get(), "main", SQLITE_CHECKPOINT_PASSIVE,
                                           &frames, &done);
  return {rc, rc == SQLITE_OK && frames == done};
}

std::optional<std::string> Replica::check() {
  if (replaced()) return "its file was removed, or another one put in its place";
  try {
    if (!untouched()) return compare();
    verify_wal();
    return std::nullopt;
  } catch (const Error& error) {
    if (error.errc() == Errc::corrupt) return error.what();
    throw;
  }
}

std::optional<WalPosition> Replica::end() const {
  const auto header = WalIndex(handle_).header();
  if (!header || header->change != changes_) return std::nullopt;
  return end_of(*header);
}

// Between two checkpoints the pages that have been written since the mark are those in the WAL.
std::optional<ExpectedPages> Replica::expected(PageNumber first, PageNumber count) const {
  std::lock_guard lock(writing_);
  const auto& mark = hashes_.mark();
  if (!exists() || !position_ || !proven_ || has_rest_ || !mark ||
      mark->at.page_size != state_.page_size)
    return std::nullopt;
  ExpectedPages pages{generation_, inode_, state_.page_size, state_.pages.size(), {}};
  for (PageNumber n = first; n - first < count; ++n)
    pages.hashes.push_back(hashes_.touched(n) ? 0 : state_.pages.at(n));
  return pages;
}

bool Replica::repair(PageNumber number, std::string_view page) {
  std::lock_guard lock(writing_);
  if (!exists() || !position_ || has_rest_ || replaced() || page.size() != state_.page_size ||
      hashes_.touched(number) || state_.pages.at(number) == 0 ||
      page_hash(number, page) != state_.pages.at(number))
    return false;
  WalTransaction transaction(guard_, state_.page_size);
  if (transaction.changes() != changes_)
    throw Error(Errc::unavailable, "database " + path_ + ": another process has written to it");
  transaction.add(number, page);
  PositionRecord record = *position_;
  record.end = transaction.finish(state_.pages.size());
  log_.append(record);
  transaction.commit();
  ++changes_;
  wal_bytes_ = wal_length(record.end.frame, state_.page_size);
  hashes_.touch(number);
  position_ = record;
  return true;
}

// Nobody else has written to it, neither by SQLite's means nor to the file.
bool Replica::untouched() const {
  const auto header = WalIndex(handle_).header();
  return header && header->change == changes_ && file_ && FileState::of(path_) == file_;
}

std::optional<std::string> Replica::check_frames() {
  if (!exists()) return std::nullopt;
  if (replaced()) return "its file was removed, or another one put in its place";
  look_for_others();
  try {
    verify_wal();
    return std::nullopt;
  } catch (const Error& error) {
    if (error.errc() == Errc::corrupt) return error.what();
    throw;
  }
}

// Its frames as they were written. Throws Error{corrupt}.
void Replica::verify_wal() {
  const auto header = WalIndex(handle_).header();
  if (!header) return;
  const Time now = BootClock::now();
  const bool known = verified_ && verified_->salts == header->salts() &&
                     verified_->frame <= header->max_frame && now < verified_since_ + kVerifiedFor;
  if (!known) verified_since_ = now;
  const WalPosition from = known ? *verified_ : WalPosition{header->salts(), 0, {}};
  verified_.reset();
  WalFile(path_, state_.page_size).visit_frames(*header, from, [](const WalFile::Frame&) {});
  verified_ = end_of(*header);
}

std::optional<std::string> Replica::compare() {
  log::info("database_compared",
            {{"path", path_},
             {"means", "somebody else has written to its file: all of its pages are read"}});
  Capture all({.path = path_}, {}, true);
  const DatabaseState now = all.content();
  for (PageNumber n = 1; n <= std::max(now.pages.size(), state_.pages.size()); ++n)
    if (now.pages.at(n) != state_.pages.at(n))
      return "page " + std::to_string(n) + " is not as it was written";
  return std::nullopt;
}

}  // namespace cluster::sqlite
