// What a node is asked about the lead of an app before that is handed over, while it is, and
// afterwards, and what it answers. For nodes and commands alike.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/result.h"

namespace cluster {

struct LeadQuery {
  std::string app{};
  /// The database is checked as a promotion would check it, when the node is ready otherwise.
  bool check = false;
  std::uint64_t sequence = 0;  ///< of the WAL stream, that its database is to have; 0: any
};

/// How far a hand-over is, on the node that leads.
struct HandOverProgress {
  std::string stage{};                        ///< for people: "sending what was committed"
  std::string next{};                         ///< who is to lead; empty: not known yet
  bool stopped = false;                       ///< the program has been stopped, or is being
  std::uint64_t transactions = 0, bytes = 0;  ///< of the database, that are to be sent
};

/// What a node says of itself and the lead of an app.
struct LeadState {
  std::string phase{};      ///< of the app there: standby, cooldown, promoting, active, demoting
  std::uint64_t epoch = 0;  ///< of the node's own lead, or its last one
  bool ready = false;  ///< it would lead without delay; with a check: and that has found nothing
  std::string why{};   ///< else: why not
  bool has = false;    ///< its database has what was asked for
  std::uint64_t sequence = 0;  ///< that it has
  std::string last_error{};    ///< of the app there; empty: none since it was active
  std::optional<HandOverProgress> hand_over{};
};

std::string to_text(const LeadQuery& query);
/// Error{invalid_argument}: says what is wrong.
Result<LeadQuery> lead_query_from(const std::string& text);
std::string to_text(const std::string& app, const LeadState& state);
/// Error{incompatible} for what is no answer.
Result<LeadState> lead_state_from(const std::string& text);

}  // namespace cluster
