#include "sqlite/snapshot_removal.h"

#include "sqlite/snapshot_plan.h"
#include "sqlite/stored_claims.h"

namespace cluster::sqlite {

StoredFile remove_snapshot(SnapshotStore& store, const std::string& stream, Txid txid, bool force,
                           std::stop_token stop) {
  const auto kept = kept_files(store, stream, stop);
  const auto removal = plan_removal(kept.listing.files, kept.stream, txid, force);
  store.remove(removal.value().name(), stop);
  return removal.value();
}

}  // namespace cluster::sqlite
