// Verifications of databases that were asked for from outside: each is begun at once and asked
// about until it is over, so that it may take long and show how far it is. On the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "cluster/clock.h"
#include "core/result.h"
#include "sqlite/replicated_database.h"

namespace cluster {

class VerifyRequests {
 public:
  struct Answer {
    std::string id{};
    bool leads = false;
    std::optional<sqlite::Verified> result{};  ///< it is over
    std::uint64_t pages = 0, of = 0;           ///< else: how far it is
    std::uint64_t txid = 0;                    ///< that is looked at; 0: not known yet
  };

  /// Begins one (`id` empty), or tells how that one is doing. `at`: it is begun once the database
  /// has that transaction, and tells what was noted of it (ReplicatedDatabase::verify). Errors:
  /// what failed; app_not_found for an id that is not known (any more); unavailable when there is
  /// no database yet, or it does not come to `at` for long.
  Result<Answer> ask(const std::string& id, sqlite::Txid at, sqlite::ReplicatedDatabase* database);

 private:
  struct Request {
    std::string id{};
    bool leads = false;
    std::shared_ptr<sqlite::VerifyProgress> progress = std::make_shared<sqlite::VerifyProgress>();
    std::optional<Result<sqlite::Verified>> result{};
    sqlite::Txid at = 0;
    bool begun = false;
    Time asked = BootClock::now();
  };
  static void begin_if_there(const std::shared_ptr<Request>& request,
                             sqlite::ReplicatedDatabase& database);

  std::deque<std::shared_ptr<Request>> requests_;  // the newest at the end
};

}  // namespace cluster
