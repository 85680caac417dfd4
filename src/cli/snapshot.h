// What the records of a platform say, and what its nodes answered: one look, as values. Pure; the
// looking is client.h's.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coord/records.h"

namespace cluster::cli {

struct SeenMember {
  std::string node{};
  coord::Revision revision = 0;
  std::optional<coord::SessionRecord> record{};
  std::string problem{};  ///< why there is no record: it could not be read
};

struct SeenLease {
  std::string app{};
  coord::Revision revision = 0;
  std::optional<coord::LeaseRecord> record{};
  std::string problem{};
};

/// What a node said of itself: its status, a JSON object as text, or why there is none.
struct NodeAnswer {
  std::string status{};
  std::string problem{};
};

struct Snapshot {
  std::string platform{};
  std::string nats_url{};
  std::string nats_server{};
  std::string nats_version{};
  std::string nats_cluster{};
  std::vector<SeenMember> members{};
  std::vector<SeenLease> leases{};
  std::map<std::string, NodeAnswer> answers{};  ///< of the live nodes that were asked
};

SeenMember read_member(const std::string& node, coord::Revision revision, const std::string& json);
SeenLease read_lease(const std::string& app, coord::Revision revision, const std::string& json);

const SeenMember* find_member(const Snapshot& snapshot, const std::string& node);
const SeenLease* find_lease(const Snapshot& snapshot, const std::string& app);

/// Who leads by the records; empty: nobody, since the lease is released or its holder's session has
/// ended (docs/protocols.md, Leases).
std::string leader_of(const Snapshot& snapshot, const SeenLease& lease);

/// For people.
std::string status_text(const Snapshot& snapshot, bool colour);
std::string nodes_text(const Snapshot& snapshot, bool colour);
std::string node_text(const Snapshot& snapshot, const SeenMember& member, bool colour);
/// For programs; one line when `compact`.
std::string status_json(const Snapshot& snapshot, bool compact);
std::string nodes_json(const Snapshot& snapshot, bool compact);
std::string node_json(const Snapshot& snapshot, const SeenMember& member, bool compact);

}  // namespace cluster::cli
