// A database as it was at one transaction: what a snapshot is made of.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/result.h"
#include "core/unique_fd.h"
#include "sqlite/capture.h"

namespace cluster::sqlite {

struct DatabaseImage {
  UniqueFd file;            ///< nameless: gone with the last of its descriptors
  DatabaseState state{};    ///< of a transaction that JetStream has
  std::uint64_t epoch = 0;  ///< under which that was committed
  std::uint64_t sequence =
      0;  ///< in the WAL stream: the record that ends with it is there or later
};

/// Asks for an image of the database that this node leads; answers on the loop. Errors: system (the
/// disk is full), not_leader, unavailable, timeout.
using TakeImage = std::function<void(Callback<std::shared_ptr<DatabaseImage>>)>;

}  // namespace cluster::sqlite
