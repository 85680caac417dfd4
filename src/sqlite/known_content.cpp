#include "sqlite/known_content.h"

#include <unordered_map>
#include <vector>

#include "cluster/error.h"
#include "core/log.h"
#include "sqlite/wal_file.h"

namespace cluster::sqlite {
namespace {

/// The hashes that were noted of places in this run of the WAL.
class NotedPlaces {
 public:
  NotedPlaces(const PositionLog& log, const WalIndexHeader& header) {
    for (const auto& record : log.records())
      if (record.end.salts == header.salts() && record.page_size == header.page_size())
        places_[record.end.frame] = &record;  // the newest of each
  }
  /// nullptr when none was noted.
  const PositionRecord* at(const WalPosition& place) const {
    const auto found = places_.find(place.frame);
    return found == places_.end() || found->second->end != place ? nullptr : found->second;
  }

 private:
  std::unordered_map<std::uint32_t, const PositionRecord*> places_;
};

std::optional<PageHashes> loaded(const HashFile& hashes, const std::string& path) {
  try {
    return hashes.load();
  } catch (const Error& error) {
    log::warn(
        "hash_file_unreadable",
        {{"path", path}, {"why", error.what()}, {"means", "the whole database is read instead"}});
    return std::nullopt;
  }
}

/// The hashes of a database's pages, as frame after frame comes.
class Overlay {
 public:
  Overlay(const Handle& handle, HashFile& hashes, PageHashes in_file, std::uint32_t page_size)
      : handle_(handle), hashes_(hashes), pages_(std::move(in_file)), page_(page_size, '\0') {}

  /// `counts`: it is not in the file already.
  void add(const WalFile::Frame& frame, bool counts) {
    const auto hash = newest_[frame.page] = page_hash(frame.page, frame.content);
    if (!counts) return;
    hashes_.touch(frame.page);
    transaction_.emplace_back(frame.page, hash);
    if (frame.commit == 0) return;
    const PageNumber before = pages_.size();
    pages_.change(frame.commit, transaction_);
    transaction_.clear();
    // Pages that the database has got, or got back, without their being written.
    for (PageNumber n = before + 1; n <= frame.commit; ++n) {
      hashes_.touch(n);
      if (n != lock_page(static_cast<std::uint32_t>(page_.size())) && pages_.at(n) == 0)
        pages_.set(n, unwritten(n));
    }
  }
  PageHashes& pages() { return pages_; }

 private:
  std::uint64_t unwritten(PageNumber number) {
    if (const auto it = newest_.find(number); it != newest_.end()) return it->second;
    handle_.read_file(number, page_);
    return page_hash(number, page_);
  }

  const Handle& handle_;
  HashFile& hashes_;
  PageHashes pages_;
  std::unordered_map<PageNumber, std::uint64_t> newest_;  // frame of each page in this run
  std::vector<PageHash> transaction_;
  std::string page_;
};

}  // namespace

std::optional<KnownContent> known_content(const Handle& handle, const WalIndexHeader& header,
                                          HashFile& hashes, const PositionLog& log) {
  const auto& mark = hashes.mark();
  if (!mark || (header.max_frame > 0 && mark->at.page_size != header.page_size()))
    return std::nullopt;
  const bool proven = mark->file.unchanged(FileState::of(handle.path()));
  auto in_file = loaded(hashes, handle.path());
  if (!in_file) return std::nullopt;
  // Where the next mark's hashes were on their way when the node was killed, they add up to neither
  // mark's. The frames that came between have the pages whose hashes those are: so it is right
  // again where that mark would have been, and the newest place that was noted tells.
  bool confirmed = proven && in_file->database() == mark->at.hash;
  bool same_wal = true;
  std::optional<PositionRecord> newest;
  Overlay overlay(handle, hashes, std::move(*in_file), mark->at.page_size);
  const NotedPlaces noted(log, header);
  WalPosition end{header.salts(), 0, {}};
  // The file has all up to there.
  const std::uint32_t filed = mark->at.end.salts == end.salts ? mark->at.end.frame : 0;
  if (filed > header.max_frame) return std::nullopt;
  WalFile wal(handle.path(), mark->at.page_size);
  wal.visit_frames(header, end, [&](const WalFile::Frame& frame) {
    end = frame.end;
    overlay.add(frame, end.frame > filed);
    if (end.frame == filed) same_wal = end == mark->at.end;
    if (frame.commit == 0 || end.frame <= filed) return;
    if (const auto* record = noted.at(end)) {
      confirmed = record->hash == overlay.pages().database();
      newest = *record;
    }
  });
  if (!confirmed || !same_wal) return std::nullopt;
  return KnownContent{std::move(overlay.pages()), end, newest, proven};
}

}  // namespace cluster::sqlite
