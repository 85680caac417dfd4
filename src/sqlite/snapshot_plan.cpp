#include "sqlite/snapshot_plan.h"

#include <algorithm>
#include <tuple>

namespace cluster::sqlite {
namespace {

std::int64_t ms(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

bool within(const StoredFile& file, const RestoreTarget& target) {
  return (!target.txid || file.max <= *target.txid) &&
         (!target.time_ns || file.time_ns <= *target.time_ns);
}

// From `snapshot` on, always the merged file that leads farthest.
Files chain_from(const Files& files, const StoredFile& snapshot, const RestoreTarget& target) {
  Files chain{snapshot};
  while (true) {
    const Txid at = chain.back().max;
    const StoredFile* best = nullptr;
    for (const auto& file : files)
      if (!file.snapshot() && file.min <= at + 1 && file.max > at && within(file, target) &&
          (best == nullptr || file.max > best->max ||
           (file.max == best->max && file.level > best->level)))
        best = &file;
    if (best == nullptr) return chain;
    chain.push_back(*best);
  }
}

// The newest first.
Files snapshots_of(const Files& files) {
  Files snapshots;
  for (const auto& file : files)
    if (file.snapshot()) snapshots.push_back(file);
  std::sort(snapshots.begin(), snapshots.end(),
            [](const auto& a, const auto& b) { return a.max > b.max; });
  return snapshots;
}

bool contains(const StoredFile& outer, const StoredFile& inner) {
  return !outer.snapshot() && outer.level > inner.level && outer.min <= inner.min &&
         outer.max >= inner.max;
}

// Bytes that a newcomer reads behind the snapshot of `chain`.
std::uint64_t replay_bytes(const Files& chain, const StreamRange& stream) {
  std::uint64_t bytes = 0;
  for (std::size_t i = 1; i < chain.size(); ++i) bytes += chain[i].size;
  const std::uint64_t records = stream.last + 1 - stream.first;
  const std::uint64_t behind = stream.last - std::min(chain.back().end.sequence, stream.last);
  if (records > 0)
    bytes += static_cast<std::uint64_t>(static_cast<double>(stream.bytes) *
                                        static_cast<double>(std::min(behind, records)) /
                                        static_cast<double>(records));
  return bytes;
}

}  // namespace

Files files_of(const Files& files, const StreamRange& stream) {
  Files own;
  for (const auto& file : files)
    if (file.end.history == stream.history && file.end.sequence <= stream.last) own.push_back(file);
  return own;
}

std::vector<Files> histories_of(const Files& files, const std::optional<StreamRange>& stream) {
  std::vector<Files> histories;
  std::vector<std::uint64_t> done;
  if (stream) {
    histories.push_back(files_of(files, *stream));
    if (!histories.back().empty()) done.push_back(stream->history);
  }
  while (true) {
    const StoredFile* last = nullptr;
    for (const auto& file : files)
      if (std::find(done.begin(), done.end(), file.end.history) == done.end() &&
          (last == nullptr ||
           std::tie(file.led_ms, file.time_ns) > std::tie(last->led_ms, last->time_ns)))
        last = &file;
    if (last == nullptr) return histories;
    done.push_back(last->end.history);
    Files& own = histories.emplace_back();
    for (const auto& file : files)
      if (file.end.history == last->end.history) own.push_back(file);
  }
}

Files files_meant(const Files& files, const std::optional<StreamRange>& stream) {
  for (auto& history : histories_of(files, stream))
    if (!history.empty()) return history;
  return {};
}

Files plan_restore(const Files& files, const RestoreTarget& target) {
  for (const auto& snapshot : snapshots_of(files))
    if (within(snapshot, target)) return chain_from(files, snapshot, target);
  return {};
}

std::optional<StoredFile> merge_start(const Files& files, const StreamRange& stream,
                                      std::uint64_t beyond) {
  std::optional<StoredFile> start;
  for (const auto& snapshot : snapshots_of(files)) {
    const StoredFile end = chain_from(files, snapshot, {}).back();
    if (end.end.sequence + 1 < stream.first || end.end.sequence <= beyond) continue;
    if (!start || end.max < start->max) start = end;
  }
  return start;
}

std::vector<PlannedMerge> plan_merges(const Files& files, const SnapshotOptions& options) {
  std::vector<PlannedMerge> merges;
  for (int level = 1; level < kHighestMergedLevel; ++level) {
    Files open;  // not in a file of a higher level
    for (const auto& file : files)
      if (file.level == level && std::none_of(files.begin(), files.end(), [&](const auto& other) {
            return contains(other, file);
          }))
        open.push_back(file);
    std::sort(open.begin(), open.end(), [](const auto& a, const auto& b) {
      return a.min != b.min ? a.min < b.min : a.max > b.max;
    });
    PlannedMerge merge{level + 1, {}};
    for (std::size_t i = 0; i < open.size();) {
      // Of those that follow, the one that leads farthest.
      std::size_t best = open.size();
      const Txid at = merge.sources.empty() ? 0 : merge.sources.back().max;
      for (std::size_t j = i; j < open.size() && !merge.sources.empty(); ++j)
        if (open[j].min <= at + 1 && open[j].max > at &&
            (best == open.size() || open[j].max > open[best].max))
          best = j;
      if (best == open.size()) {
        // A gap: what is before it stays as it is.
        merge.sources.clear();
        while (i < open.size() && open[i].max <= at) ++i;
        if (i < open.size()) merge.sources.push_back(open[i++]);
      } else {
        merge.sources.push_back(open[best]);
        while (i < open.size() && open[i].max <= open[best].max) ++i;
      }
      if (std::ssize(merge.sources) == options.merge_count) {
        merges.push_back(merge);
        merge.sources.clear();
      }
    }
  }
  return merges;
}

std::string snapshot_due(const Files& files, const StreamRange& stream, Txid stored,
                         const PlanTime& now, const SnapshotOptions& options) {
  const Files chain = plan_restore(files);
  if (chain.empty()) return "there is none";
  if (chain.back().end.sequence + 1 < stream.first) return "the stream goes on from none";
  const StoredFile& snapshot = chain.front();
  if (stored <= snapshot.max) return {};
  // Each may stand still for long: JetStream's after a server was ahead, the time led at rest.
  if (now.led_ms - snapshot.led_ms >= ms(options.interval) ||
      now.jetstream_ns - snapshot.time_ns >= options.interval.count())
    return "the newest one is old";
  if (replay_bytes(chain, stream) > std::max(options.replay_bytes, 2 * snapshot.size))
    return "much has changed since the newest one";
  return {};
}

Files plan_deletions(const Files& files, std::uint64_t history, std::int64_t led_ms,
                     const SnapshotOptions& options) {
  const std::int64_t limit = led_ms - ms(options.retention);
  Files own, gone;
  for (const auto& file : files)
    if (file.end.history == history) own.push_back(file);
  const Files snapshots = snapshots_of(own);
  const auto least = static_cast<std::size_t>(std::max(options.kept, 1));
  if (snapshots.size() >= least)
    for (const auto& file : files)
      if (file.end.history != history && file.led_ms < limit) gone.push_back(file);
  if (snapshots.empty()) return gone;
  Txid oldest = snapshots.front().max;  // of those that stay
  for (std::size_t i = 0; i < snapshots.size(); ++i) {
    if (i < least || snapshots[i].led_ms >= limit)
      oldest = snapshots[i].max;
    else
      gone.push_back(snapshots[i]);
  }
  for (const auto& file : own) {
    if (file.snapshot()) continue;
    const bool merged =
        file.led_ms < led_ms - ms(options.fine) &&
        std::any_of(own.begin(), own.end(), [&](const auto& o) { return contains(o, file); });
    if (file.max <= oldest || merged) gone.push_back(file);
  }
  return gone;
}

Result<StoredFile> plan_removal(const Files& files, const std::optional<StreamRange>& stream,
                                Txid txid, bool force) {
  const Files snapshots = snapshots_of(files);
  const auto wanted = std::find_if(snapshots.begin(), snapshots.end(),
                                   [&](const auto& file) { return file.max == txid; });
  if (wanted == snapshots.end())
    return Error(Errc::not_found, "there is no snapshot at transaction " + std::to_string(txid) +
                                      ": the list of snapshots tells which there are");
  const Files meant = snapshots_of(files_meant(files, stream));
  if (!force && !meant.empty() && *wanted == meant.front())
    return Error(Errc::invalid_argument,
                 "the snapshot at transaction " + std::to_string(txid) +
                     " is the newest, and nodes that come new may need it: take another first, or "
                     "remove it with --force (in C++: newest = true)");
  return *wanted;
}

std::uint64_t plan_trim(const Files& files, const StreamRange& stream, std::int64_t led_ms,
                        const SnapshotOptions& options, std::uint64_t beyond) {
  const auto start = merge_start(files, stream, beyond);
  if (!start) return stream.first;
  const auto snapshots = snapshots_of(files);
  const bool much = stream.bytes > std::max(options.replay_bytes, 2 * snapshots.front().size);
  const std::int64_t limit = led_ms - ms(much ? options.least_window : options.stream_window);
  std::uint64_t before = stream.first;
  // The record that a file ends with stays: the last one of all must, and foreign messages may
  // stand behind it.
  for (const auto& file : files)
    if (file.end.sequence <= start->end.sequence && file.led_ms < limit)
      before = std::max(before, file.end.sequence);
  return std::min(before, std::max(stream.first, stream.last));
}

}  // namespace cluster::sqlite
