#include "platform/snapshot_requests.h"

#include <algorithm>

#include "core/ids.h"

namespace cluster {
namespace {

constexpr std::size_t kMostRequests = 256;  // that are remembered

}  // namespace

Result<SnapshotAnswer> SnapshotRequests::ask(const std::string& id,
                                             sqlite::ReplicatedDatabase* database) {
  std::shared_ptr<Request> request;
  if (id.empty()) {
    if (database == nullptr)
      return Error(Errc::not_leader, "snapshot: this node does not lead the app's database");
    request = std::make_shared<Request>();
    request->id = random_id();
    requests_.push_back(request);
    if (requests_.size() > kMostRequests) requests_.pop_front();
    database->snapshot([request](Result<sqlite::StoredFile> file) {
      if (!request->result) request->result.emplace(std::move(file));
    });
  } else {
    const auto found = std::find_if(requests_.begin(), requests_.end(),
                                    [&](const auto& known) { return known->id == id; });
    if (found == requests_.end())
      return Error(Errc::app_not_found, "snapshot: this node knows no request " + id);
    request = *found;
  }
  SnapshotAnswer answer{request->id, {}};
  if (request->result && !*request->result) return request->result->error();
  if (request->result) {
    answer.snapshot = snapshot_from(request->result->value());
  } else if (database != nullptr) {
    const auto status = database->status();
    if (status.snapshots && status.snapshots->busy) {
      answer.pages = status.snapshots->done;
      answer.of = status.snapshots->all;
    }
  }
  return answer;
}

}  // namespace cluster
