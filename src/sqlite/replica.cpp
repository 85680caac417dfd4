#include "sqlite/replica.h"

#include <filesystem>

#include <sqlite3.h>

#include "core/check.h"
#include "sqlite/wal_index.h"
#include "sqlite/wal_transaction.h"

namespace cluster::sqlite {
namespace {

constexpr int kBusyMs = 10'000;
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
  handle_ = open_beside(path_, kBusyMs);
  checkpointer_ = open_beside(path_, kBusyMs);
  handle_.exec("PRAGMA user_version");
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
    if (position_) state_.txid = position_->txid;
    return;
  }
  throw Error(Errc::unavailable,
              "database " + path_ +
                  " is to be a replica, and another process writes to it all the "
                  "time: stop that, or give the replica another path");
}

std::string Replica::does_not_follow(const LtxHeader& h) const {
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
  if (auto why = does_not_follow(header); !why.empty()) return why;
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
  PositionRecord record{place.epoch, header.max_txid, place.sequence, sum, state_.page_size, {}, 0};
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
    sqlite3_busy_timeout(checkpointer_.get(), 0);
    rc = sqlite3_wal_checkpoint_v2(checkpointer_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr,
                                   nullptr);
    sqlite3_busy_timeout(checkpointer_.get(), kBusyMs);
    if (rc == SQLITE_OK) wal_bytes_ = 0;
  }
  if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY) throw checkpointer_.error("checkpoint", rc);
  return rc == SQLITE_OK;
}

std::optional<std::string> Replica::quick_check() {
  Handle handle(path_, Handle::Access::read_write);
  const std::string result = handle.text("PRAGMA quick_check(1)");
  return result == "ok" ? std::nullopt : std::optional(result);
}

}  // namespace cluster::sqlite
