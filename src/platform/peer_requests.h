// What the nodes of an app ask each other of its database, at <platform>._.node.<node>.peer.<app>:
// for a page that is wrong where it is asked, and whether a copy could lead. What is asked and what
// is answered is from outside, and believed no further than it can be checked.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/result.h"
#include "sqlite/page_request.h"
#include "sqlite/replicated_database.h"

namespace cluster {

struct PeerRequest {
  enum class Op { page, state };
  Op op = Op::state;
  sqlite::PageRequest page{};  ///< of Op::page
};

std::string text_of(const PeerRequest& request);
/// Error{invalid_argument} for what is none: says what is wrong.
Result<PeerRequest> peer_request_from(const std::string& text);

/// A node's answer to Op::state; to Op::page it answers with bytes of the page.
struct PeerState {
  bool sound = false;  ///< it follows, may lead, and no page of its file is known to be wrong
  std::uint64_t lag_records = 0;  ///< of the stream that it has not applied
};

PeerState peer_state_of(const sqlite::ReplicatedDatabase::Status& status);
std::string text_of(const PeerState& state);
/// Error{incompatible} for what is no such answer.
Result<PeerState> peer_state_from(const std::string& text);

/// Asks a node of that name; answers once.
using AskPeer = std::function<void(const std::string& node, const PeerRequest& request,
                                   Callback<std::string> done)>;

/// Answers with the node whose copy is sound and lacks the least, and no more than `most_lag`
/// records; empty: there is none that says so. `nodes`: other than this one. On the loop.
void find_sound_standby(const AskPeer& ask, const std::vector<std::string>& nodes,
                        std::uint64_t most_lag, std::function<void(const std::string& node)> done);

}  // namespace cluster
