#include "platform/verify_requests.h"

#include <algorithm>

#include "core/ids.h"

namespace cluster {
namespace {

constexpr std::size_t kMostVerifyRequests = 64;           // that are remembered
constexpr Duration kPatience = std::chrono::seconds(30);  // with a copy that is behind

}  // namespace

// While somebody asks about it.
void VerifyRequests::begin_if_there(const std::shared_ptr<Request>& request,
                                    sqlite::ReplicatedDatabase& database) {
  const auto status = database.status();
  if (status.txid < request->at) {
    if (BootClock::now() - request->asked < kPatience) return;
    request->begun = true;
    request->result.emplace(
        Error(Errc::unavailable, "verify: database " + status.path + " stands at transaction " +
                                     std::to_string(status.txid) + " for long, and is behind " +
                                     std::to_string(request->at)));
    return;
  }
  request->begun = true;
  request->leads = status.role == sqlite::ReplicatedDatabase::Role::primary;
  database.verify(request->progress, request->at, [request](Result<sqlite::Verified> result) {
    if (!request->result) request->result.emplace(std::move(result));
  });
}

Result<VerifyRequests::Answer> VerifyRequests::ask(const std::string& id, sqlite::Txid at,
                                                   sqlite::ReplicatedDatabase* database) {
  std::shared_ptr<Request> request;
  if (id.empty()) {
    if (database == nullptr)
      return Error(Errc::unavailable,
                   "verify: this node has no database of the app before it has "
                   "a session");
    request = std::make_shared<Request>();
    request->id = random_id();
    request->at = at;
    requests_.push_back(request);
    if (requests_.size() > kMostVerifyRequests) requests_.pop_front();
  } else {
    const auto found = std::find_if(requests_.begin(), requests_.end(),
                                    [&](const auto& known) { return known->id == id; });
    if (found == requests_.end())
      return Error(Errc::app_not_found, "verify: this node knows no request " + id);
    request = *found;
  }
  if (!request->begun && database != nullptr) begin_if_there(request, *database);
  if (request->result && !*request->result) return request->result->error();
  Answer answer{request->id,
                request->leads,
                {},
                request->progress->done,
                request->progress->all,
                request->progress->txid};
  if (request->result) answer.result = request->result->value();
  return answer;
}

}  // namespace cluster
