#include "sqlite/replica.h"

#include <algorithm>
#include <filesystem>

#include <sqlite3.h>

#include "core/check.h"
#include "sqlite/file.h"
#include "sqlite/left_over.h"
#include "sqlite/restore.h"
#include "sqlite/wal_index.h"
#include "sqlite/wal_transaction.h"

namespace cluster::sqlite {
namespace {

constexpr int kReplicaBusyMs = 10'000;
constexpr int kOpenTries = 3;

}  // namespace

Replica::Replica(std::string path, PositionLog& log, std::size_t wal_limit)
    : path_(std::move(path)), log_(log), wal_limit_(wal_limit) {
  if (std::filesystem::exists(path_) && std::filesystem::file_size(path_) > 0) open();
}

Replica::~Replica() = default;

void Replica::open() {
  // It also switches a database that somebody has put there to WAL mode.
  Capture all({.path = path_}, {}, true);
  open_handles();
  const WalIndex index(handle_);
  for (int tries = 0; tries < kOpenTries; ++tries) {
    const auto before = index.header();
    all.follow();
    state_ = all.content();
    const auto after = index.header();
    if (!before || !after || before->change != after->change) continue;
    changes_ = after->change;
    wal_bytes_ = all.wal_bytes();
    position_ = log_.find(state_.pages.database(), state_.page_size);
    if (!position_) take_left_over(*after);
    if (position_) state_.txid = position_->txid;
    return;
  }
  throw Error(Errc::unavailable,
              "database " + path_ +
                  " is to be a replica, and another process writes to it all the "
                  "time: stop that, or give the replica another path");
}

// What was committed last when this node led, and never noted.
void Replica::take_left_over(const WalIndexHeader& header) {
  const auto& records = log_.records();
  if (records.empty()) return;
  // A record is written again once JetStream has what it speaks of: the last one need not be the
  // newest of its lead.
  PositionRecord record = records.back();
  for (auto it = records.rbegin();
       it != records.rend() && it->leading && it->epoch == records.back().epoch; ++it)
    if (it->txid > record.txid) record = *it;
  const auto found = left_over(handle_, header, record);
  if (!found) return;
  record.txid += found->transactions;
  record.at_least = record.at_least || found->at_least;
  record.sequence = 0;
  record.checksum = state_.pages.database();
  record.salts = header.salts();
  record.frame = header.max_frame;
  stand_at(record);
}

std::optional<DatabaseState> Replica::state_at(Txid since) const {
  const auto& records = log_.records();
  const auto noted = std::find_if(records.rbegin(), records.rend(), [&](const PositionRecord& r) {
    return r.txid == since && r.leading;
  });
  const auto header = WalIndex(handle_).header();
  if (noted == records.rend() || !header || header->change != changes_) return std::nullopt;
  const auto pages = pages_left_over(handle_, *header, *noted);
  if (!pages) return std::nullopt;
  DatabaseState state = state_;
  for (const PageNumber n : *pages)
    if (n <= state.pages.size()) state.pages.set(n, std::uint64_t{0});
  state.txid = since;
  state.checksum = noted->checksum;
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
  CLUSTER_CHECK(!position_ && record.checksum == state_.pages.database());
  stand_at(record);
}

// Of what it holds already.
void Replica::stand_at(const PositionRecord& record) {
  log_.append(record);
  position_ = record;
  state_.txid = record.txid;
}

void Replica::open_handles() {
  handle_ = open_beside(path_, kReplicaBusyMs);
  checkpointer_ = open_beside(path_, kReplicaBusyMs);
  for (auto* handle : {&handle_, &checkpointer_}) handle->exec("PRAGMA user_version");
  inode_ = inode_of(path_);
}

bool Replica::replaced() const { return inode_of(path_) != inode_; }

void Replica::put(const std::string& from, DatabaseState state, const StreamPlace& place) {
  handle_.close();
  checkpointer_.close();
  position_.reset();
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
}

std::string Replica::does_not_follow(const LtxHeader& h) const {
  if (!exists()) return "there is no database to apply it to";
  if (!position_) return "what it holds is at no known transaction";
  if (h.min_txid != state_.txid + 1)
    return "it stands at transaction " + std::to_string(state_.txid) + ", the file begins with " +
           std::to_string(h.min_txid);
  if (h.page_size != state_.page_size)
    return "its page size is " + std::to_string(state_.page_size) + ", the file's " +
           std::to_string(h.page_size);
  if (h.checksums && h.pre_apply != state_.pages.database())
    return "its content is not that which the file was made for";
  return {};
}

std::optional<std::string> Replica::apply(LtxDecoder& file, const StreamPlace& place) {
  const LtxHeader& header = file.header();
  if (!exists() && header.snapshot()) {
    const std::string fresh = path_ + "-restoring";
    std::filesystem::remove(fresh);
    put(fresh, write_database(fresh, {&file}), place);
    return std::nullopt;
  }
  if (auto why = does_not_follow(header); !why.empty()) return why;
  if (replaced()) return "its file " + path_ + " was removed, or another one put in its place";
  std::lock_guard lock(writing_);
  WalTransaction transaction(handle_, state_.page_size);
  if (transaction.changes() != changes_) return "another process has written to it";
  // The checksum of the whole afterwards, before anything is changed.
  std::uint64_t sum = state_.pages.database();
  std::vector<std::pair<PageNumber, std::uint64_t>> changed;
  PageNumber number = 0;
  std::string_view page;
  while (file.next(number, page)) {
    const auto checksum = page_checksum(number, page);
    sum ^= state_.pages.at(number) ^ checksum;
    changed.emplace_back(number, checksum);
    transaction.add(number, page);
  }
  for (PageNumber n = header.commit + 1; n <= state_.pages.size(); ++n) sum ^= state_.pages.at(n);
  sum |= kChecksumFlag;
  if (header.checksums && sum != file.trailer().post_apply)
    return "with the file's pages its content is not what the file says it becomes";
  PositionRecord record{place.epoch, header.max_txid, place.sequence, sum, state_.page_size};
  log_.append(record);
  if (!changed.empty()) {
    transaction.commit(header.commit);
    ++changes_;
    wal_bytes_ += changed.size() * (kWalFrameHeaderSize + state_.page_size);
  }
  state_.txid = header.max_txid;
  state_.pages.resize(header.commit);
  for (const auto& [n, checksum] : changed) state_.pages.set(n, checksum);
  position_ = record;
  CLUSTER_CHECK(state_.pages.database() == sum);
  return std::nullopt;
}

bool Replica::checkpoint() {
  if (!wants_checkpoint()) return true;
  int rc = sqlite3_wal_checkpoint_v2(checkpointer_.get(), "main", SQLITE_CHECKPOINT_PASSIVE,
                                     nullptr, nullptr);
  if (rc == SQLITE_OK) {
    // What has come since is little. Readers are not waited for.
    std::lock_guard lock(writing_);
    wait_for_locks(checkpointer_.get(), 0);
    rc = sqlite3_wal_checkpoint_v2(checkpointer_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr,
                                   nullptr);
    wait_for_locks(checkpointer_.get(), kReplicaBusyMs);
    if (rc == SQLITE_OK) wal_bytes_ = 0;
  }
  if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY) throw checkpointer_.error("checkpoint", rc);
  return rc == SQLITE_OK;
}

std::optional<std::string> Replica::check() {
  if (replaced()) return "its file was removed, or another one put in its place";
  try {
    return compare();
  } catch (const Error& error) {
    if (error.errc() == Errc::corrupt) return error.what();
    throw;
  }
}

std::optional<std::string> Replica::compare() {
  {
    Capture all({.path = path_}, {}, true);
    const DatabaseState now = all.content();
    for (PageNumber n = 1; n <= std::max(now.pages.size(), state_.pages.size()); ++n)
      if (now.pages.at(n) != state_.pages.at(n))
        return "page " + std::to_string(n) + " is not as it was written";
  }
  Handle handle(path_, Handle::Access::read_write);
  const std::string result = handle.text("PRAGMA quick_check(1)");
  return result == "ok" ? std::nullopt : std::optional("PRAGMA quick_check: " + result);
}

}  // namespace cluster::sqlite
