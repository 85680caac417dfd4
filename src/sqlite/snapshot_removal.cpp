#include "sqlite/snapshot_removal.h"

#include "sqlite/snapshot_plan.h"

namespace cluster::sqlite {

StoredFile remove_snapshot(SnapshotStore& store, const std::string& stream, Txid txid, bool force,
                           std::stop_token stop) {
  const auto range = store.stream(stream, stop);
  const auto removal = plan_removal(store.list(stop).files, range, txid, force);
  store.remove(removal.value().name(), stop);
  return removal.value();
}

}  // namespace cluster::sqlite
