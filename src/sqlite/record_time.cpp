#include "sqlite/record_time.h"

namespace cluster::sqlite {

PlaceSearch::PlaceSearch(Txid txid, std::uint64_t least, const std::vector<StoredFile>& files)
    : txid_(txid), least_(least) {
  Txid max = 0;
  for (const auto& file : files) {
    if (file.max > txid || file.end.sequence < known_.sequence) continue;
    max = std::max(max, file.max);
    known_ = {file.end.sequence, std::max(known_.time_ns, file.time_ns)};
  }
  time_ = EffectiveTime(known_.time_ns);
  found_ = max == txid && known_.sequence >= least;
  place_ = known_;
}

void PlaceSearch::take(std::uint64_t sequence, std::int64_t stored_ns,
                       const std::optional<StreamRecord>& record) {
  if (found_) return;
  const std::int64_t time_ns = time_.at(stored_ns);
  if (!record || sequence < least_ || record->last < txid_) return;
  if (!record->fence && !record->final) return;
  found_ = true;
  place_ = {record->last == txid_ ? sequence : least_, time_ns};
}

void PlaceSearch::take_empty(std::int64_t server_ns) {
  if (found_ || server_ns <= 0) return;
  found_ = true;
  place_ = {least_, time_.at(server_ns)};
}

}  // namespace cluster::sqlite
